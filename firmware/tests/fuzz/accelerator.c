#include "accelerator.h"

#include <string.h>

#define DONE MOESAIC_IRQ_STATUS_DONE

uint32_t accelerator_digest(const uint8_t *window, size_t bytes) {
    uint32_t sum = 2166136261u;
    for (size_t i = 0; i < bytes; ++i) sum = (sum ^ window[i]) * 16777619u;
    return sum;
}

int16_t accelerator_code(uint32_t digest, uint32_t output, uint32_t row, uint32_t column) {
    uint32_t mixed = (digest ^ (output * 97u + row * 40503u + column + 1)) * 2654435761u;
    return (int16_t)((int32_t)(mixed >> 16) - 0x8000);
}

uint32_t accelerator_place(const moesaic_sizes *sizes, const moesaic_task_info *info,
                           uint32_t output, uint32_t row, uint32_t column, uint32_t *port) {
    const uint32_t part = 2 * sizes->lanes / sizes->output_ports;
    const moesaic_shape *shape = &info->output[output];
    uint32_t start = 0, padded = (shape->columns + sizes->lanes - 1) / sizes->lanes * sizes->lanes;
    uint32_t first = column / sizes->width * sizes->width, rest = padded - first;
    uint32_t in_row = rest < sizes->width ? rest : sizes->width;
    uint32_t code = first * shape->rows + row * in_row + (column - first);
    uint32_t byte = code % sizes->lanes * 2;
    for (uint32_t n = 0; n < output; ++n)
        start += info->output[n].rows * ((info->output[n].columns - 1) / sizes->lanes + 1);
    *port = byte / part;
    return (start + code / sizes->lanes) * part + byte % part;
}

void accelerator_drain(accelerator *self, const moesaic_task *task, uint32_t digest) {
    const moesaic_task_info *info = &task->info;
    for (uint32_t output = 0; output < info->output_count; ++output) {
        for (uint32_t row = 0; row < info->output[output].rows; ++row) {
            for (uint32_t column = 0; column < info->output[output].columns; ++column) {
                uint32_t port, byte;
                uint16_t code = (uint16_t)accelerator_code(digest, output, row, column);
                uint8_t *place;
                byte = accelerator_place(&self->device->sizes, info, output, row, column, &port);
                REQUIRE(byte + 2 <= task->output[port].bytes);
                place = self->memory + (task->output[port].address - MEMORY_BASE + byte);
                place[0] = (uint8_t)code;
                place[1] = (uint8_t)(code >> 8);
            }
        }
    }
}

static uint32_t *reg(accelerator *self, uint32_t offset) { return &self->registers[offset / 4]; }

static int busy(accelerator *self) { return (*reg(self, MOESAIC_STATUS) & MOESAIC_STATUS_BUSY) != 0; }

static int holds(accelerator *self, uint32_t offset, const moesaic_window *window) {
    uint32_t *base = reg(self, offset);
    return base[0] == (uint32_t)window->address && base[1] == (uint32_t)(window->address >> 32) &&
           base[2] == window->bytes;
}

/* The task whose windows the registers hold, all of them; null for none. */
static const moesaic_task *configured(accelerator *self) {
    const moesaic_device *device = self->device;
    for (uint32_t port = 0; port < device->sizes.weight_ports; ++port)
        if (!holds(self, MOESAIC_WEIGHT0_BASE_LO + MOESAIC_WINDOW_STRIDE * port, &device->weight[port]))
            return NULL;
    for (uint32_t number = 0; number < device->task_count; ++number) {
        const moesaic_task *task = &device->task[number];
        int same = holds(self, MOESAIC_PROGRAM_BASE_LO, &task->program) &&
                   holds(self, MOESAIC_CONSTANT_BASE_LO, &task->constant) &&
                   holds(self, MOESAIC_INPUT_BASE_LO, &task->input);
        for (uint32_t port = 0; port < device->sizes.output_ports; ++port)
            same = same && holds(self, MOESAIC_OUTPUT_BASE_LO + MOESAIC_WINDOW_STRIDE * port,
                                 &task->output[port]);
        if (same) return task;
    }
    return NULL;
}

static void end_frame(accelerator *self, uint32_t error) {
    const moesaic_task *task = configured(self);
    if (!busy(self) || self->endless) return;
    if (!task && !error) error = MOESAIC_ERROR_PROGRAM_OVERRUN;
    *reg(self, MOESAIC_STATUS) = error ? MOESAIC_STATUS_ERROR : MOESAIC_STATUS_DONE;
    *reg(self, MOESAIC_IRQ_STATUS) |= error ? MOESAIC_IRQ_STATUS_ERROR : DONE;
    *reg(self, MOESAIC_ERROR) = error;
    self->left = 0;
    if (error) return;
    ++self->ended;
    accelerator_drain(self, task,
                      accelerator_digest(self->memory + (task->input.address - MEMORY_BASE),
                                         task->input.bytes));
}

static void lose_power(accelerator *self) {
    memset(self->registers, 0, sizeof(self->registers));
    *reg(self, MOESAIC_ID) = MOESAIC_MAGIC;
    *reg(self, MOESAIC_VERSION) = MOESAIC_INTERFACE_VERSION;
    self->endless = 0;
    self->stuck_reads = 0;
}

static void control(accelerator *self, uint32_t value) {
    if (value & MOESAIC_CONTROL_RESET && self->stuck_reads == 0) {
        *reg(self, MOESAIC_STATUS) = 0; /* a frame that is given up reports nothing */
        self->endless = 0;
    }
    if (value & MOESAIC_CONTROL_START && !busy(self)) {
        *reg(self, MOESAIC_STATUS) = MOESAIC_STATUS_BUSY;
        self->left = self->frame_cycles;
    }
}

/* What the input wants of this access, 0 for nothing; whether there is still any input. */
static uint32_t behaviour(accelerator *self, int *scripted) {
    ++self->accesses;
    if (self->patience && --self->patience == 0) accelerator_works(self);
    if (scripted) *scripted = self->script.left != 0;
    return fuzz_take(&self->script, 1);
}

static int read_register(void *context, uint32_t offset, uint32_t *value) {
    accelerator *self = context;
    int scripted;
    uint32_t kind = behaviour(self, &scripted), truth;
    REQUIRE(offset % 4 == 0 && offset / 4 < REGISTERS);
    if (kind == 6) self->hash ^= 1; /* another bitstream: whatever ran is gone */
    if (kind == 6 || kind == 7) lose_power(self);
    if (kind == 8) end_frame(self, 0);
    if (offset == MOESAIC_STATUS && self->stuck_reads && --self->stuck_reads == 0 && busy(self)) {
        *reg(self, MOESAIC_STATUS) = 0; /* the bus gave its answer after all */
        self->endless = 0;
    }
    truth = offset == MOESAIC_ARCH_HASH ? self->hash : *reg(self, offset);
    *value = truth;
    if (kind == 1) return -1;
    if (kind == 2) *value = UINT32_MAX;
    if (kind == 3) *value = 0;
    if (kind == 4) *value = fuzz_take(&self->script, 4);
    if (kind == 5) *value ^= 1u << fuzz_take(&self->script, 1) % 32;
    if (!scripted && self->afterwards == BUS_ONES) *value = UINT32_MAX;
    if (!scripted && self->afterwards == BUS_ZEROS) *value = 0;
    if (offset == MOESAIC_IRQ_STATUS && *value == DONE && !(truth & DONE)) self->lied = 1;
    return 0;
}

static int write_register(void *context, uint32_t offset, uint32_t value) {
    accelerator *self = context;
    uint32_t kind = behaviour(self, NULL);
    REQUIRE(offset % 4 == 0 && offset < MOESAIC_COUNTER_BASE);
    if (kind == 1) return 1;
    if (kind == 7) lose_power(self);
    if (kind == 8) end_frame(self, 0);
    if (kind == 3) { /* lost, and nobody is told */
        self->lied = 1;
        return 0;
    }
    if (offset == MOESAIC_CONTROL)
        control(self, value);
    else if (offset == MOESAIC_IRQ_STATUS)
        *reg(self, offset) &= ~value;
    else
        *reg(self, offset) = value;
    return kind == 2 ? -1 : 0; /* it arrived, but the answer did not */
}

/* Whether all of a range is in one of the windows that the call may touch. */
static int allowed(const accelerator *self, uint64_t address, size_t bytes, int write) {
    const moesaic_device *device = self->device;
    const moesaic_window *windows[MOESAIC_MAX_WEIGHT_PORTS + 2 * MOESAIC_MAX_TASKS];
    unsigned count = 0;
    const moesaic_task *task = &device->task[self->task];
    if (self->call == CALL_LOAD && write) {
        for (uint32_t port = 0; port < device->sizes.weight_ports; ++port)
            windows[count++] = &device->weight[port];
        for (uint32_t number = 0; number < device->task_count; ++number) {
            windows[count++] = &device->task[number].program;
            windows[count++] = &device->task[number].constant;
        }
    }
    if ((self->call == CALL_INPUT || self->call == CALL_RUN) && write) windows[count++] = &task->input;
    if ((self->call == CALL_OUTPUT || self->call == CALL_RUN) && !write)
        for (uint32_t port = 0; port < device->sizes.output_ports; ++port)
            windows[count++] = &task->output[port];
    for (unsigned i = 0; i < count; ++i)
        if (address >= windows[i]->address && address - windows[i]->address <= windows[i]->bytes &&
            bytes <= windows[i]->bytes - (address - windows[i]->address))
            return 1;
    return 0;
}

static uint8_t *memory_at(accelerator *self, uint64_t address, size_t bytes, int write) {
    uint64_t offset = address - MEMORY_BASE;
    REQUIRE(address >= MEMORY_BASE && offset <= MEMORY_BYTES && bytes <= MEMORY_BYTES - offset);
    REQUIRE(allowed(self, address, bytes, write));
    return self->memory + offset;
}

static int read_memory(void *context, uint64_t address, void *data, size_t bytes) {
    accelerator *self = context;
    uint8_t *source = memory_at(self, address, bytes, 0);
    uint32_t kind = behaviour(self, NULL);
    memcpy(data, source, kind == 2 ? bytes / 2 : bytes);
    return kind == 1 || kind == 2;
}

static int write_memory(void *context, uint64_t address, const void *data, size_t bytes) {
    accelerator *self = context;
    uint8_t *target = memory_at(self, address, bytes, 1);
    uint32_t kind = behaviour(self, NULL);
    if (kind != 1) memcpy(target, data, kind == 2 ? bytes / 2 : bytes);
    return kind == 1 || kind == 2;
}

static int wait_interrupt(void *context, uint64_t cycles, uint64_t *waited) {
    accelerator *self = context;
    int scripted;
    uint32_t kind = behaviour(self, &scripted);
    uint64_t passed = cycles;
    ++self->waits;
    REQUIRE(cycles > 0);
    if (!scripted && self->afterwards == BUS_SPURIOUS) kind = 2;
    if (!scripted && (self->afterwards == BUS_NO_END || self->afterwards == BUS_STUCK)) kind = 6;
    if (!scripted && self->afterwards == BUS_STUCK) self->stuck_reads = UINT32_MAX;
    if (kind == 1) return 1;
    if (kind == 2 || kind == 3) passed = kind == 2; /* early, without an interrupt */
    if (kind == 4) /* a clock that jumps */
        passed = (uint64_t)fuzz_take(&self->script, 1) << (fuzz_take(&self->script, 1) % 64);
    if (kind == 5) passed = UINT64_MAX;
    if (kind == 6 && busy(self)) self->endless = 1;
    if (kind == 7) lose_power(self);
    if (kind == 8) end_frame(self, 0);
    if (kind == 9) end_frame(self, 1 + fuzz_take(&self->script, 1) % 7);
    if (kind == 10 && busy(self)) { /* the bus owes an answer for so long */
        self->endless = 1;
        self->stuck_reads = 1 + 4096 * fuzz_take(&self->script, 1);
    }
    *waited = passed;
    if (busy(self) && !self->endless) {
        uint64_t real = passed < cycles ? passed : cycles; /* whatever the clock says */
        if (self->left > real) {
            self->left -= real;
        } else {
            if (kind == 0) *waited = self->left ? self->left : 1;
            end_frame(self, 0);
        }
    }
    return 0;
}

void accelerator_works(accelerator *self) {
    self->afterwards = BUS_WORKS;
    self->script.left = 0;
    self->stuck_reads = self->stuck_reads != 0; /* until the next look */
}

void accelerator_begin(accelerator *self, uint32_t hash, const uint8_t *script, size_t bytes,
                       moesaic_platform *platform) {
    memset(self, 0, sizeof(*self));
    self->hash = hash;
    self->script.next = script;
    self->script.left = bytes;
    self->frame_cycles = 1000;
    lose_power(self);
    platform->context = self;
    platform->read_register = read_register;
    platform->write_register = write_register;
    platform->read_memory = read_memory;
    platform->write_memory = write_memory;
    platform->wait = wait_interrupt;
}
