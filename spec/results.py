"""What the calls of the C driver return, described once for the driver and its bindings."""

from __future__ import annotations

import enum

ABI = 2
"""Version of the driver's structures and signatures; a binding of another one is refused."""


class Result(enum.IntEnum):
    """Values of ``moesaic_result``; ``RESULT_DOCS`` says what they mean."""

    OK = 0
    BAD_ARGUMENT = 1
    BAD_STATE = 2
    NO_DEVICE = 3
    BAD_VERSION = 4
    WRONG_ARCH = 5
    BAD_IMAGE = 6
    CORRUPT_IMAGE = 7
    NO_MEMORY = 8
    NO_TASK = 9
    DEVICE_LOST = 10
    TIMEOUT = 11
    FRAME_ERROR = 12
    STUCK = 13
    PLATFORM_ERROR = 14
    IN_USE = 15


RESULT_DOCS: dict[Result, str] = {
    Result.OK: "done",
    Result.BAD_ARGUMENT: "an argument is null, misaligned or of the wrong size",
    Result.BAD_STATE: "the call does not fit the state: not open, nothing loaded, or busy",
    Result.NO_DEVICE: "no accelerator answers: ID is not its own",
    Result.BAD_VERSION: "the accelerator's register map has another version",
    Result.WRONG_ARCH: "the image is for another architecture than the accelerator's",
    Result.BAD_IMAGE: "this is no device image, or it is truncated",
    Result.CORRUPT_IMAGE: "a checksum of the device image does not match",
    Result.NO_MEMORY: "the image and its windows need more device memory than there is",
    Result.NO_TASK: "the image has no such task",
    Result.DEVICE_LOST: "the accelerator is gone: its registers read as something else",
    Result.TIMEOUT: "the frame did not end in time",
    Result.FRAME_ERROR: "the accelerator ended the frame with an error",
    Result.STUCK: "the accelerator stays busy after a reset: its bus owes an answer",
    Result.PLATFORM_ERROR: "registers or memory could not be reached",
    Result.IN_USE: "another process uses the accelerator",
}
