"""Devices for tests, known to sessions by name like installed ones."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from moesaic.host import pool


def know_devices(monkeypatch: pytest.MonkeyPatch, **kinds: Any) -> None:
    """Let sessions know the devices ``kinds``, by name, and ``cpu``; no others."""
    points = [EntryPoint(name, f"x:{name}", pool.DEVICE_GROUP) for name in kinds]
    points.append(EntryPoint("cpu", "moesaic.host.torch_devices:CpuDevice", pool.DEVICE_GROUP))
    load = EntryPoint.load
    monkeypatch.setattr(EntryPoint, "load", lambda p: kinds.get(p.name) or load(p))
    monkeypatch.setattr(pool, "entry_points", lambda group: points)
