/* Opening, loading and closing. */
#include <string.h>

#include "internal.h"

moesaic_result moesaic_open(moesaic_device *device, const moesaic_platform *platform,
                            moesaic_config config) {
    const uint64_t limit = (uint64_t)1 << MOESAIC_ADDRESS_BITS;
    uint32_t id, version, hash;
    if (!device || !platform || !platform->read_register || !platform->write_register ||
        !platform->read_memory || !platform->write_memory || !platform->wait)
        return MOESAIC_BAD_ARGUMENT;
    if (config.memory_base % MOESAIC_WINDOW_ALIGNMENT || config.memory_bytes == 0 ||
        config.memory_base >= limit || config.memory_bytes > limit - config.memory_base)
        return MOESAIC_BAD_ARGUMENT;
    if (config.watchdog_cycles == 0 || config.poll_cycles == 0) return MOESAIC_BAD_ARGUMENT;
    memset(device, 0, sizeof(*device));
    device->platform = *platform;
    device->config = config;
    TRY(moesaic_get(device, MOESAIC_ID, &id));
    if (id != MOESAIC_MAGIC) return MOESAIC_NO_DEVICE;
    TRY(moesaic_get(device, MOESAIC_VERSION, &version));
    if (version != MOESAIC_INTERFACE_VERSION) return MOESAIC_BAD_VERSION;
    TRY(moesaic_get(device, MOESAIC_ARCH_HASH, &hash));
    device->sizes.arch_hash = hash;
    device->state = STATE_OPEN;
    return MOESAIC_OK;
}

/* Take the next aligned place in device memory. */
static moesaic_result place(const moesaic_device *device, uint64_t *next, uint64_t bytes,
                            moesaic_window *window) {
    const uint64_t align = MOESAIC_WINDOW_ALIGNMENT;
    const moesaic_config *config = &device->config;
    uint64_t start = (*next + align - 1) / align * align;
    if (start - config->memory_base > config->memory_bytes ||
        bytes > config->memory_bytes - (start - config->memory_base))
        return MOESAIC_NO_MEMORY;
    window->address = start;
    window->bytes = (uint32_t)bytes;
    *next = start + bytes;
    return MOESAIC_OK;
}

/* The next place from `next` on that is a step behind the last port's weights, modulo a round: all
 * ports read at one pace, and so in banks of their own. */
static uint64_t step_behind(const moesaic_window *last, uint32_t ports, uint64_t next) {
    const uint64_t round = MOESAIC_WEIGHT_ROUND_BYTES;
    const uint64_t wanted = last->address + MOESAIC_WEIGHT_STEP_BYTES(ports);
    return next <= wanted ? wanted : wanted + (next - wanted + round - 1) / round * round;
}

/* Say where everything goes, without writing anything but the handle. */
static moesaic_result plan(moesaic_device *device, const moesaic_image *image) {
    uint64_t next = device->config.memory_base;
    device->sizes = image->sizes;
    device->task_count = image->task_count;
    for (uint32_t port = 0; port < image->sizes.weight_ports; ++port) {
        if (port > 0)
            next = step_behind(&device->weight[port - 1], image->sizes.weight_ports, next);
        TRY(place(device, &next, moesaic_weight_section(image, port).bytes, &device->weight[port]));
    }
    for (uint32_t number = 0; number < image->task_count; ++number) {
        moesaic_task *task = &device->task[number];
        moesaic_image_task(image, number, &task->info);
        TRY(place(device, &next, moesaic_program_section(image, number).bytes, &task->program));
        TRY(place(device, &next, moesaic_constant_section(image, number).bytes, &task->constant));
        TRY(place(device, &next, moesaic_input_bytes(&image->sizes, &task->info), &task->input));
        for (uint32_t port = 0; port < image->sizes.output_ports; ++port)
            TRY(place(device, &next, moesaic_output_bytes(&image->sizes, &task->info, port),
                      &task->output[port]));
    }
    return MOESAIC_OK;
}

static moesaic_result copy(moesaic_device *device, const moesaic_image *image, moesaic_section part,
                           const moesaic_window *window) {
    moesaic_platform *platform = &device->platform;
    return platform->write_memory(platform->context, window->address, image->data + part.offset,
                                  (size_t)part.bytes)
               ? MOESAIC_PLATFORM_ERROR
               : MOESAIC_OK;
}

moesaic_result moesaic_load(moesaic_device *device, const void *data, size_t bytes) {
    moesaic_image image;
    uint32_t hash;
    if (!device || !data) return MOESAIC_BAD_ARGUMENT;
    if (device->state != STATE_OPEN && device->state != STATE_LOADED) return MOESAIC_BAD_STATE;
    TRY(moesaic_parse_image(&image, data, bytes));
    TRY(moesaic_get(device, MOESAIC_ARCH_HASH, &hash));
    if (hash != image.sizes.arch_hash) return MOESAIC_WRONG_ARCH;
    device->state = STATE_OPEN; /* from here on what was loaded before is no longer whole */
    TRY(plan(device, &image));
    TRY(moesaic_abandon(device));
    for (uint32_t port = 0; port < image.sizes.weight_ports; ++port)
        TRY(copy(device, &image, moesaic_weight_section(&image, port), &device->weight[port]));
    for (uint32_t number = 0; number < image.task_count; ++number) {
        const moesaic_task *task = &device->task[number];
        TRY(copy(device, &image, moesaic_program_section(&image, number), &task->program));
        TRY(copy(device, &image, moesaic_constant_section(&image, number), &task->constant));
    }
    device->state = STATE_LOADED;
    return MOESAIC_OK;
}

moesaic_result moesaic_find_task(const moesaic_device *device, const char *name, uint32_t *task) {
    if (!device || !name || !task) return MOESAIC_BAD_ARGUMENT;
    if (device->state != STATE_LOADED && device->state != STATE_RUNNING) return MOESAIC_BAD_STATE;
    for (uint32_t number = 0; number < device->task_count; ++number) {
        const char *known = device->task[number].info.name;
        size_t i = 0;
        while (i < MOESAIC_NAME_BYTES && known[i] == name[i] && known[i]) ++i;
        if (i < MOESAIC_NAME_BYTES && known[i] == name[i]) {
            *task = number;
            return MOESAIC_OK;
        }
    }
    return MOESAIC_NO_TASK;
}

moesaic_result moesaic_get_task(const moesaic_device *device, uint32_t number, moesaic_task *task) {
    if (!device || !task) return MOESAIC_BAD_ARGUMENT;
    if (device->state != STATE_LOADED && device->state != STATE_RUNNING) return MOESAIC_BAD_STATE;
    if (number >= device->task_count) return MOESAIC_NO_TASK;
    *task = device->task[number];
    return MOESAIC_OK;
}

moesaic_result moesaic_get_weight_window(const moesaic_device *device, uint32_t port,
                                         moesaic_window *window) {
    if (!device || !window) return MOESAIC_BAD_ARGUMENT;
    if (device->state != STATE_LOADED && device->state != STATE_RUNNING) return MOESAIC_BAD_STATE;
    if (port >= device->sizes.weight_ports) return MOESAIC_BAD_ARGUMENT;
    *window = device->weight[port];
    return MOESAIC_OK;
}

moesaic_result moesaic_close(moesaic_device *device) {
    moesaic_result result = MOESAIC_OK;
    if (!device) return MOESAIC_BAD_ARGUMENT;
    if (device->state != STATE_OPEN && device->state != STATE_LOADED &&
        device->state != STATE_RUNNING)
        return MOESAIC_BAD_STATE;
    if (device->state == STATE_RUNNING) result = moesaic_abandon(device);
    if (result == MOESAIC_OK && device->known[MOESAIC_IRQ_ENABLE / 4])
        result = moesaic_put(device, MOESAIC_IRQ_ENABLE, 0);
    device->state = 0;
    return result;
}
