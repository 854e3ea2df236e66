/* An accelerator on a bus that does what the input says: accesses that fail, before or after they
 * took effect, registers that read as anything, interrupts that come early, late or never, power
 * that goes. It computes frames from what is in its windows, and holds the driver to its own. */
#ifndef MOESAIC_FUZZ_ACCELERATOR_H
#define MOESAIC_FUZZ_ACCELERATOR_H

#include "../../core/internal.h"
#include "fuzz.h"

enum { MEMORY_BYTES = 96 * 4096, REGISTERS = MOESAIC_COUNTER_BASE / 4 + 2 * MOESAIC_COUNTER_COUNT };
#define MEMORY_BASE UINT64_C(0xFFFFF000) /* so that windows lie across 2^32 */

/* What the bus does when the input has ended. */
typedef enum { BUS_WORKS, BUS_ONES, BUS_ZEROS, BUS_SPURIOUS, BUS_NO_END, BUS_STUCK, BUS_MODES } bus_mode;

/* Which windows the call under way may touch. */
typedef enum { CALL_OTHER, CALL_LOAD, CALL_INPUT, CALL_OUTPUT, CALL_RUN } bus_call;

typedef struct {
    fuzz_input script;
    bus_mode afterwards;
    const moesaic_device *device; /* of the driver under test */
    bus_call call;
    uint32_t task;     /* of CALL_INPUT, CALL_OUTPUT and CALL_RUN */
    uint64_t accesses; /* of the call: registers, memory, waits */
    uint64_t waits;    /* of the call */
    uint32_t patience; /* accesses until it works for good; 0 for never */
    uint32_t hash;     /* of the bitstream */
    uint32_t registers[REGISTERS];
    uint64_t frame_cycles, left; /* of a frame; until the end of the one that runs */
    int endless;                 /* the frame that runs does not end */
    uint32_t stuck_reads;        /* of STATUS that say busy after a reset */
    int lied;                    /* it said what no driver can know to be wrong */
    uint32_t ended;              /* frames that ended well */
    uint8_t memory[MEMORY_BYTES];
} accelerator;

void accelerator_begin(accelerator *self, uint32_t hash, const uint8_t *script, size_t bytes,
                       moesaic_platform *platform);

/* From now on it does what an accelerator does. */
void accelerator_works(accelerator *self);

/* Digest of the bytes of an input window; code (row, column) of an output that it makes. */
uint32_t accelerator_digest(const uint8_t *window, size_t bytes);
int16_t accelerator_code(uint32_t digest, uint32_t output, uint32_t row, uint32_t column);
/* Where the code lies in the output windows: the port, and the byte in its window. */
uint32_t accelerator_place(const moesaic_sizes *sizes, const moesaic_task_info *info,
                           uint32_t output, uint32_t row, uint32_t column, uint32_t *port);
/* Write all codes of a task into its windows. */
void accelerator_drain(accelerator *self, const moesaic_task *task, uint32_t digest);

#endif
