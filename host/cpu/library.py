"""The C library as ctypes sees it: its structures, and its functions at a level of instructions."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import weakref
from pathlib import Path

from moesaic.spec import formats, tables

_NAME = "libmoesaic_cpu.so"
_HERE = Path(__file__).resolve().parent
PLACES = (_HERE / _NAME, _HERE.parents[1] / "build" / "cpu" / _NAME)
"""Where a wheel has it, and where ``make setup`` puts it."""

_i32, _i64, _double, _pointer = (
    ctypes.c_int32,
    ctypes.c_int64,
    ctypes.c_double,
    ctypes.c_void_p,
)


class CLinear(ctypes.Structure):
    """``exact_linear``."""

    _fields_ = [
        ("inputs", _i32),
        ("outputs", _i32),
        *((name, _pointer) for name in ("weights", "factor", "offset", "low", "high")),
    ]


class CNorm(ctypes.Structure):
    """``exact_norm``."""

    _fields_ = [
        ("channels", _i32),
        ("plain", _i32),
        ("epsilon", _i64),
        ("multiplier", _i32),
        ("shift", _i32),
        ("rsqrt", _pointer),
    ]


class CMlp(ctypes.Structure):
    """``exact_mlp``."""

    _fields_ = [
        ("up", CLinear),
        ("down", CLinear),
        *((name, _i32) for name in ("wide", "paired", "first", "last")),
        ("codes", _pointer),
        ("fine", _pointer),
        ("factor", _double),
        ("offset", _i32),
    ]


class CAttention(ctypes.Structure):
    """``exact_attention``."""

    _fields_ = [
        ("project", CLinear),
        ("output", CLinear),
        *((name, _i32) for name in ("heads", "dim", "value_dim", "tokens")),
        ("softmax", _double),
        ("numerators", _pointer),
        ("dither", _pointer),
        ("multiplier", _i32),
        ("shift", _i32),
        ("reciprocal", _pointer),
        ("attended", _i32),
        ("wide_query", _i32),
        ("cosine", _pointer),
        ("sine", _pointer),
    ]


class CMoe(ctypes.Structure):
    """``exact_moe``."""

    _fields_ = [
        ("gate", CLinear),
        *((name, _i32) for name in ("experts", "top_k", "renormalise", "sigmoid")),
        ("multiplier", _i32),
        ("shift", _i32),
        *((name, _pointer) for name in ("corrections", "exp2", "reciprocal", "mlps")),
    ]


_STRUCTURES = (CLinear, CNorm, CMlp, CAttention, CMoe)
_FORMATS = (
    formats.RESIDUAL_GUARD_BITS,
    formats.GATE_FRACTION_BITS,
    formats.ANGLE_FRACTION_BITS,
    tables.ACTIVATION_INPUT_BITS,
    formats.SIGMOID_FRACTION_BITS,
    tables.EXP2_FRACTION_BITS,
    (1 << tables.EXPONENT_BITS) - 1,
    tables.DITHER_BITS,
    tables.RECIPROCAL_INDEX_BITS,
)
_SIGNATURES = {
    "norm": (None, (_pointer, _pointer, _pointer, _i32, _pointer, _pointer)),
    "add": (None, (_pointer, _pointer, _pointer, _i32, _pointer)),
    "codes": (None, (_pointer, _pointer, _pointer, _i32, _pointer)),
    "dense": (_i32, (_pointer, _pointer, _pointer, _pointer, _i32, _pointer)),
    "moe": (_i32, (_pointer, _pointer, _pointer, _pointer, _i32, _pointer)),
    "attention": (_i32, (_pointer, _pointer, _pointer, _i32, _pointer)),
}


class Kernels:
    """The functions of one level; ctypes releases the interpreter's lock while they run."""

    def __init__(self, library: ctypes.CDLL, level: str) -> None:
        self.level = level
        self.norm, self.add, self.codes, self.dense, self.moe, self.attention = (
            _function(library, f"{name}_{level}", *signature)
            for name, signature in _SIGNATURES.items()
        )


def _function(
    library: ctypes.CDLL, name: str, result: type | None, arguments: tuple[type, ...]
) -> ctypes._NamedFuncPointer:
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return found


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library; None where there is none, or one that was built for other formats."""
    for place in PLACES:
        try:
            library = ctypes.CDLL(str(place))
            library.exact_levels.restype = ctypes.c_char_p
            library.exact_open.restype, library.exact_open.argtypes = _pointer, (ctypes.c_int,)
            library.exact_close.restype, library.exact_close.argtypes = None, (_pointer,)
            made_for = (_i32 * len(_FORMATS)).in_dll(library, "exact_formats")
            sizes = (_i32 * len(_STRUCTURES)).in_dll(library, "exact_sizes")
        except (OSError, AttributeError, ValueError):
            continue
        if tuple(made_for) == _FORMATS and list(sizes) == [*map(ctypes.sizeof, _STRUCTURES)]:
            return library
    return None


def levels() -> list[str]:
    """Levels of instructions that the library has for this processor, the best one first."""
    library = load()
    return [] if library is None else library.exact_levels().decode().split()


def _end(library: ctypes.CDLL, address: int, owner: int) -> None:
    if os.getpid() == owner:  # threads do not survive a fork: there are none to be waited for
        library.exact_close(address)


class Pool:
    """Threads that compute together: ``threads`` of them, the caller's included.

    They share the pieces of a call of the library, one call at a time (:attr:`lock`); one that
    does not come in time is not waited for.
    """

    def __init__(self, threads: int) -> None:
        library = load()
        assert library is not None
        self.lock = threading.Lock()
        self.address = library.exact_open(threads) if threads > 1 else None
        if self.address:
            self._finalizer = weakref.finalize(self, _end, library, self.address, os.getpid())
            self._finalizer.atexit = False  # threads end with the process

    def close(self) -> None:
        """End the threads."""
        if self.address:
            self._finalizer()
            self.address = None


def kernels(level: str) -> Kernels:
    """The functions of one of :func:`levels`."""
    library = load()
    assert library is not None and level in levels()
    return Kernels(library, level)
