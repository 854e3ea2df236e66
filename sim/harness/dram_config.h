/* Timing of the simulated DRAM; C, so that the C driver's sim platform can make one too.
 * Mirrored field by field in sim/dram.py (ctypes), which has the defaults. */
#ifndef MOESAIC_DRAM_CONFIG_H
#define MOESAIC_DRAM_CONFIG_H

#include <stdint.h>

/* A controller that all ports share. Times in picoseconds. */
struct moesaic_ddr_config {
    uint32_t period_ps;           /* of the ports' clock; 0: there is no such controller */
    uint32_t clock_ps;            /* of the memory, two transfers */
    uint32_t bus_bytes;           /* of a transfer */
    uint32_t groups;              /* of banks; accesses of a burst take turns between them */
    uint32_t banks;               /* of a group */
    uint32_t columns;             /* of a row, a transfer each */
    uint32_t refresh_interval_ps; /* between refreshes of all banks */
    uint32_t refresh_ps;          /* refresh to activate */
    uint32_t precharge_ps;        /* precharge to activate */
    uint32_t activate_ps;         /* activate to read or write */
    uint32_t row_open_ps;         /* activate to precharge */
    uint32_t activate_window_ps;  /* that has four activates at most */
    uint32_t read_ps;             /* read command to its data */
    uint32_t write_ps;            /* write command to its data */
    uint32_t read_to_close_ps;    /* read command to precharge */
    uint32_t write_recovery_ps;   /* last write data to precharge */
    uint32_t write_to_read_ps;    /* last write data to read command */
    uint32_t read_to_write_ps;    /* of the data bus, last read data to first write data */
    uint32_t read_buffer_bytes;   /* of a port: fetched and not taken; a burst at the least */
    uint32_t write_buffer_bytes;  /* of all ports: half of it goes in front of reads */
    uint32_t most_passes;         /* a read is the next one when so many have passed it */
    uint32_t reserved;
};

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
    struct moesaic_ddr_config ddr;
};

#endif
