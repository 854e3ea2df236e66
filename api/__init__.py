"""Mixture-of-experts vision transformers on FPGAs, from ONNX to the frame.

    import moesaic

    moesaic.compile({"seg": "seg.onnx"}, "zcu102", "samples.npz", "build/mine")
    with moesaic.Session("build/mine", ["fpga", "cpu"]) as session:
        outputs = session.run({"image": frames})

Importing this costs nothing: each name is loaded when it is first used, with what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moesaic.compiler.driver import compile
    from moesaic.host import DeviceError, Outputs, Placement, QueueFull, Session
    from moesaic.inference_session import InferenceSession
    from moesaic.spec.arch import ArchConfig
    from moesaic.spec.bundle import Bundle
    from moesaic.spec.bundle import load_bundle as load
    from moesaic.spec.errors import UserError
    from moesaic.spec.presets import load_arch

    __version__: str

__all__ = [
    "ArchConfig",
    "Bundle",
    "DeviceError",
    "InferenceSession",
    "Outputs",
    "Placement",
    "QueueFull",
    "Session",
    "UserError",
    "__version__",
    "compile",
    "load",
    "load_arch",
]

_HOMES = {
    "ArchConfig": ("spec.arch", "ArchConfig"),
    "Bundle": ("spec.bundle", "Bundle"),
    "DeviceError": ("host", "DeviceError"),
    "InferenceSession": ("inference_session", "InferenceSession"),
    "Outputs": ("host", "Outputs"),
    "Placement": ("host", "Placement"),
    "QueueFull": ("host", "QueueFull"),
    "Session": ("host", "Session"),
    "UserError": ("spec.errors", "UserError"),
    "compile": ("compiler.driver", "compile"),
    "load": ("spec.bundle", "load_bundle"),
    "load_arch": ("spec.presets", "load_arch"),
}
"""Public name to module and name there."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("moesaic")
    if name not in _HOMES:
        raise AttributeError(f"module 'moesaic' has no attribute {name!r}")
    from moesaic.spec.extras import explained

    module, attribute = _HOMES[name]
    with explained():
        value = getattr(importlib.import_module(f"moesaic.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
