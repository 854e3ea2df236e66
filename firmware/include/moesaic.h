/* Driver of one Moesaic accelerator. C99, no dynamic allocation, no global state.
 *
 * A handle belongs to one thread at a time. Every function checks its arguments and the handle's
 * state before it touches the hardware, waits for a bounded time only, and returns a
 * moesaic_result. Numbers of cycles are cycles of the accelerator's clock.
 *
 *     moesaic_device device;
 *     moesaic_open(&device, &platform, config);     probe: identity, version
 *     moesaic_load(&device, image, image_bytes);    device.bin of a bundle
 *     moesaic_find_task(&device, "seg", &task);
 *     moesaic_run(&device, task, patches, patch_count, codes, code_count);
 *     moesaic_close(&device);
 */
#ifndef MOESAIC_H
#define MOESAIC_H

#include <stddef.h>
#include <stdint.h>

#include "moesaic_image.h"
#include "moesaic_registers.h"
#include "moesaic_results.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOESAIC_BUFFER_BYTES 4096u /* of the handle: rows are laid out in it */

/* What carries registers, memory and the interrupt. Functions return 0, or anything else on
 * failure. Addresses are those the accelerator's masters use. */
typedef struct {
    void *context;
    int (*read_register)(void *context, uint32_t offset, uint32_t *value);
    int (*write_register)(void *context, uint32_t offset, uint32_t value);
    int (*read_memory)(void *context, uint64_t address, void *data, size_t bytes);
    int (*write_memory)(void *context, uint64_t address, const void *data, size_t bytes);
    /* Return at the interrupt, or at the latest when so many cycles have passed. A wait that ends
     * early without an interrupt is allowed: the driver looks at the registers. `waited` gets the
     * cycles that passed, at least 1; whatever it gets, the driver's waits end. */
    int (*wait)(void *context, uint64_t cycles, uint64_t *waited);
} moesaic_platform;

typedef struct {
    uint64_t memory_base;     /* device memory for this driver, a multiple of the alignment */
    uint64_t memory_bytes;
    uint32_t watchdog_cycles; /* the accelerator ends a frame that takes longer; not 0 */
    uint32_t poll_cycles;     /* longest wait before the registers are looked at; not 0 */
} moesaic_config;

typedef struct {
    uint64_t address;
    uint32_t bytes;
} moesaic_window;

typedef struct {
    uint32_t rows, columns;
} moesaic_shape;

typedef struct {
    char name[MOESAIC_NAME_BYTES];
    uint32_t input_rows, inputs; /* int8 codes [input_rows, inputs] */
    uint32_t output_count, scratch_bytes; /* scratch: of the first output window, behind the codes */
    moesaic_shape output[MOESAIC_MAX_HEADS]; /* of each: int16 codes [rows, columns] */
} moesaic_task_info;

typedef struct {
    moesaic_task_info info;
    moesaic_window program, constant, input;
    moesaic_window output[MOESAIC_MAX_OUTPUT_PORTS];
} moesaic_task;

typedef struct {
    uint32_t depth, width, lanes, weight_ports, output_ports, arch_hash;
} moesaic_sizes;

typedef struct {
    uint32_t code; /* MOESAIC_ERROR_* */
    uint32_t info; /* ERROR_INFO */
} moesaic_fault;

/* Members are the driver's; read them, do not write them. */
typedef struct {
    uint32_t state;
    moesaic_platform platform;
    moesaic_config config;
    moesaic_sizes sizes;
    moesaic_fault fault;
    uint32_t task_count, running;
    uint32_t lost_interrupts;
    moesaic_window weight[MOESAIC_MAX_WEIGHT_PORTS];
    moesaic_task task[MOESAIC_MAX_TASKS];
    uint32_t written[MOESAIC_COUNTER_BASE / 4]; /* window registers as they were last written */
    uint8_t known[MOESAIC_COUNTER_BASE / 4];    /* whether `written` holds */
    uint8_t buffer[MOESAIC_BUFFER_BYTES];
} moesaic_device;

/* Text of a result, "unknown result" for none; never null. */
const char *moesaic_result_text(int result);
/* Name of a value of ERROR as in the register map; never null. */
const char *moesaic_error_name(uint32_t code);
/* MOESAIC_ABI and the size of a handle, for bindings of other languages. */
uint32_t moesaic_abi(void);
size_t moesaic_device_bytes(void);

/* Probe the accelerator and fill in the handle. Nothing is written to the hardware. */
moesaic_result moesaic_open(moesaic_device *device, const moesaic_platform *platform,
                            moesaic_config config);
/* Check a device image without a device. `task_count` may be null. */
moesaic_result moesaic_check_image(const void *image, size_t bytes, uint32_t *task_count);
/* Check the image, reset the accelerator, and copy the image into device memory. It is not needed
 * afterwards. Replaces what was loaded. */
moesaic_result moesaic_load(moesaic_device *device, const void *image, size_t bytes);
moesaic_result moesaic_find_task(const moesaic_device *device, const char *name, uint32_t *task);
/* Shapes and windows of a task; the window of a weight port. */
moesaic_result moesaic_get_task(const moesaic_device *device, uint32_t number, moesaic_task *task);
moesaic_result moesaic_get_weight_window(const moesaic_device *device, uint32_t port,
                                         moesaic_window *window);

/* Codes of the frame to come, row after row. Allowed while another task's frame runs. */
moesaic_result moesaic_write_input(moesaic_device *device, uint32_t task, const int8_t *codes,
                                   size_t count);
/* Start a frame of the task. MOESAIC_PLATFORM_ERROR: it may have started all the same; then, as
 * after any call that leaves a frame under way, wait for it or reset before the next one. */
moesaic_result moesaic_submit(moesaic_device *device, uint32_t task);
/* Wait for its end, by interrupt and by looking at the registers every `poll_cycles`. After an
 * error the accelerator has been reset, and the next frame may be submitted; not so after
 * MOESAIC_STUCK and MOESAIC_PLATFORM_ERROR, when moesaic_reset has to go well first. */
moesaic_result moesaic_wait(moesaic_device *device, uint64_t timeout_cycles);
/* Codes of all outputs of a frame: what moesaic_read_output gives. */
uint64_t moesaic_output_codes(const moesaic_task_info *info);
/* Codes of the task's last frame, output after output, each row after row. Allowed while another task's frame runs. */
moesaic_result moesaic_read_output(moesaic_device *device, uint32_t task, int16_t *codes,
                                   size_t count);
/* Time after which the watchdog must have ended a frame and reported it, for moesaic_wait; 0 for a
 * null handle. */
uint64_t moesaic_frame_timeout(const moesaic_device *device);
/* The four above in turn: input, submit, wait for the frame timeout, output. */
moesaic_result moesaic_run(moesaic_device *device, uint32_t task, const int8_t *input,
                           size_t input_count, int16_t *output, size_t output_count);

/* What the accelerator said when a frame last ended in MOESAIC_FRAME_ERROR. */
moesaic_result moesaic_get_fault(const moesaic_device *device, moesaic_fault *fault);
/* Frames found done although no interrupt had come; 0 for a null handle. */
uint32_t moesaic_lost_interrupts(const moesaic_device *device);
/* All MOESAIC_COUNTER_COUNT performance counters of the last frame. */
moesaic_result moesaic_read_counters(moesaic_device *device, uint64_t *counters, size_t count);
/* Abandon whatever runs; what is loaded stays loaded. If it fails, a frame may still run. */
moesaic_result moesaic_reset(moesaic_device *device);
/* Reset if a frame runs, switch interrupts off, and forget the device. */
moesaic_result moesaic_close(moesaic_device *device);

#ifdef __cplusplus
}
#endif
#endif
