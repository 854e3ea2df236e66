"""Digests of views: equal where views are, and only there."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from moesaic.compiler.frontend.views import View, constant_view, plain_view

IDS = np.arange(4).reshape(2, 2)


def view(scale: object, offset: object, ids: np.ndarray = IDS) -> View:
    return View(
        ids, *(np.broadcast_to(np.asarray(part, float), ids.shape) for part in (scale, offset))
    )


def test_equal_views_have_one_digest_however_they_are_held() -> None:
    whole = View(IDS.copy(), np.full((2, 2), 2.0), np.zeros((2, 2)))
    turned = View(np.asfortranarray(IDS), np.full((2, 2), 2.0), np.zeros((2, 2)))
    assert view(2, 0).digest() == whole.digest() == turned.digest()
    assert plain_view(IDS).digest() == view(1, 0).digest()


def test_other_views_have_other_digests() -> None:
    row, same = [[1.0, 0.0]], np.zeros((2, 2), np.int64)
    views = [
        view(1, 0), view(2, 0), view(1, 1), view(row, 2), view(1, [[0.0, 2.0]]),
        view(1, 0, same), view(1, 0, IDS.reshape(4)), view(1, 0, IDS.T),
        constant_view(np.ones((2, 2))), constant_view(np.zeros((2, 2))),
        view(1, 0, IDS[:1, :1]), view(1, 0, IDS[:0]), view(1, 0, IDS[:, :0]),
    ]  # fmt: skip
    for one, other in combinations(views, 2):
        assert one.digest() != other.digest(), (one, other)


def test_what_is_one_number_and_what_is_not_are_told_apart() -> None:
    """Their bytes in a row would be the same."""
    ids = np.arange(2)
    assert view([1, 0], 2, ids).digest() != view(1, [0, 2], ids).digest()
