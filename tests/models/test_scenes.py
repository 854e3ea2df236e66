"""Synthetic scenes: reproducible, consistent in perspective, with every class."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from moesaic.models import scenes, things
from moesaic.models.raycast import Camera, Canvas


@pytest.fixture(scope="module")
def batch() -> scenes.SceneBatch:
    return scenes.make_batch(range(24), 64, 128)


def test_shapes_types_and_ranges(batch: scenes.SceneBatch) -> None:
    assert batch.image.shape == (24, 3, 64, 128) and batch.image.dtype == np.float32
    assert -2 <= batch.image.min() < -1 and 1 < batch.image.max() <= 2
    assert batch.seg.shape == (24, 64, 128) and batch.seg.dtype == np.uint8
    assert batch.depth.shape == (24, 1, 64, 128) and batch.depth.dtype == np.float32
    assert batch.depth.min() >= scenes.DEPTH_FLOOR and batch.depth.max() == 1.0
    np.testing.assert_array_equal(scenes.denormalise(batch.image), batch.rgb)


def test_every_class_has_its_share(batch: scenes.SceneBatch) -> None:
    share = np.bincount(batch.seg.ravel(), minlength=7) / batch.seg.size
    assert len(share) == len(scenes.CLASS_NAMES) == len(scenes.CLASS_COLOURS) == 7
    assert share.min() > 0.004 and share.max() < 0.5


def test_seed_decides_the_scene() -> None:
    one, two = scenes.make_scene(5, 64, 128), scenes.make_scene(5, 64, 128)
    np.testing.assert_array_equal(one.rgb, two.rgb)
    np.testing.assert_array_equal(one.depth, two.depth)
    other = scenes.make_scene(6, 64, 128)
    assert (one.seg != other.seg).mean() > 0.05


def test_size_does_not_change_the_street() -> None:
    """The same seed at twice the resolution is the same place."""
    small, large = scenes.make_scene(9, 64, 128), scenes.make_scene(9, 128, 256)
    agree = small.seg == large.seg[::2, ::2]
    assert agree.mean() > 0.85


def test_sky_is_far_and_above_the_road(batch: scenes.SceneBatch) -> None:
    assert np.all(batch.depth[:, 0][batch.seg == things.SKY] == 1.0)
    rows = np.broadcast_to(np.arange(64)[:, None], (24, 64, 128))
    assert rows[batch.seg == things.SKY].max() < rows[batch.seg == things.ROAD].mean()


def test_ground_depth_follows_the_camera() -> None:
    """Depth of the road is constant along a row and shrinks downwards as 1 / row."""
    scene = scenes.make_scene(3, 64, 128)
    metres = scenes.decode_depth(scene.depth)
    road = scene.seg == things.ROAD
    rows = [row for row in range(40, 64) if road[row].sum() > 20]
    assert len(rows) > 15
    inverse = np.array([1.0 / metres[row][road[row]].mean() for row in rows])
    for row in rows:
        assert np.ptp(metres[row][road[row]]) < 0.01 * metres[row][road[row]].mean()
    slope = np.diff(inverse) / np.diff(rows)
    np.testing.assert_allclose(slope, slope.mean(), rtol=0.01)


def test_depth_encoding_round_trip() -> None:
    metres = np.array([2.1, 5.0, 20.0, 99.0], np.float32)
    np.testing.assert_allclose(scenes.decode_depth(scenes.encode_depth(metres)), metres, rtol=1e-5)
    assert scenes.encode_depth(np.array([0.7, 500.0], np.float32)).tolist() == pytest.approx(
        [0.01, 1.0]
    )


def camera() -> Camera:
    return Camera(
        height_px=40, width_px=60, focal_px=40.0, centre_px=30.0, horizon_px=20.0, height_m=1.5
    )


def test_box_projects_where_the_pinhole_says() -> None:
    canvas = Canvas(camera())
    hit = canvas.cast_box((-1.0, 0.0, 10.0), (1.0, 2.5, 12.0))
    assert hit is not None
    canvas.paint(hit, np.array([1, 0, 0], np.float32), 5)
    rows, columns = np.nonzero(canvas.label == 5)
    # x = +-1 at 10 m is +-4 pixels; y = 2.5 is 1 m above the eye, y = 0 is 1.5 m below.
    assert (columns.min(), columns.max()) == (26, 33)
    assert (rows.min(), rows.max()) == (16, 25)
    assert np.all(canvas.depth_m[rows, columns] == 10.0)
    assert set(hit.face.tolist()) == {2}


def test_ellipsoid_silhouette_and_nearest_point() -> None:
    # Half a pixel off, so that one ray goes straight ahead through the ellipsoid's nearest point.
    canvas = Canvas(dataclasses.replace(camera(), centre_px=30.5, horizon_px=20.5))
    hit = canvas.cast_ellipsoid((0.0, 1.5, 8.0), (1.0, 0.5, 2.0))
    assert hit is not None
    assert hit.z.min() == pytest.approx(6.0, abs=1e-4)
    scaled = hit.x**2 + ((hit.y - 1.5) / 0.5) ** 2 + ((hit.z - 8.0) / 2.0) ** 2
    np.testing.assert_allclose(scaled, 1.0, atol=1e-3)


@pytest.mark.parametrize("near_first", [True, False])
def test_nearer_shape_occludes_in_any_order(near_first: bool) -> None:
    canvas = Canvas(camera())
    boxes = [((-1.0, 0.0, 5.0), (1.0, 1.4, 6.0), 1), ((-3.0, 0.0, 9.0), (3.0, 3.0, 10.0), 2)]
    for low, high, label in boxes if near_first else boxes[::-1]:
        hit = canvas.cast_box(low, high)
        if hit is not None:
            canvas.paint(hit, np.zeros(3, np.float32), label)
    assert canvas.label[24, 30] == 1 and canvas.depth_m[24, 30] == 5.0
    assert canvas.label[24, 20] == 2 and canvas.depth_m[24, 20] == 9.0


def test_shapes_behind_the_camera_are_not_drawn() -> None:
    canvas = Canvas(camera())
    assert canvas.cast_box((-1.0, 0.0, -5.0), (1.0, 2.0, -3.0)) is None
    assert canvas.cast_ellipsoid((0.0, 1.0, -4.0), (1.0, 1.0, 1.0)) is None


def test_too_small_a_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8x8 pixels, not 4x128"):
        scenes.make_scene(0, 4, 128)
    with pytest.raises(ValueError, match="must be positive, not 0"):
        scenes.make_batch([], 64, 128)
