/* Platform for a processor without an operating system: registers and memory are addresses.
 *
 *     static moesaic_baremetal board;
 *     moesaic_baremetal_config config = {.registers = 0xA0000000, ...};
 *     moesaic_baremetal_open(&board, &config, &platform);
 *     moesaic_open(&device, &platform, ...);
 *
 * The interrupt is optional: without one, the driver looks at the registers. With one, the
 * application's handler masks it at the interrupt controller and calls
 * moesaic_baremetal_interrupt(); the accelerator holds its line until the driver has seen it, and
 * `unmask` lets the next one through. */
#ifndef MOESAIC_BAREMETAL_H
#define MOESAIC_BAREMETAL_H

#include "moesaic.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint64_t registers; /* where the processor sees the registers; a multiple of 4 */
    /* Memory shared with the accelerator: where the processor sees it, where the accelerator does,
     * and how large it is. Addresses are 64 bits wide on every processor, so that one that does
     * not fit a pointer is refused instead of cut. */
    uint64_t memory;
    uint64_t memory_base;
    uint64_t memory_bytes;
    void *hooks; /* first argument of the functions below; any of these may be null */
    /* Write the caches of a range back to memory, for the accelerator to read. Null: memory is
     * not cached, or caches are coherent. */
    void (*clean)(void *hooks, uintptr_t address, size_t bytes);
    /* Drop a range from the caches, after the accelerator wrote it. No line of it is dirty. */
    void (*invalidate)(void *hooks, uintptr_t address, size_t bytes);
    /* A free-running counter of the accelerator's clock, or of another one converted to it. Null:
     * each look at the interrupt flag counts as a cycle. It takes longer: time-outs come late. */
    uint64_t (*cycles)(void *hooks);
    /* Let the accelerator's interrupt through at the interrupt controller. */
    void (*unmask)(void *hooks);
} moesaic_baremetal_config;

/* Members are the platform's. */
typedef struct {
    moesaic_baremetal_config config;
    volatile uint32_t interrupt;
} moesaic_baremetal;

/* Check the configuration and fill in `platform`; nothing is touched. MOESAIC_BAD_ARGUMENT if an
 * address is null, off its alignment, or beyond what a pointer holds. */
moesaic_result moesaic_baremetal_open(moesaic_baremetal *self,
                                      const moesaic_baremetal_config *config,
                                      moesaic_platform *platform);
/* For the application's interrupt handler. */
void moesaic_baremetal_interrupt(moesaic_baremetal *self);

#ifdef __cplusplus
}
#endif
#endif
