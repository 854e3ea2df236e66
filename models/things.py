"""The things that stand in a synthetic street: houses, hedges, trees, cars, people.

Each function draws one thing. Every choice comes from `rng` and none depends on which pixels
are hit, so that a seed is the same place at any image size.
"""

from __future__ import annotations

import numpy as np

from moesaic.models.raycast import Canvas, FloatArray, Hit

CLASS_NAMES = ("road", "sidewalk", "building", "vegetation", "sky", "car", "pedestrian")
ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, CAR, PEDESTRIAN = range(7)

FACADES = np.array(
    [
        [0.62, 0.38, 0.30],
        [0.78, 0.70, 0.56],
        [0.60, 0.60, 0.62],
        [0.85, 0.83, 0.78],
        [0.45, 0.40, 0.38],
    ],
    np.float32,
)
CAR_PAINTS = np.array(
    [
        [0.75, 0.08, 0.08],
        [0.08, 0.15, 0.55],
        [0.9, 0.9, 0.92],
        [0.06, 0.06, 0.08],
        [0.85, 0.65, 0.1],
    ],
    np.float32,
)
CLOTHES = np.array(
    [[0.9, 0.25, 0.1], [0.95, 0.8, 0.1], [0.15, 0.6, 0.85], [0.75, 0.1, 0.5], [0.1, 0.1, 0.15]],
    np.float32,
)
SKIN = np.array([0.8, 0.6, 0.48], np.float32)
GLASS = np.array([0.16, 0.20, 0.26], np.float32)
RUBBER = np.array([0.04, 0.04, 0.045], np.float32)


def mottle(canvas: Canvas, count: int, strength: float) -> FloatArray:
    """Return (count, 1) brightness factors around 1."""
    noise = canvas.grain.standard_normal((count, 1), np.float32)
    return (1.0 + strength * noise).astype(np.float32)


def shade(hit: Hit, sunlit: float) -> FloatArray:
    """Return (pixels, 1) brightness by the face that was hit; `sunlit` is that of side faces."""
    by_face = np.array([sunlit, 0.95, 0.85], np.float32)
    return by_face[hit.face][:, None]


def draw_house(
    rng: np.random.Generator,
    canvas: Canvas,
    sunlit: float,
    low: tuple[float, float, float],
    high: tuple[float, float, float],
) -> None:
    """A house with rows of windows, filling a box."""
    facade = FACADES[rng.integers(len(FACADES))] * rng.uniform(0.85, 1.1)
    pitch, floor = rng.uniform(2.0, 3.2), rng.uniform(2.8, 3.4)
    glass = GLASS * rng.uniform(0.8, 2.0)
    hit = canvas.cast_box(low, high)
    if hit is None:
        return
    along = np.where(hit.face == 0, hit.z, hit.x)
    window = (np.mod(along, pitch) > 0.45 * pitch) & (np.mod(hit.y, floor) > 0.4 * floor)
    window &= (hit.face != 1) & (hit.y < high[1] - 0.5)
    colour = np.where(window[:, None], glass, facade)
    colour = colour * shade(hit, sunlit) * mottle(canvas, len(hit.z), 0.03)
    canvas.paint(hit, colour.astype(np.float32), BUILDING)


def draw_hedge(
    rng: np.random.Generator,
    canvas: Canvas,
    low: tuple[float, float, float],
    high: tuple[float, float, float],
) -> None:
    """A clipped hedge filling a box."""
    green = np.array([0.16, 0.34, 0.12], np.float32) * rng.uniform(0.7, 1.3)
    hit = canvas.cast_box(low, high)
    if hit is not None:
        canvas.paint(hit, green * mottle(canvas, len(hit.z), 0.15), VEGETATION)


def draw_tree(
    rng: np.random.Generator, canvas: Canvas, leaves: FloatArray, x: float, z: float
) -> None:
    """A trunk under three balls of leaves."""
    trunk_m, radius = rng.uniform(1.8, 3.0), rng.uniform(1.2, 2.4)
    x += rng.uniform(-0.3, 0.3)
    trunk = canvas.cast_box((x - 0.16, 0.0, z - 0.16), (x + 0.16, trunk_m + 0.5, z + 0.16))
    if trunk is not None:
        canvas.paint(trunk, np.array([0.27, 0.19, 0.12], np.float32), VEGETATION)
    for _ in range(3):
        size = radius * rng.uniform(0.6, 1.0)
        centre = (
            x + rng.uniform(-0.5, 0.5) * radius,
            trunk_m + radius * rng.uniform(0.4, 1.3),
            z + rng.uniform(-0.4, 0.4) * radius,
        )
        hit = canvas.cast_ellipsoid(centre, (size, size * 0.9, size))
        if hit is not None:
            lit = 1.0 + 0.35 * (hit.y - centre[1])[:, None] / size
            colour = leaves * lit * mottle(canvas, len(hit.z), 0.14)
            canvas.paint(hit, colour.astype(np.float32), VEGETATION)


def draw_car(
    rng: np.random.Generator, canvas: Canvas, sunlit: float, x: float, z: float, facing_us: bool
) -> None:
    """A car as body, cabin and wheels; its nearest end is at depth z."""
    half, length = rng.uniform(0.85, 1.0), rng.uniform(3.8, 4.8)
    waist, roof = rng.uniform(0.8, 1.0), rng.uniform(1.4, 1.75)
    paint = CAR_PAINTS[rng.integers(len(CAR_PAINTS))] * rng.uniform(0.8, 1.1)
    for near in (z + 0.5, z + length - 1.1):
        for lateral in (-half + 0.02, half - 0.22):
            wheel = canvas.cast_box((x + lateral, 0.0, near), (x + lateral + 0.2, 0.62, near + 0.6))
            if wheel is not None:
                canvas.paint(wheel, RUBBER, CAR)
    cabin = canvas.cast_box(
        (x - half + 0.15, waist, z + 0.5), (x + half - 0.15, roof, z + length - 1.0)
    )
    if cabin is not None:
        pane = (cabin.y < roof - 0.12) & (cabin.face != 1)
        colour = np.where(pane[:, None], GLASS, paint * shade(cabin, sunlit))
        canvas.paint(cabin, colour.astype(np.float32), CAR)
    body = canvas.cast_box((x - half, 0.22, z), (x + half, waist, z + length))
    if body is not None:
        colour = paint * shade(body, sunlit)
        lamp = (body.face == 2) & (np.abs(body.x - x) > half - 0.35) & (body.y > waist - 0.3)
        lamp_colour = [0.95, 0.95, 0.85] if facing_us else [0.85, 0.05, 0.05]
        colour[lamp] = np.array(lamp_colour, np.float32)
        colour[(body.face == 2) & (body.y < 0.38)] = 0.12
        canvas.paint(body, colour.astype(np.float32), CAR)


def draw_person(rng: np.random.Generator, canvas: Canvas, x: float, z: float) -> None:
    """A standing or walking person with feet at (x, 0, z)."""
    height, half = rng.uniform(1.55, 1.95), rng.uniform(0.22, 0.30)
    top = CLOTHES[rng.integers(len(CLOTHES))] * rng.uniform(0.8, 1.1)
    legs = np.array([0.12, 0.13, 0.25], np.float32) * rng.uniform(0.6, 2.0)
    stride = rng.uniform(0.0, 0.18)
    hip, neck = 0.48 * height, 0.84 * height
    for foot, shift in ((-0.5, stride), (0.5, -stride)):
        centre = (x + foot * half + shift, hip / 2, z + shift)
        leg = canvas.cast_ellipsoid(centre, (0.11, hip / 2 + 0.06, 0.11))
        if leg is not None:
            canvas.paint(leg, legs, PEDESTRIAN)
    torso = canvas.cast_ellipsoid((x, (hip + neck) / 2, z), (half, (neck - hip) / 2 + 0.08, 0.2))
    if torso is not None:
        canvas.paint(torso, top * mottle(canvas, len(torso.z), 0.05), PEDESTRIAN)
    head = canvas.cast_ellipsoid((x, height - 0.13, z), (0.12, 0.15, 0.12))
    if head is not None:
        canvas.paint(head, SKIN, PEDESTRIAN)
