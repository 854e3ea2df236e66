/* Codes of inputs and outputs between the caller's rows and the layouts in device memory. */
#include <string.h>

#include "internal.h"

/* The task, if its windows may be touched now. */
static moesaic_result usable(moesaic_device *device, uint32_t number, const void *codes,
                             const moesaic_task **task) {
    if (!device || !codes) return MOESAIC_BAD_ARGUMENT;
    if (device->state != STATE_LOADED && device->state != STATE_RUNNING) return MOESAIC_BAD_STATE;
    if (number >= device->task_count) return MOESAIC_NO_TASK;
    if (device->state == STATE_RUNNING && device->running == number) return MOESAIC_BAD_STATE;
    *task = &device->task[number];
    return MOESAIC_OK;
}

static moesaic_result write_block(moesaic_device *device, uint64_t address, const void *data,
                                  size_t bytes) {
    moesaic_platform *platform = &device->platform;
    return platform->write_memory(platform->context, address, data, bytes) ? MOESAIC_PLATFORM_ERROR
                                                                           : MOESAIC_OK;
}

moesaic_result moesaic_write_input(moesaic_device *device, uint32_t number, const int8_t *codes,
                                   size_t count) {
    const moesaic_task *task;
    uint64_t address;
    uint32_t inputs, padded;
    size_t fill = 0;
    TRY(usable(device, number, codes, &task));
    inputs = task->info.inputs;
    if (count != (uint64_t)task->info.input_rows * inputs) return MOESAIC_BAD_ARGUMENT;
    address = task->input.address;
    padded = (uint32_t)(task->input.bytes / task->info.input_rows);
    if (padded == inputs) return write_block(device, address, codes, count);
    /* Rows are padded with zeros to whole words, collected in the buffer and written at once. */
    for (uint32_t row = 0; row < task->info.input_rows; ++row) {
        for (uint32_t column = 0; column < padded;) {
            uint32_t end = column < inputs ? inputs : padded;
            size_t room = MOESAIC_BUFFER_BYTES - fill, take = end - column;
            if (take > room) take = room;
            if (column < inputs)
                memcpy(device->buffer + fill, codes + (size_t)row * inputs + column, take);
            else
                memset(device->buffer + fill, 0, take);
            fill += take;
            column += (uint32_t)take;
            if (fill == MOESAIC_BUFFER_BYTES) {
                TRY(write_block(device, address, device->buffer, fill));
                address += fill;
                fill = 0;
            }
        }
    }
    return fill ? write_block(device, address, device->buffer, fill) : MOESAIC_OK;
}

/* One output of a task, whose chunks begin at number `start` of the output windows. */
static moesaic_result read_one(moesaic_device *device, const moesaic_task *task, uint32_t start,
                               const moesaic_shape *shape, int16_t *codes) {
    moesaic_platform *platform = &device->platform;
    uint32_t outputs = shape->columns, width = device->sizes.width, lanes = device->sizes.lanes;
    uint32_t ports = device->sizes.output_ports;
    uint32_t part = 2 * lanes / ports; /* bytes of a chunk in each port's window */
    uint32_t chunks = shape->rows * ((outputs - 1) / lanes + 1);
    uint32_t batch = MOESAIC_BUFFER_BYTES / (2 * lanes), tile = 0, row = 0, column = 0;
    for (uint32_t first = 0; first < chunks; first += batch) {
        uint32_t many = chunks - first < batch ? chunks - first : batch;
        for (uint32_t port = 0; port < ports; ++port) {
            if (platform->read_memory(platform->context,
                                      task->output[port].address + (uint64_t)(start + first) * part,
                                      device->buffer + (size_t)port * many * part,
                                      (size_t)many * part))
                return MOESAIC_PLATFORM_ERROR;
        }
        /* Drain order: n-tiles of `width` columns, in each all rows, in each row its chunks. */
        for (uint32_t chunk = 0; chunk < many; ++chunk) {
            for (uint32_t lane = 0; lane < lanes && column + lane < outputs; ++lane) {
                uint32_t byte = 2 * lane, port = byte / part;
                const uint8_t *p =
                    device->buffer + ((size_t)port * many + chunk) * part + byte % part;
                uint16_t code = (uint16_t)(p[0] | p[1] << 8);
                codes[(size_t)row * outputs + column + lane] =
                    (int16_t)(code < 0x8000u ? (int32_t)code : (int32_t)code - 0x10000);
            }
            column += lanes;
            if (column >= outputs || column >= (tile + 1) * width) {
                if (++row == shape->rows) {
                    row = 0;
                    ++tile;
                }
                column = tile * width;
            }
        }
    }
    return MOESAIC_OK;
}

moesaic_result moesaic_read_output(moesaic_device *device, uint32_t number, int16_t *codes,
                                   size_t count) {
    const moesaic_task *task;
    uint32_t start = 0, lanes;
    TRY(usable(device, number, codes, &task));
    if (count != moesaic_output_codes(&task->info)) return MOESAIC_BAD_ARGUMENT;
    lanes = device->sizes.lanes;
    for (uint32_t output = 0; output < task->info.output_count; ++output) {
        const moesaic_shape *shape = &task->info.output[output];
        TRY(read_one(device, task, start, shape, codes));
        codes += (size_t)shape->rows * shape->columns;
        start += shape->rows * ((shape->columns - 1) / lanes + 1);
    }
    return MOESAIC_OK;
}
