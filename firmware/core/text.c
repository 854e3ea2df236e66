/* Results and errors in words. */
#include "moesaic.h"

static const char *const RESULTS[MOESAIC_RESULT_COUNT] = {MOESAIC_RESULT_TEXTS};
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
