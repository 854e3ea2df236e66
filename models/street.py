"""A synthetic street: sky, ground, and where its houses, trees, cars and people stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesaic.models.raycast import Camera, Canvas
from moesaic.models.things import (
    ROAD,
    SIDEWALK,
    SKY,
    VEGETATION,
    draw_car,
    draw_hedge,
    draw_house,
    draw_person,
    draw_tree,
    mottle,
)

END_M = 110.0
"""Streets are furnished up to this distance."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Lateral plan of the street in metres, x measured from the camera."""

    road_centre: float
    road_half: float
    walk_width: float
    sun: float
    """Brightness of faces that look left; faces that look right get 1.6 minus it."""

    def side_x(self, side: int, beyond_kerb: float) -> float:
        """Return x at a distance outside the kerb of the left (-1) or right (+1) side."""
        return self.road_centre + side * (self.road_half + beyond_kerb)

    def sunlit(self, side: int) -> float:
        """Return the brightness of faces towards the road of things on one side."""
        return 1.6 - self.sun if side < 0 else self.sun


def draw_street(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """Furnish and render one street.

    Every choice of the layout comes from `rng`, and none depends on which pixels are hit, so
    that a seed is the same place at any image size.
    """
    camera = Camera(
        height_px=height,
        width_px=width,
        focal_px=width * rng.uniform(0.55, 0.72),
        centre_px=width * rng.uniform(0.36, 0.64),
        horizon_px=height * rng.uniform(0.38, 0.50),
        height_m=rng.uniform(1.4, 2.0),
    )
    road_half = rng.uniform(3.4, 5.2)
    layout = Layout(
        road_centre=rng.uniform(-0.45, 0.25) * road_half,
        road_half=road_half,
        walk_width=rng.uniform(1.8, 3.6),
        sun=rng.uniform(0.6, 1.0),
    )
    canvas = Canvas(camera, grain=rng.spawn(1)[0])
    _draw_sky(rng, canvas)
    _draw_ground(rng, canvas, layout)
    density = rng.uniform(0.3, 1.0)
    for side in (-1, 1):
        _draw_row(rng, canvas, layout, side, density)
        _draw_trees(rng, canvas, layout, side)
        _draw_parked(rng, canvas, layout, side)
        _draw_walkers(rng, canvas, layout, side)
    _draw_far_end(rng, canvas, layout)
    _draw_traffic(rng, canvas, layout)
    return canvas


def _draw_sky(rng: np.random.Generator, canvas: Canvas) -> None:
    zenith = np.array([0.25, 0.45, 0.85], np.float32) + rng.uniform(-0.1, 0.1)
    overcast = rng.uniform(0.0, 1.0)
    zenith = zenith * (1 - 0.7 * overcast) + 0.72 * 0.7 * overcast
    low = np.array([0.88, 0.90, 0.94], np.float32)
    if rng.random() < 0.2:
        low = np.array([0.98, 0.78, 0.55], np.float32)  # dusk
    rise = np.clip(-canvas.dy / 0.7, 0.0, 1.0)[:, None, None]
    rgb = low * (1 - rise) + zenith.astype(np.float32) * rise
    coarse = rng.standard_normal((5, 9)).astype(np.float32)
    rows = np.linspace(0, 3.99, canvas.depth_m.shape[0])
    columns = np.linspace(0, 7.99, canvas.depth_m.shape[1])
    top, left = rows.astype(int)[:, None], columns.astype(int)[None, :]
    fy, fx = rows[:, None] - top, columns[None, :] - left
    cloud = (coarse[top, left] * (1 - fx) + coarse[top, left + 1] * fx) * (1 - fy) + (
        coarse[top + 1, left] * (1 - fx) + coarse[top + 1, left + 1] * fx
    ) * fy
    cover = np.clip(cloud * 0.5, 0.0, 0.8)[..., None]
    canvas.rgb[:] = rgb * (1 - cover) + 0.95 * cover
    canvas.label[:] = SKY


def _draw_ground(rng: np.random.Generator, canvas: Canvas, layout: Layout) -> None:
    below = canvas.dy > canvas.camera.height_m / 400.0
    z = (canvas.camera.height_m / canvas.dy[below])[:, None]
    x = canvas.dx[None, :] * z - layout.road_centre
    z = np.broadcast_to(z, x.shape)
    aside = np.abs(x)
    lawn = rng.random() < 0.5
    grass = np.array([0.30, 0.50, 0.18], np.float32) * rng.uniform(0.8, 1.2)
    asphalt = np.float32(rng.uniform(0.22, 0.36)) * np.array([1.0, 1.0, 1.04], np.float32)
    paving = np.float32(rng.uniform(0.55, 0.72)) * np.array([1.03, 1.0, 0.94], np.float32)

    rgb = np.empty((*x.shape, 3), np.float32)
    rgb[:] = asphalt
    line = (np.abs(x) < 0.09) & (np.mod(z + rng.uniform(0, 6), 6.0) < 3.2)
    line |= np.abs(aside - layout.road_half + 0.35) < 0.07
    if rng.random() < 0.4:
        start = rng.uniform(5.0, 20.0)
        line |= (z > start) & (z < start + 3.0) & (np.mod(x, 1.0) < 0.5)
    rgb[line] = 0.82
    walk = aside > layout.road_half
    joints = (np.mod(z, 1.5) < 0.12) | (np.mod(aside - layout.road_half, 1.5) < 0.08)
    rgb[walk] = paving
    rgb[walk & joints & (z < 18)] = paving * 0.85
    rgb[(aside > layout.road_half) & (aside < layout.road_half + 0.18)] = 0.78  # kerb stones
    label = np.where(walk, SIDEWALK, ROAD).astype(np.uint8)
    if lawn:
        turf = aside > layout.road_half + layout.walk_width
        rgb[turf] = grass
        label[turf] = VEGETATION
    rgb *= mottle(canvas, x.size, 0.05).reshape(*x.shape, 1)
    canvas.rgb[below] = rgb
    canvas.label[below] = label
    canvas.depth_m[below] = z


def _draw_row(
    rng: np.random.Generator, canvas: Canvas, layout: Layout, side: int, density: float
) -> None:
    """One side's houses, with gaps, from beside the camera to the far end."""
    setback = rng.uniform(0.0, 3.0)
    storeys = rng.uniform(2.0, 6.0)
    z = rng.uniform(-6.0, 8.0)
    while z < END_M:
        length = rng.uniform(8.0, 22.0)
        if rng.random() < density:
            inner = layout.side_x(side, layout.walk_width + setback + rng.uniform(0.0, 1.0))
            outer = inner + side * rng.uniform(9.0, 14.0)
            top = max(4.0, 3.0 * storeys * rng.uniform(0.6, 1.4))
            low, high = (min(inner, outer), 0.0, z), (max(inner, outer), top, z + length)
            draw_house(rng, canvas, layout.sunlit(side), low, high)
            z += length + (rng.uniform(1.0, 6.0) if rng.random() < 0.3 else 0.0)
        else:
            inner = layout.side_x(side, layout.walk_width + rng.uniform(0.3, 1.5))
            outer = inner + side * 1.5
            top = rng.uniform(0.8, 2.6)
            low, high = (min(inner, outer), 0.0, z), (max(inner, outer), top, z + length)
            draw_hedge(rng, canvas, low, high)
            z += length


def _draw_trees(rng: np.random.Generator, canvas: Canvas, layout: Layout, side: int) -> None:
    spacing = rng.uniform(7.0, 25.0)
    z = rng.uniform(4.0, 4.0 + spacing)
    place = layout.side_x(side, rng.uniform(0.5, 1.0) * layout.walk_width)
    leaves = np.array([0.20, 0.42, 0.14], np.float32) * rng.uniform(0.7, 1.4)
    leaves[0] += rng.uniform(0.0, 0.15)
    while z < END_M:
        draw_tree(rng, canvas, leaves, place, z)
        z += spacing * rng.uniform(0.6, 1.5)


def _draw_far_end(rng: np.random.Generator, canvas: Canvas, layout: Layout) -> None:
    """Close the vista with a skyline or a wood, so that the horizon is not bare."""
    x = -90.0
    wood = rng.random() < 0.5
    while x < 90.0:
        width = rng.uniform(8.0, 20.0)
        z = END_M + rng.uniform(0.0, 20.0)
        if wood:
            top = rng.uniform(5.0, 11.0)
            hit = canvas.cast_ellipsoid((x, 1.0, z), (width, top, 6.0))
            if hit is not None:
                green = np.array([0.22, 0.36, 0.20], np.float32)
                canvas.paint(hit, green * mottle(canvas, len(hit.z), 0.1), VEGETATION)
        elif rng.random() < 0.8:
            low, high = (x, 0.0, z), (x + width, rng.uniform(6.0, 25.0), z + 10.0)
            draw_house(rng, canvas, layout.sunlit(1), low, high)
        x += width


def _draw_parked(rng: np.random.Generator, canvas: Canvas, layout: Layout, side: int) -> None:
    if rng.random() < 0.35:
        return
    z = rng.uniform(3.0, 14.0)
    x = layout.side_x(side, -1.15)
    while z < 60.0:
        if rng.random() < 0.65:
            draw_car(rng, canvas, layout.sunlit(1 if x > 0 else -1), x, z, facing_us=side < 0)
        z += rng.uniform(5.5, 8.0)


def _draw_traffic(rng: np.random.Generator, canvas: Canvas, layout: Layout) -> None:
    for side in (-1, 1):
        z = rng.uniform(6.0, 22.0)
        while z < 70.0:
            if rng.random() < 0.6:
                x = layout.road_centre + side * min(1.7, layout.road_half - 1.9)
                x += rng.uniform(-0.2, 0.2)
                draw_car(rng, canvas, layout.sunlit(1 if x > 0 else -1), x, z, facing_us=side < 0)
            z += rng.uniform(9.0, 25.0)


def _draw_walkers(rng: np.random.Generator, canvas: Canvas, layout: Layout, side: int) -> None:
    for _ in range(rng.integers(0, 5)):
        z = rng.uniform(4.0, 9.0) if rng.random() < 0.5 else rng.uniform(9.0, 26.0)
        if rng.random() < 0.15:  # crossing the road
            x = layout.road_centre + side * rng.uniform(0.0, layout.road_half)
        else:
            x = layout.side_x(side, rng.uniform(0.2, layout.walk_width))
        draw_person(rng, canvas, x, z)
