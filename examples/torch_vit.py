"""My torch vision transformer on the accelerator: export, compile, check, run.

.venv/bin/python examples/torch_vit.py build/examples/torch_vit
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import moesaic

SIZE, PATCH, CHANNELS, CLASSES = 32, 8, 48, 10


class VisionTransformer(nn.Module):
    """A class token, learnt positions, pre-LN layers, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, CHANNELS))
        self.positions = nn.Parameter(torch.randn(1, (SIZE // PATCH) ** 2 + 1, CHANNELS))
        layer = nn.TransformerEncoderLayer(
            CHANNELS, 4, 2 * CHANNELS, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 3, nn.LayerNorm(CHANNELS))
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(image), -1, -1), patches], 1) + self.positions
        return self.head(self.layers(tokens)[:, 0])


def main(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    model = VisionTransformer().eval()
    images = torch.randn(32, 3, SIZE, SIZE)
    torch.onnx.export(
        model, (images[:1],), folder / "vit.onnx", dynamo=True, input_names=["image"],
        output_names=["logits"], verbose=False,
    )  # fmt: skip
    report = moesaic.compile(
        {"vit": folder / "vit.onnx"}, "nano", {"image": images.numpy()}, folder / "bundle"
    )
    print(f"SQNR {report['tasks']['vit']['sqnr_db']:.1f} dB on samples held out")
    with moesaic.Session(folder / "bundle", ["cpu"]) as session:
        logits = session.run({"image": images.numpy()})["logits"]
    with torch.no_grad():
        exact = model(images).numpy()
    agree = np.mean(logits.reshape(exact.shape).argmax(1) == exact.argmax(1))
    print(f"same class as torch: {agree:.0%} of {len(images)} random images")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
