"""A pinhole camera and a z-buffer: the geometry behind the synthetic street scenes.

World axes are metres: x right, y up from the ground, z forward. The camera looks along z
from (0, camera_height, 0). A ray through a pixel is (dx, -dy, 1), so the ray parameter of a
hit *is* its depth z and hits of different shapes compare directly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

NEAR_M = 0.6
"""Nothing closer than this many metres is drawn."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera whose horizon may lie off-centre (a shifted lens, not a tilt).

    Attributes
    ----------
    height_px, width_px
        Image size in pixels.
    focal_px
        Focal length in pixels.
    centre_px, horizon_px
        Column and row of the vanishing point of straight-ahead lines.
    height_m
        Height of the camera above the ground in metres.
    """

    height_px: int
    width_px: int
    focal_px: float
    centre_px: float
    horizon_px: float
    height_m: float

    def rays(self) -> tuple[FloatArray, FloatArray]:
        """Return dx (width,) to the right and dy (height,) downwards, per unit of depth."""
        columns = np.arange(self.width_px, dtype=np.float32) + 0.5
        rows = np.arange(self.height_px, dtype=np.float32) + 0.5
        # A ray parallel to a box face would divide by zero: nudge it by a millionth.
        dx = (columns - self.centre_px) / self.focal_px + np.float32(1e-6)
        dy = (rows - self.horizon_px) / self.focal_px + np.float32(1e-6)
        return dx.astype(np.float32), dy.astype(np.float32)


@dataclass(frozen=True)
class Hit:
    """Pixels of one shape that won the depth test.

    `rows` and `columns` select the image window that the shape can touch; `mask` (window
    shape, bool) says which of its pixels the shape covers. `x`, `y`, `z` are the points hit,
    in metres, and `face` is the axis of the surface normal (0, 1, 2). All four hold one
    value per covered pixel.
    """

    rows: slice
    columns: slice
    mask: NDArray[np.bool_]
    x: FloatArray
    y: FloatArray
    z: FloatArray
    face: NDArray[np.int64]


class Canvas:
    """Colour, class and depth images under construction, with a depth test.

    `grain` is the source of per-pixel texture noise. It is apart from the generator that lays
    out the scene, because how much of it is used depends on the pixels.
    """

    def __init__(self, camera: Camera, grain: np.random.Generator | None = None) -> None:
        self.camera = camera
        self.grain = grain if grain is not None else np.random.default_rng(0)
        self.dx, self.dy = camera.rays()
        shape = (camera.height_px, camera.width_px)
        self.rgb: FloatArray = np.zeros((*shape, 3), np.float32)
        self.label: NDArray[np.uint8] = np.zeros(shape, np.uint8)
        self.depth_m: FloatArray = np.full(shape, np.inf, np.float32)

    def window(
        self, low: tuple[float, float, float], high: tuple[float, float, float]
    ) -> tuple[slice, slice]:
        """Return the image window that bounds a world-space box (it may be empty)."""
        camera = self.camera
        z0, z1 = max(low[2], NEAR_M), max(high[2], NEAR_M)
        us = [
            camera.centre_px + camera.focal_px * x / z for x in (low[0], high[0]) for z in (z0, z1)
        ]
        vs = [
            camera.horizon_px + camera.focal_px * (camera.height_m - y) / z
            for y in (low[1], high[1])
            for z in (z0, z1)
        ]
        limit_v, limit_u = self.depth_m.shape
        top, bottom = (int(max(0.0, min(v, limit_v))) for v in (min(vs), max(vs) + 1.0))
        left, right = (int(max(0.0, min(u, limit_u))) for u in (min(us), max(us) + 1.0))
        return slice(top, bottom), slice(left, right)

    def cast_box(
        self, low: tuple[float, float, float], high: tuple[float, float, float]
    ) -> Hit | None:
        """Intersect an axis-aligned box; None when no pixel of it is in front."""
        rows, columns = self.window(low, high)
        dx, dy = self.dx[None, columns], self.dy[rows, None]
        if dx.size == 0 or dy.size == 0 or high[2] <= NEAR_M:
            return None
        eye = self.camera.height_m
        xa, xb = low[0] / dx, high[0] / dx
        ya, yb = (eye - low[1]) / dy, (eye - high[1]) / dy
        x_in, y_in = np.minimum(xa, xb), np.minimum(ya, yb)
        entry = np.maximum(np.maximum(x_in, y_in), low[2])
        leave = np.minimum(np.minimum(np.maximum(xa, xb), np.maximum(ya, yb)), high[2])
        mask = (entry < leave) & (entry > NEAR_M)
        face = np.where(entry == x_in, 0, np.where(entry == y_in, 1, 2))
        return self._keep(rows, columns, mask, entry, face)

    def cast_ellipsoid(
        self, centre: tuple[float, float, float], radii: tuple[float, float, float]
    ) -> Hit | None:
        """Intersect an axis-aligned ellipsoid; None when no pixel of it is in front."""
        low = (centre[0] - radii[0], centre[1] - radii[1], centre[2] - radii[2])
        high = (centre[0] + radii[0], centre[1] + radii[1], centre[2] + radii[2])
        rows, columns = self.window(low, high)
        dx, dy = self.dx[None, columns] / radii[0], self.dy[rows, None] / radii[1]
        if dx.size == 0 or dy.size == 0 or low[2] <= NEAR_M:
            return None
        # Unit sphere after scaling each axis; y points up but dy points down.
        ox, oz = -centre[0] / radii[0], -centre[2] / radii[2]
        oy = (self.camera.height_m - centre[1]) / radii[1]
        dz = 1.0 / radii[2]
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx - oy * dy + oz * dz
        c = ox * ox + oy * oy + oz * oz - 1.0
        discriminant = b * b - a * c
        entry = (-b - np.sqrt(np.maximum(discriminant, 0.0))) / a
        face = np.full(entry.shape, 2)
        return self._keep(rows, columns, (discriminant > 0) & (entry > NEAR_M), entry, face)

    def _keep(
        self,
        rows: slice,
        columns: slice,
        mask: NDArray[np.bool_],
        entry: NDArray[np.floating],
        face: NDArray[np.int64],
    ) -> Hit | None:
        """Apply the depth test and write the depth of the pixels that win it."""
        depth = self.depth_m[rows, columns]
        mask = mask & (entry < depth)
        if not mask.any():
            return None
        z = entry[mask].astype(np.float32)
        depth[mask] = z
        height, width = mask.shape
        x = np.broadcast_to(self.dx[None, columns], (height, width))[mask] * z
        y = self.camera.height_m - np.broadcast_to(self.dy[rows, None], (height, width))[mask] * z
        return Hit(rows, columns, mask, x, y, z, face[mask])

    def paint(self, hit: Hit, colour: FloatArray, label: int) -> None:
        """Write colours, (3,) or (pixels, 3) in [0, 1], and one class to a hit's pixels."""
        self.rgb[hit.rows, hit.columns][hit.mask] = colour
        self.label[hit.rows, hit.columns][hit.mask] = label
