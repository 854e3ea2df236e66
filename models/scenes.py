"""Procedural street scenes: an RGB image, seven classes per pixel and a depth map.

Scenes are consistent in perspective: every pixel's colour, class and depth come from the
same ray hit (`raycast.py`), so nearer things occlude farther ones and the depth of the
ground follows from the camera. One integer seed makes one scene, always the same.

Seeds below `HELDOUT_SEED` are for training and calibration, seeds from it on for evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesaic.models.raycast import Canvas, FloatArray
from moesaic.models.street import draw_street
from moesaic.models.things import CLASS_NAMES, SKY

__all__ = ["CLASS_COLOURS", "CLASS_NAMES", "HELDOUT_SEED", "Scene", "SceneBatch"]

HELDOUT_SEED = 1_000_000_000
"""First seed of the evaluation set."""

CLASS_COLOURS: NDArray[np.uint8] = np.array(
    [
        [128, 64, 128],
        [244, 35, 232],
        [110, 110, 110],
        [70, 150, 40],
        [90, 170, 230],
        [20, 20, 190],
        [220, 20, 60],
    ],
    np.uint8,
)
"""One RGB colour per class of `CLASS_NAMES`, for pictures."""

DEPTH_NEAR_M = 2.0
DEPTH_FAR_M = 100.0
DEPTH_FLOOR = 0.01
RGB_MEAN = 0.5
RGB_STD = 0.25


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes
    ----------
    rgb
        (H, W, 3) float32 in [0, 1].
    seg
        (H, W) uint8, index into `CLASS_NAMES`.
    depth
        (H, W) float32 in [0.01, 1], see `encode_depth`. Sky is 1.
    """

    rgb: FloatArray
    seg: NDArray[np.uint8]
    depth: FloatArray


@dataclass(frozen=True)
class SceneBatch:
    """Scenes stacked for a network.

    Attributes
    ----------
    rgb
        (N, 3, H, W) uint8, kept small so that thousands of scenes fit in memory.
    seg
        (N, H, W) uint8.
    depth
        (N, 1, H, W) float32.
    """

    rgb: NDArray[np.uint8]
    seg: NDArray[np.uint8]
    depth: FloatArray

    @property
    def image(self) -> FloatArray:
        """The network's input: (N, 3, H, W) float32 in [-2, 2]."""
        return normalise(self.rgb)


def encode_depth(depth_m: FloatArray) -> FloatArray:
    """Map metres to [0.01, 1]: log(z / 2 m) / log(100 m / 2 m), clipped.

    Logarithmic, so that one unit of error is the same relative error near and far.
    """
    scaled = np.log(depth_m / DEPTH_NEAR_M) / np.log(DEPTH_FAR_M / DEPTH_NEAR_M)
    return np.clip(scaled, DEPTH_FLOOR, 1.0).astype(np.float32)


def decode_depth(depth: FloatArray) -> FloatArray:
    """Inverse of `encode_depth` inside its range: metres."""
    metres = DEPTH_NEAR_M * (DEPTH_FAR_M / DEPTH_NEAR_M) ** depth
    return metres.astype(np.float32)


def normalise(rgb: NDArray[np.uint8]) -> FloatArray:
    """Map uint8 colours to the network's input range: (rgb / 255 - 0.5) / 0.25, in [-2, 2]."""
    return ((rgb.astype(np.float32) / 255.0) - RGB_MEAN) / RGB_STD


def denormalise(image: FloatArray) -> NDArray[np.uint8]:
    """Inverse of `normalise`: uint8 colours, same shape."""
    return np.clip(np.rint((image * RGB_STD + RGB_MEAN) * 255.0), 0, 255).astype(np.uint8)


def make_scene(seed: int, height: int, width: int) -> Scene:
    """Draw the scene of one seed.

    Parameters
    ----------
    seed
        Non-negative; equal seeds give equal scenes of equal size.
    height, width
        Image size in pixels, at least 8 each.

    Raises
    ------
    ValueError
        The size is too small.
    """
    if height < 8 or width < 8:
        raise ValueError(f"scene size must be at least 8x8 pixels, not {height}x{width}")
    rng = np.random.default_rng(seed)
    canvas: Canvas = draw_street(rng, height, width)
    rgb = _expose(rng, canvas)
    depth_m = np.where(canvas.label == SKY, np.float32(DEPTH_FAR_M), canvas.depth_m)
    return Scene(rgb, canvas.label, encode_depth(depth_m.astype(np.float32)))


def _expose(rng: np.random.Generator, canvas: Canvas) -> FloatArray:
    """Add haze, exposure, white balance and sensor noise."""
    haze_colour = rng.uniform(0.6, 0.85, 3).astype(np.float32)
    haze_m = rng.uniform(90.0, 400.0)
    distance = np.where(canvas.label == SKY, 0.0, np.minimum(canvas.depth_m, DEPTH_FAR_M))
    haze = (1.0 - np.exp(-distance / haze_m)).astype(np.float32)[..., None]
    rgb = canvas.rgb * (1.0 - haze) + haze_colour * haze
    rgb = rgb * rng.uniform(0.75, 1.15) * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    rgb = rgb + canvas.grain.standard_normal(rgb.shape, np.float32) * rng.uniform(0.005, 0.025)
    return np.clip(rgb, 0.0, 1.0).astype(np.float32)


def make_batch(seeds: Iterable[int], height: int, width: int) -> SceneBatch:
    """Draw the scenes of several seeds and stack them."""
    scenes = [make_scene(seed, height, width) for seed in seeds]
    if not scenes:
        raise ValueError("the number of scenes must be positive, not 0")
    rgb = np.stack([scene.rgb for scene in scenes]).transpose(0, 3, 1, 2)
    return SceneBatch(
        np.rint(np.ascontiguousarray(rgb) * 255.0).astype(np.uint8),
        np.stack([scene.seg for scene in scenes]),
        np.stack([scene.depth for scene in scenes])[:, None],
    )
