/* Results and errors in words. */
#include "moesaic.h"

static const char *const RESULTS[MOESAIC_RESULT_COUNT] = {
    [MOESAIC_OK] = "done",
    [MOESAIC_BAD_ARGUMENT] = "an argument is null, misaligned or of the wrong size",
    [MOESAIC_BAD_STATE] = "the call does not fit the state: not open, nothing loaded, or busy",
    [MOESAIC_NO_DEVICE] = "no accelerator answers",
    [MOESAIC_BAD_VERSION] = "the accelerator's register map has another version",
    [MOESAIC_WRONG_ARCH] = "the image is for another architecture than the accelerator's",
    [MOESAIC_BAD_IMAGE] = "this is no device image, or it is truncated",
    [MOESAIC_CORRUPT_IMAGE] = "a checksum of the device image does not match",
    [MOESAIC_NO_MEMORY] = "the image needs more device memory than there is",
    [MOESAIC_NO_TASK] = "the image has no such task",
    [MOESAIC_DEVICE_LOST] = "the accelerator is gone: its registers read as something else",
    [MOESAIC_TIMEOUT] = "the frame did not end in time",
    [MOESAIC_FRAME_ERROR] = "the accelerator ended the frame with an error",
    [MOESAIC_STUCK] = "the accelerator stays busy after a reset: its bus does not answer",
    [MOESAIC_PLATFORM_ERROR] = "registers or memory could not be reached",
    [MOESAIC_IN_USE] = "another process uses the accelerator",
};

static const char *const ERRORS[] = {MOESAIC_ERROR_NAMES};

const char *moesaic_result_text(int result) {
    if (result < 0 || result >= MOESAIC_RESULT_COUNT) return "unknown result";
    return RESULTS[result];
}

const char *moesaic_error_name(uint32_t code) {
    if (code >= sizeof(ERRORS) / sizeof(ERRORS[0])) return "unknown error";
    return ERRORS[code];
}

uint32_t moesaic_abi(void) { return MOESAIC_ABI; }

size_t moesaic_device_bytes(void) { return sizeof(moesaic_device); }
