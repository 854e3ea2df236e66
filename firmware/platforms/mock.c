#include "mock.h"

#include <string.h>

static uint32_t *reg(moesaic_mock *mock, uint32_t offset) { return &mock->registers[offset / 4]; }

static int fails(moesaic_mock *mock) { return mock->fail_access && --mock->fail_access == 0; }

static int read_register(void *context, uint32_t offset, uint32_t *value) {
    moesaic_mock *mock = context;
    ++mock->reads;
    if (fails(mock)) return -1;
    if (offset % 4 || offset / 4 >= sizeof(mock->registers) / sizeof(mock->registers[0])) return -1;
    *value = *reg(mock, offset);
    if (mock->fault == MOCK_ALL_ONES) *value = UINT32_MAX;
    if (mock->fault == MOCK_ALL_ZEROS) *value = 0;
    if (mock->fault == MOCK_OTHER_HASH && offset == MOESAIC_ARCH_HASH) *value ^= 1;
    return 0;
}

static void start(moesaic_mock *mock) {
    if (*reg(mock, MOESAIC_STATUS) & MOESAIC_STATUS_BUSY) return;
    ++mock->frames;
    *reg(mock, MOESAIC_STATUS) = MOESAIC_STATUS_BUSY;
    mock->left = mock->frame_cycles;
    if (mock->fault == MOCK_ONES_ON_START) mock->fault = MOCK_ALL_ONES;
    if (mock->frame) mock->frame(mock, mock->user);
}

static void end(moesaic_mock *mock) {
    int error = mock->fault == MOCK_FRAME_ERROR;
    *reg(mock, MOESAIC_STATUS) = error ? MOESAIC_STATUS_ERROR : MOESAIC_STATUS_DONE;
    *reg(mock, MOESAIC_IRQ_STATUS) |= error ? MOESAIC_IRQ_STATUS_ERROR : MOESAIC_IRQ_STATUS_DONE;
    *reg(mock, MOESAIC_ERROR) = error ? mock->error : MOESAIC_ERROR_NONE;
    *reg(mock, MOESAIC_ERROR_INFO) = error ? mock->info : 0;
    *reg(mock, MOESAIC_COUNTER_BASE) = (uint32_t)mock->frame_cycles;
    *reg(mock, MOESAIC_COUNTER_BASE + 4) = (uint32_t)(mock->frame_cycles >> 32);
}

static int write_register(void *context, uint32_t offset, uint32_t value) {
    moesaic_mock *mock = context;
    ++mock->writes;
    if (fails(mock)) return -1;
    if (offset % 4 || offset >= MOESAIC_COUNTER_BASE) return -1;
    if (offset == MOESAIC_CONTROL) {
        if (value & MOESAIC_CONTROL_RESET && mock->fault != MOCK_STUCK) {
            *reg(mock, MOESAIC_STATUS) = 0;
            mock->left = 0;
        }
        if (value & MOESAIC_CONTROL_START) start(mock);
    } else if (offset == MOESAIC_IRQ_STATUS) {
        *reg(mock, offset) &= ~value;
    } else {
        *reg(mock, offset) = value;
    }
    return 0;
}

static int inside(const moesaic_mock *mock, uint64_t address, size_t bytes) {
    uint64_t offset = address - mock->memory_base;
    return address >= mock->memory_base && offset <= mock->memory_bytes &&
           bytes <= mock->memory_bytes - offset;
}

static int read_memory(void *context, uint64_t address, void *data, size_t bytes) {
    moesaic_mock *mock = context;
    if (fails(mock) || !inside(mock, address, bytes)) return -1;
    memcpy(data, mock->memory + (address - mock->memory_base), bytes);
    return 0;
}

static int write_memory(void *context, uint64_t address, const void *data, size_t bytes) {
    moesaic_mock *mock = context;
    ++mock->memory_writes;
    if (fails(mock) || !inside(mock, address, bytes)) return -1;
    memcpy(mock->memory + (address - mock->memory_base), data, bytes);
    return 0;
}

static int wait_interrupt(void *context, uint64_t cycles, uint64_t *waited) {
    moesaic_mock *mock = context;
    int running = mock->left != 0 && mock->fault != MOCK_HANG && mock->fault != MOCK_STUCK;
    ++mock->waits;
    if (fails(mock)) return -1;
    *waited = cycles;
    if (running && mock->left <= cycles) {
        if (mock->fault != MOCK_LOST_INTERRUPT && mock->left < cycles) *waited = mock->left;
        mock->left = 0;
        end(mock);
    } else if (running) {
        mock->left -= cycles;
    }
    return 0;
}

void moesaic_mock_open(moesaic_mock *mock, uint32_t arch_hash, uint64_t memory_base, void *memory,
                       uint64_t memory_bytes, moesaic_platform *platform) {
    memset(mock, 0, sizeof(*mock));
    *reg(mock, MOESAIC_ID) = MOESAIC_MAGIC;
    *reg(mock, MOESAIC_VERSION) = MOESAIC_INTERFACE_VERSION;
    *reg(mock, MOESAIC_ARCH_HASH) = arch_hash;
    mock->memory = memory;
    mock->memory_base = memory_base;
    mock->memory_bytes = memory_bytes;
    mock->frame_cycles = 1000;
    platform->context = mock;
    platform->read_register = read_register;
    platform->write_register = write_register;
    platform->read_memory = read_memory;
    platform->write_memory = write_memory;
    platform->wait = wait_interrupt;
}

uint64_t moesaic_mock_base(const moesaic_mock *mock, uint32_t window_register) {
    return mock->registers[window_register / 4] |
           (uint64_t)mock->registers[window_register / 4 + 1] << 32;
}
