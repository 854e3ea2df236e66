/* The bare-metal platform on arrays that stand for registers and memory. */
#include "check.h"

#include <string.h>

#include "../platforms/baremetal.h"
#include "../platforms/bus.h"

enum { MEMORY = 8192 };
#define BASE UINT64_C(0x8FFFFF000) /* needs more than 32 bits, on any processor */

static uint32_t registers[BUS_REGISTER_BYTES / 4];
static uint64_t memory[MEMORY / 8];
static moesaic_baremetal board;
static moesaic_baremetal_config config;
static moesaic_platform platform;

static struct {
    uint64_t now, step, interrupt_at;
    int cleaned, invalidated, unmasked;
    uintptr_t address;
    size_t bytes;
} hardware;

static void clean(void *hooks, uintptr_t address, size_t bytes) {
    CHECK(hooks == &hardware);
    ++hardware.cleaned;
    hardware.address = address;
    hardware.bytes = bytes;
}

static void invalidate(void *hooks, uintptr_t address, size_t bytes) {
    CHECK(hooks == &hardware);
    ++hardware.invalidated;
    hardware.address = address;
    hardware.bytes = bytes;
}

static uint64_t cycles(void *hooks) {
    CHECK(hooks == &hardware);
    hardware.now += hardware.step;
    if (hardware.interrupt_at && hardware.now >= hardware.interrupt_at) {
        hardware.interrupt_at = 0;
        moesaic_baremetal_interrupt(&board);
    }
    return hardware.now;
}

static void unmask(void *hooks) {
    CHECK(hooks == &hardware);
    ++hardware.unmasked;
}

static void begin(void) {
    moesaic_baremetal_config fresh = {
        (uintptr_t)registers, (uintptr_t)memory, BASE, MEMORY, &hardware, NULL, NULL, NULL, NULL};
    memset(registers, 0, sizeof(registers));
    memset(memory, 0, sizeof(memory));
    memset(&hardware, 0, sizeof(hardware));
    config = fresh;
}

static void open_board(void) {
    CHECK(moesaic_baremetal_open(&board, &config, &platform) == MOESAIC_OK);
}

static void registers_are_words(void) {
    uint32_t value = 0;
    begin();
    open_board();
    CHECK(platform.write_register(&board, MOESAIC_WATCHDOG, 0x12345678) == 0);
    CHECK(registers[MOESAIC_WATCHDOG / 4] == 0x12345678);
    registers[1] = 7;
    CHECK(platform.read_register(&board, 4, &value) == 0 && value == 7);
    CHECK(platform.read_register(&board, 3, &value) != 0);
    CHECK(platform.read_register(&board, BUS_REGISTER_BYTES, &value) != 0);
    CHECK(platform.write_register(&board, UINT32_MAX - 3, 0) != 0);
}

static void memory_is_copied_at_any_alignment(void) {
    uint8_t source[48], copy[48];
    begin();
    open_board();
    for (unsigned i = 0; i < sizeof(source); ++i) source[i] = (uint8_t)(i + 1);
    for (unsigned offset = 0; offset < 9; ++offset) {
        for (size_t bytes = 0; bytes <= 30; ++bytes) {
            const uint8_t *all = (const uint8_t *)memory;
            memset(memory, 0x55, 64);
            memset(copy, 0, sizeof(copy));
            CHECK(platform.write_memory(&board, BASE + 8 + offset, source + offset, bytes) == 0);
            CHECK(memcmp(all + 8 + offset, source + offset, bytes) == 0);
            CHECK(all[7 + offset] == 0x55 && all[8 + offset + bytes] == 0x55);
            CHECK(platform.read_memory(&board, BASE + 8 + offset, copy + 3, bytes) == 0);
            CHECK(memcmp(copy + 3, source + offset, bytes) == 0 && copy[3 + bytes] == 0);
        }
    }
}

static void memory_has_bounds(void) {
    uint8_t bytes[2] = {1, 2};
    begin();
    open_board();
    CHECK(platform.write_memory(&board, BASE + MEMORY - 2, bytes, 2) == 0);
    CHECK(platform.write_memory(&board, BASE + MEMORY - 1, bytes, 2) != 0);
    CHECK(platform.read_memory(&board, BASE - 1, bytes, 1) != 0);
    CHECK(platform.read_memory(&board, BASE + MEMORY, bytes, 1) != 0);
    CHECK(platform.read_memory(&board, BASE, bytes, SIZE_MAX) != 0);
    /* The low half of an address is not enough. */
    CHECK(platform.read_memory(&board, BASE & UINT32_MAX, bytes, 1) != 0);
}

static void caches_are_kept(void) {
    uint8_t bytes[5] = {0};
    begin();
    config.clean = clean;
    config.invalidate = invalidate;
    open_board();
    CHECK(platform.write_memory(&board, BASE + 3, bytes, 5) == 0);
    CHECK(hardware.cleaned == 1 && hardware.invalidated == 0);
    CHECK(hardware.address == (uintptr_t)memory + 3 && hardware.bytes == 5);
    CHECK(platform.read_memory(&board, BASE + 64, bytes, 4) == 0);
    CHECK(hardware.cleaned == 1 && hardware.invalidated == 1);
    CHECK(hardware.address == (uintptr_t)memory + 64 && hardware.bytes == 4);
    CHECK(platform.read_memory(&board, BASE + MEMORY, bytes, 4) != 0);
    CHECK(hardware.invalidated == 1);
}

static void wait_ends_by_the_counter(void) {
    uint64_t waited = 0;
    begin();
    config.cycles = cycles;
    config.unmask = unmask;
    hardware.now = UINT64_MAX - 50; /* counters may wrap around */
    hardware.step = 7;
    open_board();
    CHECK(platform.wait(&board, 1000, &waited) == 0);
    CHECK(waited >= 1000 && waited < 1010 && hardware.unmasked == 1);
}

static void wait_ends_by_the_interrupt(void) {
    uint64_t waited = 0;
    begin();
    config.cycles = cycles;
    hardware.step = 1;
    hardware.interrupt_at = 300;
    open_board();
    CHECK(platform.wait(&board, 1000, &waited) == 0);
    CHECK(waited >= 290 && waited < 310);
    CHECK(platform.wait(&board, 1000, &waited) == 0 && waited >= 1000);
    moesaic_baremetal_interrupt(&board); /* before the wait */
    CHECK(platform.wait(&board, 1000, &waited) == 0 && waited == 1);
    moesaic_baremetal_interrupt(NULL);
}

static void wait_without_a_counter_counts_looks(void) {
    uint64_t waited = 0;
    begin();
    open_board();
    CHECK(platform.wait(&board, 500, &waited) == 0 && waited == 500);
    CHECK(platform.wait(&board, 0, &waited) == 0 && waited == 1);
}

static void counter_that_stands_still_fails(void) {
    uint64_t waited = 0;
    begin();
    config.cycles = cycles;
    open_board();
    CHECK(platform.wait(&board, 1000, &waited) != 0);
}

static moesaic_result opened(void) {
    return moesaic_baremetal_open(&board, &config, &platform);
}

static void addresses_must_fit_a_pointer(void) {
    begin();
    CHECK(moesaic_baremetal_open(NULL, &config, &platform) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_baremetal_open(&board, NULL, &platform) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_baremetal_open(&board, &config, NULL) == MOESAIC_BAD_ARGUMENT);
    config.registers = 0;
    CHECK(opened() == MOESAIC_BAD_ARGUMENT);
    config.registers = 0x1002;
    CHECK(opened() == MOESAIC_BAD_ARGUMENT);
    config.registers = (uint64_t)UINTPTR_MAX - 3;
    CHECK(opened() == MOESAIC_BAD_ARGUMENT);
    begin();
    config.memory = (uint64_t)UINTPTR_MAX - MEMORY + 2;
    CHECK(opened() == MOESAIC_BAD_ARGUMENT);
    config.memory = (uint64_t)UINTPTR_MAX - MEMORY + 1;
    CHECK(opened() == MOESAIC_OK);
    begin();
    config.memory_bytes = 0;
    CHECK(opened() == MOESAIC_BAD_ARGUMENT);
    begin();
    config.memory_base = UINT64_MAX - 10;
    CHECK(opened() == MOESAIC_BAD_ARGUMENT);
    begin();
#if UINTPTR_MAX == UINT32_MAX
    config.memory = BASE;
    CHECK(opened() == MOESAIC_BAD_ARGUMENT);
    begin();
    config.registers = BASE;
    CHECK(opened() == MOESAIC_BAD_ARGUMENT);
#endif
}

static void driver_probes_through_the_platform(void) {
    static moesaic_device device;
    moesaic_config of_driver = {BASE, MEMORY, 1000, 100};
    begin();
    open_board();
    CHECK(moesaic_open(&device, &platform, of_driver) == MOESAIC_NO_DEVICE);
    registers[MOESAIC_ID / 4] = MOESAIC_MAGIC;
    registers[MOESAIC_VERSION / 4] = MOESAIC_INTERFACE_VERSION;
    CHECK(moesaic_open(&device, &platform, of_driver) == MOESAIC_OK);
    CHECK(moesaic_close(&device) == MOESAIC_OK);
}

int main(void) {
    RUN(registers_are_words);
    RUN(memory_is_copied_at_any_alignment);
    RUN(memory_has_bounds);
    RUN(caches_are_kept);
    RUN(wait_ends_by_the_counter);
    RUN(wait_ends_by_the_interrupt);
    RUN(wait_without_a_counter_counts_looks);
    RUN(counter_that_stands_still_fails);
    RUN(addresses_must_fit_a_pointer);
    RUN(driver_probes_through_the_platform);
    return check_result();
}
