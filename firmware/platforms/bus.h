/* How registers and memory shared with the accelerator are touched. For platforms only.
 *
 * Such memory may be mapped as device memory: there an access off its alignment, or one of the
 * wide ones that memcpy is made of, is a bus error. So it is touched in aligned words, and each of
 * them once. */
#ifndef MOESAIC_BUS_H
#define MOESAIC_BUS_H

#include <stddef.h>
#include <stdint.h>

#include "moesaic_registers.h"

/* The counters are the last registers. */
#define BUS_REGISTER_BYTES \
    (MOESAIC_COUNTER_BASE + MOESAIC_COUNTER_STRIDE * MOESAIC_COUNTER_COUNT)

/* Everything before is visible on the bus before anything after. Compilers' fences order one
 * processor against another; a bus master is in neither of their shareability domains. */
static inline void bus_barrier(void) {
#if defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("dsb sy" ::: "memory");
#elif defined(__riscv)
    __asm__ volatile("fence iorw, iorw" ::: "memory");
#else
    __sync_synchronize();
#endif
}

/* A register read comes before what follows it, a register write after what precedes it. */
static inline uint32_t bus_read(const volatile uint32_t *address) {
    uint32_t value = *address;
    bus_barrier();
    return value;
}

static inline void bus_write(volatile uint32_t *address, uint32_t value) {
    bus_barrier();
    *address = value;
}

/* Copy out of, and into, shared memory. */
void moesaic_bus_load(void *to, const volatile void *from, size_t bytes);
void moesaic_bus_store(volatile void *to, const void *from, size_t bytes);

#endif
