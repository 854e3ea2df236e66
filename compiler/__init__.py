"""The int8 compiler: ONNX in, bundle out. See :func:`moesaic.compiler.driver.compile`."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """``moesaic.compiler.compile`` without loading ONNX Runtime for users of the parts."""
    if name == "compile":
        from moesaic.compiler.driver import compile

        return compile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
