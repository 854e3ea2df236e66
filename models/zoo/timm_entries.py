"""Vision transformers of timm, by family. Models of two layers where timm lets one say so."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from moesaic.models.zoo.entry import Entry, FirstTensor, Twin, load_torchvision

FAMILIES: dict[str, tuple[str, ...]] = {
    "ViT": (
        "vit_tiny_patch16_224", "vit_small_patch16_224", "vit_small_patch32_224",
        "vit_base_patch16_224", "vit_base_patch32_224", "vit_base_patch8_224",
        "vit_base_patch16_reg4_gap_256",
        "vit_little_patch16_reg4_gap_256", "vit_medium_patch16_gap_256",
        "vit_mediumd_patch16_reg4_gap_256", "vit_betwixt_patch16_reg4_gap_256",
        "vit_wee_patch16_reg1_gap_256", "vit_pwee_patch16_reg1_gap_256",
        "vit_small_patch16_36x1_224", "vit_small_patch16_18x2_224", "vit_base_patch16_18x2_224",
        "vit_base_patch16_224_miil", "vit_base_patch16_plus_240",
        "vit_base_patch16_rope_reg1_gap_256",
        "vit_so150m_patch16_reg4_gap_256", "vit_so150m_patch16_reg4_map_256",
        "vit_base_patch16_xp_224", "vit_large_patch16_224", "vit_large_patch14_224",
        "test_vit", "test_vit2", "test_vit3", "test_vit4",
    ),
    "DeiT": (
        "deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224",
        "deit_tiny_distilled_patch16_224", "deit_base_distilled_patch16_224",
        "deit3_small_patch16_224", "deit3_medium_patch16_224", "deit3_base_patch16_224",
    ),
    "self-supervised": (
        "vit_small_patch14_dinov2", "vit_base_patch14_dinov2", "vit_small_patch14_reg4_dinov2",
        "vit_giant_patch14_dinov2", "vit_small_patch16_dinov3", "vit_base_patch16_dinov3",
        "vit_small_plus_patch16_dinov3", "vit_base_patch16_rpn_224",
    ),
    "image and text": (
        "vit_base_patch16_clip_224", "vit_base_patch32_clip_224",
        "vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_siglip_224",
        "vit_base_patch16_siglip_gap_224", "vit_base_patch16_siglip_256", "vitamin_small_224",
        "aimv2_large_patch14_224", "naflexvit_base_patch16_gap",
    ),
    "EVA": (
        "eva02_tiny_patch14_224", "eva02_small_patch14_224", "eva02_base_patch14_224",
        "eva02_base_patch16_clip_224", "eva_giant_patch14_224",
        "vit_base_patch16_rope_224", "vit_base_patch16_rope_mixed_224",
        "vit_small_patch16_rope_ape_224",
        "vit_medium_patch16_rope_reg1_gap_256",
    ),
    "relative positions": (
        "beit_base_patch16_224", "beitv2_base_patch16_224", "vit_relpos_small_patch16_224",
        "vit_relpos_medium_patch16_cls_224", "vit_relpos_base_patch16_clsgap_224",
        "vit_srelpos_small_patch16_224",
    ),
    "hybrids": (
        "vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224", "vit_base_r50_s16_224",
        "vit_small_resnet26d_224",
    ),
    "windows and stages": (
        "swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224", "swinv2_tiny_window8_256",
        "swinv2_cr_tiny_224", "twins_svt_small", "twins_pcpvt_small", "pvt_v2_b0", "pit_ti_224",
        "nest_tiny", "gcvit_xxtiny", "mvitv2_tiny", "hiera_tiny_224", "davit_tiny",
        "maxvit_tiny_rw_224", "coatnet_0_rw_224",
    ),
    "other attention": (
        "cait_xxs24_224", "xcit_nano_12_p16_224", "crossvit_tiny_240", "convit_tiny",
        "volo_d1_224", "tnt_s_legacy_patch16_224", "visformer_tiny", "levit_128s",
        "efficientformer_l1", "edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050",
        "coat_tiny", "sequencer2d_s", "poolformer_s12", "mixer_s16_224", "gmlp_ti16_224",
        "resmlp_12_224",
    ),
}  # fmt: skip


@functools.cache
def _timm() -> Any:
    load_torchvision()
    return importlib.import_module("timm")


BLOCKS = 2
"""Of a model that is built, where timm lets one say so."""


def create(name: str, **options: Any) -> nn.Module:
    """The architecture with random weights."""
    return FirstTensor(_timm().create_model(name, pretrained=False, **options))


def _build(name: str) -> nn.Module:
    for options in ({"depth": BLOCKS}, {}):
        try:
            return create(name, **options)
        except (TypeError, ValueError, AssertionError, IndexError, RuntimeError):
            if not options:
                raise
    raise AssertionError(name)


def blocks(name: str) -> tuple[int, int] | None:
    """Of what :func:`entries` builds, and of the architecture, where they are counted."""
    with torch.device("meta"):
        try:
            few = len(_timm().create_model(name, pretrained=False, depth=BLOCKS).blocks)
            whole = len(_timm().create_model(name, pretrained=False).blocks)
        except (TypeError, ValueError, AssertionError, IndexError, RuntimeError, AttributeError):
            return None  # of stages, and built whole
    return few, whole


def twin(name: str) -> Twin | None:
    """A small model of the same structure, where the library makes one."""
    found = re.search(r"patch(\d+)", name)
    if found is None:
        return None
    side = 3 * int(found[1])
    sizes = {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": side, "num_classes": 10}
    try:
        module = FirstTensor(_timm().create_model(name, pretrained=False, **sizes)).eval()
        with torch.no_grad():
            module(torch.zeros(1, 3, side, side))
    except (TypeError, AssertionError, IndexError, RuntimeError, ValueError):
        return None
    return module, (1, 3, side, side)


def input_shape(name: str) -> tuple[int, ...]:
    """As the library has trained it."""
    config = _timm().get_pretrained_cfg(name.partition(".")[0])
    return (1, *config.input_size)


def entries() -> Iterator[Entry]:
    """All of them; timm itself is imported when one is built."""
    for family, names in FAMILIES.items():
        for name in names:
            yield Entry(
                name,
                family,
                "timm",
                functools.partial(_build, name),
                functools.partial(input_shape, name),
                functools.partial(blocks, name),
                functools.partial(twin, name),
            )
