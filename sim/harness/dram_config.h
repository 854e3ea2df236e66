/* Timing of the simulated DRAM; C, so that the C driver's sim platform can make one too.
 * Mirrored field by field in sim/dram.py (ctypes), which has the defaults. */
#ifndef MOESAIC_DRAM_CONFIG_H
#define MOESAIC_DRAM_CONFIG_H

#include <stdint.h>

struct moesaic_dram_config {
    uint32_t latency_cycles;      /* address to first read beat; last write beat to response */
    uint32_t bandwidth_q16;       /* sustained share of one beat per cycle and port, times 65536 */
    uint32_t burst_credit_beats;  /* how far an idle port may exceed that share afterwards */
    uint32_t gap_probability_q16; /* of a gap after a beat, times 65536 */
    uint32_t max_gap_cycles;      /* gaps last 1 to this many cycles */
    uint32_t max_outstanding;     /* bursts accepted but not finished, per port and direction */
    uint32_t check_hazards;       /* report reads and writes of the same bytes without order */
    uint32_t reserved;
    uint64_t seed;
};

#endif
