/* A frame: start it, wait for its end, and what to do when it ends badly. */
#include "internal.h"

#define CAUSES (MOESAIC_IRQ_STATUS_DONE | MOESAIC_IRQ_STATUS_ERROR)
#define IDLE_READS 20000u /* of STATUS after a reset; longer than the abort limit on any bus */

moesaic_result moesaic_abandon(moesaic_device *device) {
    uint32_t status = MOESAIC_STATUS_BUSY;
    moesaic_forget_registers(device);
    TRY(moesaic_put(device, MOESAIC_CONTROL, MOESAIC_CONTROL_RESET));
    for (uint32_t i = 0; i < IDLE_READS && (status & MOESAIC_STATUS_BUSY); ++i) {
        TRY(moesaic_get(device, MOESAIC_STATUS, &status));
        if (status == UINT32_MAX) break;
    }
    TRY(moesaic_alive(device));
    TRY(moesaic_put(device, MOESAIC_IRQ_ENABLE, 0));
    if (status & MOESAIC_STATUS_BUSY) return MOESAIC_STUCK;
    return moesaic_put(device, MOESAIC_IRQ_STATUS, CAUSES);
}

moesaic_result moesaic_reset(moesaic_device *device) {
    if (!device) return MOESAIC_BAD_ARGUMENT;
    if (device->state != STATE_LOADED && device->state != STATE_RUNNING) return MOESAIC_BAD_STATE;
    /* Until this has gone well, a frame may run, and the next one's START would be ignored. */
    device->state = STATE_RUNNING;
    TRY(moesaic_abandon(device));
    device->state = STATE_LOADED;
    return MOESAIC_OK;
}

moesaic_result moesaic_submit(moesaic_device *device, uint32_t number) {
    const moesaic_task *task;
    uint32_t hash;
    if (!device) return MOESAIC_BAD_ARGUMENT;
    if (device->state != STATE_LOADED) return MOESAIC_BAD_STATE;
    if (number >= device->task_count) return MOESAIC_NO_TASK;
    task = &device->task[number];
    TRY(moesaic_get(device, MOESAIC_ARCH_HASH, &hash));
    if (hash != device->sizes.arch_hash) {
        device->state = STATE_OPEN;
        return MOESAIC_DEVICE_LOST;
    }
    for (uint32_t port = 0; port < device->sizes.weight_ports; ++port)
        TRY(moesaic_set_window(device, MOESAIC_WEIGHT0_BASE_LO + MOESAIC_WINDOW_STRIDE * port,
                               &device->weight[port]));
    TRY(moesaic_set_window(device, MOESAIC_PROGRAM_BASE_LO, &task->program));
    TRY(moesaic_set_window(device, MOESAIC_CONSTANT_BASE_LO, &task->constant));
    TRY(moesaic_set_window(device, MOESAIC_INPUT_BASE_LO, &task->input));
    for (uint32_t port = 0; port < device->sizes.output_ports; ++port)
        TRY(moesaic_set_window(device, MOESAIC_OUTPUT_BASE_LO + MOESAIC_WINDOW_STRIDE * port,
                               &task->output[port]));
    TRY(moesaic_set(device, MOESAIC_WATCHDOG, device->config.watchdog_cycles));
    TRY(moesaic_set(device, MOESAIC_IRQ_ENABLE, CAUSES));
    /* A write that fails may have arrived all the same. */
    device->state = STATE_RUNNING;
    device->running = number;
    return moesaic_put(device, MOESAIC_CONTROL, MOESAIC_CONTROL_START);
}

/* The frame has ended, or is given up: make the accelerator ready for the next one. */
static moesaic_result give_up(moesaic_device *device, moesaic_result reason) {
    moesaic_result reset = moesaic_reset(device);
    return reset == MOESAIC_OK ? reason : reset;
}

moesaic_result moesaic_wait(moesaic_device *device, uint64_t timeout_cycles) {
    moesaic_platform *platform;
    uint64_t spent = 0;
    if (!device || timeout_cycles == 0) return MOESAIC_BAD_ARGUMENT;
    if (device->state != STATE_RUNNING) return MOESAIC_BAD_STATE;
    platform = &device->platform;
    while (spent < timeout_cycles) {
        uint64_t slice = device->config.poll_cycles, waited = 0;
        uint32_t status;
        if (slice > timeout_cycles - spent) slice = timeout_cycles - spent;
        if (platform->wait(platform->context, slice, &waited)) return MOESAIC_PLATFORM_ERROR;
        if (waited == 0) waited = 1;
        spent = waited < timeout_cycles - spent ? spent + waited : timeout_cycles;
        TRY(moesaic_get(device, MOESAIC_IRQ_STATUS, &status));
        if (status & ~CAUSES) { /* bits that do not exist: the bus answers nonsense */
            TRY(moesaic_alive(device));
            return give_up(device, MOESAIC_DEVICE_LOST);
        }
        if (!(status & CAUSES)) continue;
        if (waited >= slice) ++device->lost_interrupts;
        TRY(moesaic_put(device, MOESAIC_IRQ_STATUS, CAUSES));
        if (!(status & MOESAIC_IRQ_STATUS_ERROR)) {
            device->state = STATE_LOADED;
            return MOESAIC_OK;
        }
        TRY(moesaic_get(device, MOESAIC_ERROR, &device->fault.code));
        TRY(moesaic_get(device, MOESAIC_ERROR_INFO, &device->fault.info));
        return give_up(device, MOESAIC_FRAME_ERROR);
    }
    return give_up(device, MOESAIC_TIMEOUT);
}

uint64_t moesaic_frame_timeout(const moesaic_device *device) {
    return device ? (uint64_t)device->config.watchdog_cycles + 2 * MOESAIC_ABORT_LIMIT_CYCLES : 0;
}

moesaic_result moesaic_run(moesaic_device *device, uint32_t task, const int8_t *input,
                           size_t input_count, int16_t *output, size_t output_count) {
    const moesaic_task_info *info;
    if (!device || !input || !output) return MOESAIC_BAD_ARGUMENT;
    if (device->state != STATE_LOADED) return MOESAIC_BAD_STATE;
    if (task >= device->task_count) return MOESAIC_NO_TASK;
    info = &device->task[task].info;
    if (output_count != moesaic_output_codes(info)) return MOESAIC_BAD_ARGUMENT;
    TRY(moesaic_write_input(device, task, input, input_count));
    TRY(moesaic_submit(device, task));
    TRY(moesaic_wait(device, moesaic_frame_timeout(device)));
    return moesaic_read_output(device, task, output, output_count);
}

moesaic_result moesaic_get_fault(const moesaic_device *device, moesaic_fault *fault) {
    if (!device || !fault) return MOESAIC_BAD_ARGUMENT;
    *fault = device->fault;
    return MOESAIC_OK;
}

uint32_t moesaic_lost_interrupts(const moesaic_device *device) {
    return device ? device->lost_interrupts : 0;
}

moesaic_result moesaic_read_counters(moesaic_device *device, uint64_t *counters, size_t count) {
    if (!device || !counters || count != MOESAIC_COUNTER_COUNT) return MOESAIC_BAD_ARGUMENT;
    if (device->state != STATE_LOADED) return MOESAIC_BAD_STATE;
    for (uint32_t i = 0; i < MOESAIC_COUNTER_COUNT; ++i) {
        uint32_t offset = MOESAIC_COUNTER_BASE + MOESAIC_COUNTER_STRIDE * i, low, high;
        TRY(moesaic_get(device, offset, &low));
        TRY(moesaic_get(device, offset + 4, &high));
        counters[i] = (uint64_t)high << 32 | low;
    }
    return moesaic_alive(device);
}
