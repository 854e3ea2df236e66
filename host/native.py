"""The C driver as ctypes sees it: the library, its structures, its functions.

The signatures are those of ``firmware/include/moesaic.h``; a library of another ABI is refused.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from moesaic.spec import image, registers
from moesaic.spec.errors import UserError
from moesaic.spec.results import ABI

_NAME = "libmoesaic.so"
_HOST = Path(__file__).resolve().parent
_PLACES = (_HOST / _NAME, _HOST.parent / "build" / "firmware" / "native" / _NAME)

_pointer, _u32, _u64, _size = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t

ReadRegister = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _u32, ctypes.POINTER(_u32))
WriteRegister = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _u32, _u32)
CopyMemory = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _u64, _pointer, _size)
Wait = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _u64, ctypes.POINTER(_u64))


class CPlatform(ctypes.Structure):
    """``moesaic_platform``: a context and the functions that reach the hardware."""

    _fields_ = [
        ("context", _pointer),
        ("read_register", ReadRegister),
        ("write_register", WriteRegister),
        ("read_memory", CopyMemory),
        ("write_memory", CopyMemory),
        ("wait", Wait),
    ]


class CConfig(ctypes.Structure):
    """``moesaic_config``."""

    _fields_ = [
        ("memory_base", _u64),
        ("memory_bytes", _u64),
        ("watchdog_cycles", _u32),
        ("poll_cycles", _u32),
    ]


class CWindow(ctypes.Structure):
    """``moesaic_window``."""

    _fields_ = [("address", _u64), ("bytes", _u32)]


class CShape(ctypes.Structure):
    """``moesaic_shape``."""

    _fields_ = [("rows", _u32), ("columns", _u32)]


class CTaskInfo(ctypes.Structure):
    """``moesaic_task_info``."""

    _fields_ = [
        ("name", ctypes.c_char * image.NAME_BYTES),
        ("input_rows", _u32),
        ("inputs", _u32),
        ("output_count", _u32),
        ("scratch_bytes", _u32),
        ("output", CShape * image.MAX_HEADS),
    ]


def output_codes(info: CTaskInfo) -> int:
    """Codes of all outputs of a frame."""
    return sum(shape.rows * shape.columns for shape in info.output[: info.output_count])


class CTask(ctypes.Structure):
    """``moesaic_task``."""

    _fields_ = [
        ("info", CTaskInfo),
        ("program", CWindow),
        ("constant", CWindow),
        ("input", CWindow),
        ("output", CWindow * registers.MAX_OUTPUT_PORTS),
    ]


class CFault(ctypes.Structure):
    """``moesaic_fault``."""

    _fields_ = [("code", _u32), ("info", _u32)]


class CUioConfig(ctypes.Structure):
    """``moesaic_uio_config``."""

    _fields_ = [
        ("device", ctypes.c_char_p),
        ("map", ctypes.c_char_p),
        ("memory", ctypes.c_char_p),
        ("memory_attributes", ctypes.c_char_p),
        ("clock_hz", _u64),
        ("mode", ctypes.c_int),
        ("interrupt", ctypes.POINTER(ctypes.c_int)),
    ]


class CUioHead(ctypes.Structure):
    """The public members of ``moesaic_uio``."""

    _fields_ = [
        ("memory_base", _u64),
        ("memory_bytes", _u64),
        ("error", ctypes.c_int),
        ("failed", ctypes.c_char_p),
    ]


_FUNCTIONS = {
    "moesaic_open": [_pointer, ctypes.POINTER(CPlatform), CConfig],
    "moesaic_load": [_pointer, ctypes.c_char_p, _size],
    "moesaic_find_task": [_pointer, ctypes.c_char_p, ctypes.POINTER(_u32)],
    "moesaic_get_task": [_pointer, _u32, ctypes.POINTER(CTask)],
    "moesaic_get_weight_window": [_pointer, _u32, ctypes.POINTER(CWindow)],
    "moesaic_write_input": [_pointer, _u32, _pointer, _size],
    "moesaic_submit": [_pointer, _u32],
    "moesaic_wait": [_pointer, _u64],
    "moesaic_read_output": [_pointer, _u32, _pointer, _size],
    "moesaic_get_fault": [_pointer, ctypes.POINTER(CFault)],
    "moesaic_read_counters": [_pointer, ctypes.POINTER(_u64), _size],
    "moesaic_reset": [_pointer],
    "moesaic_close": [_pointer],
    "moesaic_uio_find": [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint, _pointer],
    "moesaic_uio_open": [_pointer, ctypes.POINTER(CUioConfig), ctypes.POINTER(CPlatform)],
}
"""All of them return a moesaic_result."""


@functools.cache
def library() -> ctypes.CDLL:
    """The driver: ``$MOESAIC_LIBRARY``, or beside this module, or where ``make`` puts it.

    Raises
    ------
    UserError
        There is none, it cannot be loaded, or it is of another version.
    """
    named = os.environ.get("MOESAIC_LIBRARY")
    places = [Path(named)] if named else [path for path in _PLACES if path.is_file()]
    if not places:
        raise UserError(
            f"the driver {_NAME} is not there: run `make setup` in a checkout, install a wheel,"
            " or name it in MOESAIC_LIBRARY"
        )
    try:
        dll = ctypes.CDLL(str(places[0]))
        found = dll.moesaic_abi()
        for name, arguments in _FUNCTIONS.items():
            function = getattr(dll, name)
            function.restype, function.argtypes = ctypes.c_int, arguments
    except (OSError, AttributeError) as error:
        raise UserError(
            f"the driver {places[0]} cannot be used ({error}); build it again"
        ) from error
    if found != ABI:
        raise UserError(
            f"the driver {places[0]} has ABI {found}, this version needs {ABI}; build it again"
        )
    dll.moesaic_device_bytes.restype = dll.moesaic_uio_bytes.restype = _size
    dll.moesaic_uio_close.restype, dll.moesaic_uio_close.argtypes = None, [_pointer]
    dll.moesaic_lost_interrupts.restype, dll.moesaic_lost_interrupts.argtypes = _u32, [_pointer]
    dll.moesaic_frame_timeout.restype, dll.moesaic_frame_timeout.argtypes = _u64, [_pointer]
    return dll
