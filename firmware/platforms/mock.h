/* An accelerator that is none: registers and memory in RAM, and faults on demand. For unit tests. */
#ifndef MOESAIC_MOCK_H
#define MOESAIC_MOCK_H

#include "moesaic.h"

typedef enum {
    MOCK_WORKS = 0,
    MOCK_ALL_ONES,       /* every register reads as ones: the bus is gone */
    MOCK_ALL_ZEROS,      /* every register reads as zeros: power is gone */
    MOCK_ONES_ON_START,  /* the bus goes when a frame starts */
    MOCK_LOST_INTERRUPT, /* frames end, the interrupt does not come */
    MOCK_HANG,           /* frames do not end, the watchdog neither; a reset helps */
    MOCK_STUCK,          /* the same, and busy after a reset */
    MOCK_FRAME_ERROR,    /* frames end with `error` */
    MOCK_OTHER_HASH,     /* another bitstream has been loaded */
} mock_fault;

typedef struct moesaic_mock moesaic_mock;
struct moesaic_mock {
    uint32_t registers[MOESAIC_COUNTER_BASE / 4 + 2 * MOESAIC_COUNTER_COUNT];
    uint8_t *memory;
    uint64_t memory_base, memory_bytes;
    uint64_t frame_cycles;   /* a frame takes so long */
    uint64_t left;           /* cycles until the frame that runs ends */
    mock_fault fault;
    uint32_t error, info;    /* for MOCK_FRAME_ERROR */
    uint32_t fail_access;    /* the n-th access from now fails, from 1; 0 for none */
    uint32_t reads, writes, memory_writes, frames, waits;
    void (*frame)(moesaic_mock *mock, void *user); /* computes outputs when a frame starts */
    void *user;
};

/* A mock of architecture `arch_hash` with the given memory, and its platform. */
void moesaic_mock_open(moesaic_mock *mock, uint32_t arch_hash, uint64_t memory_base, void *memory,
                       uint64_t memory_bytes, moesaic_platform *platform);
uint64_t moesaic_mock_base(const moesaic_mock *mock, uint32_t window_register);

#endif
