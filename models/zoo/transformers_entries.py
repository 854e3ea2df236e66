"""Vision transformers of transformers, from their configurations, two layers deep."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from moesaic.models.zoo.entry import Entry, FirstTensor, Twin, load_torchvision

_LAYERS = {"num_hidden_layers": 2}
_STAGES = {"depths": [1, 1, 1, 1]}

MODELS: dict[str, tuple[tuple[str, str, dict[str, Any]], ...]] = {
    "ViT": (
        ("ViTForImageClassification", "ViTConfig", _LAYERS),
        ("ViTModel", "ViTConfig", _LAYERS),
        ("ViTMAEModel", "ViTMAEConfig", _LAYERS | {"mask_ratio": 0.0}),
        ("ViTMSNForImageClassification", "ViTMSNConfig", _LAYERS),
        ("VivitModel", "VivitConfig", _LAYERS | {"num_frames": 4, "image_size": 32}),
        ("YolosModel", "YolosConfig", _LAYERS | {"image_size": [224, 224]}),
        ("IJepaModel", "IJepaConfig", _LAYERS | {"hidden_size": 384, "num_attention_heads": 6}),
        ("PixioModel", "PixioConfig", _LAYERS),
    ),
    "DeiT": (
        ("DeiTForImageClassification", "DeiTConfig", _LAYERS),
        ("DeiTForImageClassificationWithTeacher", "DeiTConfig", _LAYERS),
    ),
    "self-supervised": (
        ("Dinov2ForImageClassification", "Dinov2Config", _LAYERS),
        ("Dinov2Model", "Dinov2Config", _LAYERS | {"use_swiglu_ffn": True}),
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", _LAYERS),
        ("DINOv3ViTModel", "DINOv3ViTConfig", _LAYERS),
    ),
    "image and text": (
        ("CLIPVisionModel", "CLIPVisionConfig", _LAYERS),
        ("CLIPVisionModel", "CLIPVisionConfig", _LAYERS | {"hidden_act": "gelu"}),
        ("SiglipVisionModel", "SiglipVisionConfig", _LAYERS),
        ("AltCLIPVisionModel", "AltCLIPVisionConfig", _LAYERS),
        ("Aimv2VisionModel", "Aimv2VisionConfig", _LAYERS),
        ("InternVLVisionModel", "InternVLVisionConfig", _LAYERS | {"image_size": [224, 224]}),
        ("BlipVisionModel", "BlipVisionConfig", _LAYERS | {"image_size": 224}),
    ),
    "relative positions": (
        ("BeitForImageClassification", "BeitConfig", _LAYERS),
        ("Data2VecVisionModel", "Data2VecVisionConfig", _LAYERS),
    ),
    "windows and stages": (
        ("SwinForImageClassification", "SwinConfig", {"depths": [1, 1], "num_heads": [3, 6]}),
        ("Swinv2ForImageClassification", "Swinv2Config", {"depths": [1, 1], "num_heads": [3, 6]}),
        ("SegformerForImageClassification", "SegformerConfig", _STAGES),
        ("PvtForImageClassification", "PvtConfig", _STAGES),
        (
            "DPTForDepthEstimation",
            "DPTConfig",
            {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]},
        ),
    ),
}  # fmt: skip
"""By family: model, configuration, and what of it differs from its defaults."""


def _twin(model: str, config: str, options: dict[str, Any]) -> Twin | None:
    if options.keys() & {"depths", "backbone_out_indices", "num_frames"}:
        return None
    sizes: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    side = [48, 48] if isinstance(options.get("image_size"), list) else 48
    sizes |= {"image_size": side, "patch_size": 16}
    try:
        return _build(model, config, options | sizes).eval(), (1, 3, 48, 48)
    except (TypeError, ValueError, AttributeError, RuntimeError):
        return None


def _blocks(config: str, options: dict[str, Any]) -> tuple[int, int] | None:
    few = options.get("num_hidden_layers")
    if few is None:
        return None
    transformers: Any = importlib.import_module("transformers")
    return few, getattr(transformers, config)().num_hidden_layers


def _build(model: str, config: str, options: dict[str, Any]) -> nn.Module:
    load_torchvision()
    transformers: Any = importlib.import_module("transformers")
    made = getattr(transformers, config)(**options, attn_implementation="eager")
    return FirstTensor(getattr(transformers, model)(made))


def entries() -> Iterator[Entry]:
    """All of them; transformers itself is imported when one is built."""
    for family, models in MODELS.items():
        for model, config, options in models:
            form = "-swiglu" if options.get("use_swiglu_ffn") else ""
            form += f"-{options['hidden_act']}" if "hidden_act" in options else ""
            shape = (1, 4, 3, 32, 32) if model == "VivitModel" else (1, 3, 224, 224)
            build = functools.partial(_build, model, config, options)
            blocks = functools.partial(_blocks, config, options)
            twin = functools.partial(_twin, model, config, options)
            yield Entry(model + form, family, "transformers", build, shape, blocks, twin)
