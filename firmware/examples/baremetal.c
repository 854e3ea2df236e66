/* One frame after another without an operating system and without a C library. It links as it
 * stands; the addresses below are those of no particular board. */
#include "../platforms/baremetal.h"

#define REGISTERS 0x40000000u
#define IMAGE 0x81000000u          /* device.bin of a bundle, put there by a loader */
#define IMAGE_BYTES_AT 0x80FFFFF8u /* and its length, a 64-bit word */
#define SHARED 0x90000000u         /* memory for the accelerator, at the same address for both */
#define SHARED_BYTES 0x04000000u

enum {
    WATCHDOG_CYCLES = 3000000, /* 10 ms at 300 MHz: several frames of the paper's size */
    POLL_CYCLES = 3000,
    MOST_INPUTS = 160 * 1024,
    MOST_OUTPUTS = 160 * 1024
};

static moesaic_baremetal board;
static moesaic_device accelerator; /* too large for most stacks */
static int8_t input[MOST_INPUTS];
static int16_t output[MOST_OUTPUTS];

/* The processor's own counter, as cycles of the accelerator. */
static uint64_t accelerator_cycles(void *hooks) {
    (void)hooks;
#if defined(__aarch64__)
    uint64_t ticks, frequency;
    __asm__ volatile("isb; mrs %0, cntvct_el0" : "=r"(ticks));
    __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
    return ticks / frequency * 300000000 + ticks % frequency * 300000000 / frequency;
#else
    uint32_t high, low, again;
    do { /* a counter of two halves: until the upper one stood still */
        __asm__ volatile("rdcycleh %0" : "=r"(high));
        __asm__ volatile("rdcycle %0" : "=r"(low));
        __asm__ volatile("rdcycleh %0" : "=r"(again));
    } while (high != again);
    return (uint64_t)high << 32 | low;
#endif
}

/* The application's part: codes of the next picture, and what becomes of its results. */
static void next_input(int8_t *codes, size_t count) {
    for (size_t i = 0; i < count; ++i) codes[i] = 0;
}

static void use_output(const int16_t *codes, size_t count) {
    (void)codes;
    (void)count;
}

static moesaic_result run(void) {
    moesaic_baremetal_config place = {0};
    moesaic_config config = {SHARED, SHARED_BYTES, WATCHDOG_CYCLES, POLL_CYCLES};
    moesaic_platform platform;
    moesaic_task task;
    moesaic_result result;
    size_t inputs, outputs;
    place.registers = REGISTERS;
    place.memory = place.memory_base = SHARED;
    place.memory_bytes = SHARED_BYTES;
    place.cycles = accelerator_cycles;
    result = moesaic_baremetal_open(&board, &place, &platform);
    if (result == MOESAIC_OK) result = moesaic_open(&accelerator, &platform, config);
    if (result == MOESAIC_OK)
        result = moesaic_load(&accelerator, (const void *)(uintptr_t)IMAGE,
                              (size_t)*(const volatile uint64_t *)(uintptr_t)IMAGE_BYTES_AT);
    if (result == MOESAIC_OK) result = moesaic_get_task(&accelerator, 0, &task);
    if (result != MOESAIC_OK) return result;
    inputs = (size_t)task.info.input_rows * task.info.inputs;
    outputs = (size_t)moesaic_output_codes(&task.info);
    if (inputs > MOST_INPUTS || outputs > MOST_OUTPUTS) return MOESAIC_NO_MEMORY;
    for (;;) {
        next_input(input, inputs);
        result = moesaic_run(&accelerator, 0, input, inputs, output, outputs);
        /* After these two the accelerator has been reset, and the next frame may work. */
        if (result == MOESAIC_FRAME_ERROR || result == MOESAIC_TIMEOUT) continue;
        if (result != MOESAIC_OK) return result;
        use_output(output, outputs);
    }
}

int main(void) {
    moesaic_result result = run();
    moesaic_close(&accelerator);
    return (int)result;
}
