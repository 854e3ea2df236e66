/* Platform for Linux: registers and interrupt through UIO, memory through u-dma-buf.
 *
 * The kernel modules are uio_pdrv_genirq and u-dma-buf (https://github.com/ikwzm/udmabuf); the
 * device tree names the devices, see firmware/board/moesaic.dtsi. Filling in the configuration:
 *
 *     unsigned uio;
 *     moesaic_uio_paths paths;
 *     moesaic_uio_config config = {0};
 *     moesaic_uio_find(NULL, "moesaic", 0, &uio);      N of /dev/uioN by its name in the tree
 *     moesaic_uio_fill(&paths, &config, uio, "udmabuf0");
 *     config.clock_hz = 300000000;                     what the bitstream's clock really is
 *     config.mode = MOESAIC_UIO_UNCACHED;              see moesaic_uio_mode
 *     result = moesaic_uio_open(&board, &config, &platform);
 *     result = moesaic_open(&device, &platform, (moesaic_config){
 *         board.memory_base, board.memory_bytes, watchdog_cycles, poll_cycles});
 *     ...
 *     moesaic_close(&device);
 *     moesaic_uio_close(&board);
 *
 * Strings are read by moesaic_uio_open only and need not live longer. A process that has the
 * accelerator holds a lock on /dev/uioN until it closes or dies. */
#ifndef MOESAIC_LINUX_UIO_H
#define MOESAIC_LINUX_UIO_H

#include "moesaic.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How processor and accelerator come to see the same memory. */
typedef enum {
    /* The buffer is opened with O_SYNC: not cached, always right, slow to read. */
    MOESAIC_UIO_UNCACHED = 0,
    /* Cached; caches are written back and dropped by sync_for_device and sync_for_cpu. */
    MOESAIC_UIO_CACHED,
    /* Cached and coherent by hardware: all of the accelerator's masters are on coherent ports, and
     * its target says `coherent`. With another one this reads stale data, which no register tells. */
    MOESAIC_UIO_COHERENT
} moesaic_uio_mode;

typedef struct {
    const char *device; /* "/dev/uio0": registers and interrupt */
    const char *map;    /* "/sys/class/uio/uio0/maps/map0": attributes size, offset */
    const char *memory; /* "/dev/udmabuf0" */
    /* "/sys/class/u-dma-buf/udmabuf0": attributes phys_addr, size; for MOESAIC_UIO_CACHED also
     * sync_for_cpu, sync_for_device */
    const char *memory_attributes;
    uint64_t clock_hz; /* the accelerator's clock: cycles are waited for as time */
    moesaic_uio_mode mode;
    /* Null: interrupts come by `device`. Otherwise an open descriptor that is used as UIO's: 4
     * bytes written let the next interrupt through, 4 bytes read are one. It stays the caller's. */
    const int *interrupt;
} moesaic_uio_config;

typedef struct {
    char device[32], map[64], memory[48], memory_attributes[64];
} moesaic_uio_paths;

/* Members are the platform's; read those of the first group. */
typedef struct {
    uint64_t memory_base;  /* for moesaic_config: as the accelerator addresses the memory */
    uint64_t memory_bytes;
    int error;             /* errno of the last failure, */
    const char *failed;    /* and a literal that says of what; null for none */

    int device, buffer, interrupt, sync_for_cpu, sync_for_device; /* descriptors, or -1 */
    void *mapping, *memory;
    size_t mapping_bytes;
    volatile uint8_t *registers;
    uint64_t clock_hz;
    uint32_t state;
} moesaic_uio;

/* N of the `instance`-th (from 0) /sys/class/uio/uioN whose attribute `name` is `name`.
 * `class_folder` null: /sys/class/uio. MOESAIC_NO_DEVICE if there is none. */
moesaic_result moesaic_uio_find(const char *class_folder, const char *name, unsigned instance,
                                unsigned *number);
/* The usual paths of /dev/uioN and of a u-dma-buf, in `paths`, which must live until
 * moesaic_uio_open; clock, mode and interrupt are left as they are. */
moesaic_result moesaic_uio_fill(moesaic_uio_paths *paths, moesaic_uio_config *config,
                                unsigned number, const char *buffer);
/* Take the accelerator; `self` is not open, or has been closed. MOESAIC_IN_USE: another process, or another handle of this one, has it.
 * MOESAIC_NO_DEVICE: a file does not exist. MOESAIC_PLATFORM_ERROR: see `failed` and `error`.
 * After a failure nothing is open. */
moesaic_result moesaic_uio_open(moesaic_uio *self, const moesaic_uio_config *config,
                                moesaic_platform *platform);
/* Let go of it. Calling it again, or after moesaic_uio_open failed, does nothing. */
void moesaic_uio_close(moesaic_uio *self);
size_t moesaic_uio_bytes(void); /* size of a moesaic_uio, for bindings of other languages */

#ifdef __cplusplus
}
#endif
#endif
