/* The Verilated accelerator in this process, as the simulator's shared library offers it. */
#ifndef MOESAIC_LINUX_SIM_H
#define MOESAIC_LINUX_SIM_H

#include "../../sim/harness/dram_config.h"
#include "moesaic.h"

typedef struct {
    void *library;
    void *simulator;
    void (*destroy)(void *simulator);
    int (*run)(void *simulator, uint64_t max_cycles, int stop_on_interrupt);
    int (*read_register)(void *simulator, uint32_t offset, uint32_t *value, uint32_t timeout);
    int (*write_register)(void *simulator, uint32_t offset, uint32_t value, uint32_t timeout);
    uint64_t (*cycles)(void *simulator);
    uint32_t (*violation_count)(void *simulator);
    uint8_t *memory;
    uint64_t memory_base, memory_bytes;
} moesaic_sim;

/* Load the simulator `library` (a path) and start it with `memory_bytes` of DRAM from
 * `memory_base` on. BAD_ARGUMENT for null pointers, NO_DEVICE if it is no such library. */
moesaic_result moesaic_sim_open(moesaic_sim *sim, const char *library, uint64_t memory_base,
                                uint64_t memory_bytes, const struct moesaic_dram_config *dram,
                                moesaic_platform *platform);
void moesaic_sim_close(moesaic_sim *sim);

#endif
