/* What the files of the core share. */
#ifndef MOESAIC_INTERNAL_H
#define MOESAIC_INTERNAL_H

#include "moesaic.h"

/* Values of moesaic_device.state: unlikely in memory that nobody has initialised. */
#define STATE_OPEN 0x4D4F0001u    /* probed */
#define STATE_LOADED 0x4D4F0002u  /* an image is in place, nothing runs */
#define STATE_RUNNING 0x4D4F0003u /* a frame of task `running` is under way */

#define TRY(expression)                             \
    do {                                            \
        moesaic_result try_result = (expression);   \
        if (try_result != MOESAIC_OK) return try_result; \
    } while (0)

/* checksum.c */
typedef struct {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
} moesaic_sha256;
uint32_t moesaic_crc32(uint32_t crc, const uint8_t *data, size_t bytes); /* begins with 0 */
void moesaic_sha256_begin(moesaic_sha256 *self);
void moesaic_sha256_add(moesaic_sha256 *self, const uint8_t *data, size_t bytes);
void moesaic_sha256_end(moesaic_sha256 *self, uint8_t digest[32]);

/* image.c: an image that has been checked, as byte offsets. */
typedef struct {
    const uint8_t *data;
    moesaic_sizes sizes;
    uint32_t task_count;
} moesaic_image;
typedef struct {
    uint64_t offset, bytes;
} moesaic_section;
moesaic_result moesaic_parse_image(moesaic_image *image, const void *data, size_t bytes);
moesaic_section moesaic_weight_section(const moesaic_image *image, uint32_t port);
moesaic_section moesaic_program_section(const moesaic_image *image, uint32_t task);
moesaic_section moesaic_constant_section(const moesaic_image *image, uint32_t task);
void moesaic_image_task(const moesaic_image *image, uint32_t task, moesaic_task_info *info);
/* Bytes of a task's input window, and of each of its output windows: scratch is in the first. */
uint64_t moesaic_input_bytes(const moesaic_sizes *sizes, const moesaic_task_info *info);
uint64_t moesaic_output_bytes(const moesaic_sizes *sizes, const moesaic_task_info *info,
                              uint32_t port);

/* registers.c */
moesaic_result moesaic_get(moesaic_device *device, uint32_t offset, uint32_t *value);
moesaic_result moesaic_put(moesaic_device *device, uint32_t offset, uint32_t value);
/* Like moesaic_put, but not if the register holds the value already. */
moesaic_result moesaic_set(moesaic_device *device, uint32_t offset, uint32_t value);
moesaic_result moesaic_set_window(moesaic_device *device, uint32_t offset,
                                  const moesaic_window *window);
void moesaic_forget_registers(moesaic_device *device);
/* MOESAIC_DEVICE_LOST unless the registers are still those of the accelerator that was opened. */
moesaic_result moesaic_alive(moesaic_device *device);

/* frame.c: reset, without looking at the handle's state. */
moesaic_result moesaic_abandon(moesaic_device *device);

#endif
