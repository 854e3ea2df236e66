/* Register access through the platform, and what is known about the registers. */
#include <string.h>

#include "internal.h"

moesaic_result moesaic_get(moesaic_device *device, uint32_t offset, uint32_t *value) {
    moesaic_platform *platform = &device->platform;
    return platform->read_register(platform->context, offset, value) ? MOESAIC_PLATFORM_ERROR
                                                                     : MOESAIC_OK;
}

moesaic_result moesaic_put(moesaic_device *device, uint32_t offset, uint32_t value) {
    moesaic_platform *platform = &device->platform;
    return platform->write_register(platform->context, offset, value) ? MOESAIC_PLATFORM_ERROR
                                                                      : MOESAIC_OK;
}

moesaic_result moesaic_set(moesaic_device *device, uint32_t offset, uint32_t value) {
    /* Most windows do not change from frame to frame: a task switch is a few writes. */
    uint32_t slot = offset / 4;
    if (device->known[slot] && device->written[slot] == value) return MOESAIC_OK;
    device->known[slot] = 0;
    TRY(moesaic_put(device, offset, value));
    device->written[slot] = value;
    device->known[slot] = 1;
    return MOESAIC_OK;
}

moesaic_result moesaic_set_window(moesaic_device *device, uint32_t offset,
                                  const moesaic_window *window) {
    const uint32_t high = MOESAIC_PROGRAM_BASE_HI - MOESAIC_PROGRAM_BASE_LO;
    const uint32_t size = MOESAIC_PROGRAM_SIZE - MOESAIC_PROGRAM_BASE_LO;
    TRY(moesaic_set(device, offset, (uint32_t)window->address));
    TRY(moesaic_set(device, offset + high, (uint32_t)(window->address >> 32)));
    return moesaic_set(device, offset + size, window->bytes);
}

void moesaic_forget_registers(moesaic_device *device) {
    memset(device->known, 0, sizeof(device->known));
}

moesaic_result moesaic_alive(moesaic_device *device) {
    uint32_t id, hash;
    TRY(moesaic_get(device, MOESAIC_ID, &id));
    TRY(moesaic_get(device, MOESAIC_ARCH_HASH, &hash));
    if (id == MOESAIC_MAGIC && hash == device->sizes.arch_hash) return MOESAIC_OK;
    device->state = STATE_OPEN; /* whatever is there now, nothing of ours is loaded in it */
    return MOESAIC_DEVICE_LOST;
}
