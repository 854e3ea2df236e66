/* Registers, memory and interrupt while the accelerator is open; linux_uio_open.c opens it. */
#define _GNU_SOURCE /* ppoll: poll() would round a wait up to a millisecond */
#include "linux_uio.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bus.h"
#include "linux_uio_internal.h"

enum { LONGEST_WAIT_S = 3600, CACHE_LINE = 64 };
#define NS_PER_S UINT64_C(1000000000)

static int failed(moesaic_uio *self, const char *what, int error) {
    self->failed = what;
    self->error = error;
    return -1;
}

static int read_register(void *context, uint32_t offset, uint32_t *value) {
    moesaic_uio *self = context;
    if (self->state != UIO_OPEN || offset % 4 || offset >= BUS_REGISTER_BYTES)
        return failed(self, "register offset", EINVAL);
    *value = bus_read((const volatile uint32_t *)(const volatile void *)(self->registers + offset));
    return 0;
}

static int write_register(void *context, uint32_t offset, uint32_t value) {
    moesaic_uio *self = context;
    if (self->state != UIO_OPEN || offset % 4 || offset >= BUS_REGISTER_BYTES)
        return failed(self, "register offset", EINVAL);
    bus_write((volatile uint32_t *)(volatile void *)(self->registers + offset), value);
    return 0;
}

/* Where `address` is mapped; null unless all bytes are in the buffer. */
static uint8_t *memory_at(moesaic_uio *self, uint64_t address, size_t bytes) {
    uint64_t offset = address - self->memory_base;
    if (self->state != UIO_OPEN || address < self->memory_base || offset > self->memory_bytes ||
        bytes > self->memory_bytes - offset) {
        failed(self, "memory address", EINVAL);
        return NULL;
    }
    return (uint8_t *)self->memory + offset;
}

/* Give a range to processor or accelerator, by one write of u-dma-buf's attribute: offset in the
 * upper 32 bits, then size, in units of 16 bytes, direction and a one. */
static int sync_range(moesaic_uio *self, int attribute, unsigned direction, const uint8_t *begin,
                      size_t bytes) {
    uint64_t first = (uint64_t)(begin - (uint8_t *)self->memory);
    uint64_t last = first + bytes;
    char text[24];
    int length;
    if (attribute < 0 || bytes == 0) return 0;
    first -= first % CACHE_LINE;
    last += (CACHE_LINE - last % CACHE_LINE) % CACHE_LINE;
    if (last > self->memory_bytes) last = self->memory_bytes; /* a multiple of the page size */
    length = snprintf(text, sizeof(text), "0x%08lX%08lX", (unsigned long)first,
                      (unsigned long)((last - first) | direction << 2 | 1));
    if (pwrite(attribute, text, (size_t)length, 0) != length)
        return failed(self, "cache maintenance", errno);
    return 0;
}

static int read_memory(void *context, uint64_t address, void *data, size_t bytes) {
    moesaic_uio *self = context;
    uint8_t *source = memory_at(self, address, bytes);
    if (!source || sync_range(self, self->sync_for_cpu, UIO_FROM_DEVICE, source, bytes)) return -1;
    moesaic_bus_load(data, source, bytes);
    return 0;
}

static int write_memory(void *context, uint64_t address, const void *data, size_t bytes) {
    moesaic_uio *self = context;
    uint8_t *target = memory_at(self, address, bytes);
    if (!target) return -1;
    moesaic_bus_store(target, data, bytes);
    return sync_range(self, self->sync_for_device, UIO_TO_DEVICE, target, bytes);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* a * b / c, the quotient of a by c in seconds not above LONGEST_WAIT_S, b and c not above 10^10. */
static uint64_t scale(uint64_t a, uint64_t b, uint64_t c) {
    return a / c * b + a % c * b / c;
}

/* Bounded by `cycles` as time, plus what the scheduler takes. */
static int wait_interrupt(void *context, uint64_t cycles, uint64_t *waited) {
    moesaic_uio *self = context;
    const uint32_t one = 1;
    uint32_t count;
    struct pollfd source = {0, POLLIN, 0};
    struct timespec limit;
    uint64_t start, ns, passed;
    int ready;
    if (self->state != UIO_OPEN) return failed(self, "wait", EINVAL);
    source.fd = self->interrupt;
    if (cycles / self->clock_hz >= LONGEST_WAIT_S) cycles = LONGEST_WAIT_S * self->clock_hz;
    ns = scale(cycles, NS_PER_S, self->clock_hz) + 1; /* rounded up */
    limit.tv_sec = (time_t)(ns / NS_PER_S);
    limit.tv_nsec = (long)(ns % NS_PER_S);
    start = now_ns();
    /* The kernel masks the interrupt when it comes. The accelerator holds its line, so that one
     * that came since the last wait is not missed. */
    if (write(self->interrupt, &one, sizeof(one)) != sizeof(one))
        return failed(self, "enabling the interrupt", errno);
    ready = ppoll(&source, 1, &limit, NULL);
    if (ready < 0 && errno != EINTR) return failed(self, "waiting for the interrupt", errno);
    if (ready > 0) {
        if (source.revents & (POLLERR | POLLNVAL)) return failed(self, "the interrupt is gone", EIO);
        if (source.revents & POLLIN) {
            ssize_t got = read(self->interrupt, &count, sizeof(count));
            if (got < 0 && errno != EAGAIN && errno != EINTR)
                return failed(self, "taking the interrupt", errno);
            if (got >= 0 && got != sizeof(count)) return failed(self, "taking the interrupt", EIO);
        } else {
            return failed(self, "the interrupt is gone", EIO);
        }
    }
    passed = scale(now_ns() - start, self->clock_hz, NS_PER_S);
    if (ready == 0 && passed < cycles) passed = cycles;
    /* Less than was asked for: that is how the driver knows an interrupt from a time-out. */
    if (ready > 0 && passed >= cycles) passed = cycles ? cycles - 1 : 0;
    *waited = passed ? passed : 1;
    return 0;
}

void moesaic_uio_platform(moesaic_uio *self, moesaic_platform *platform) {
    platform->context = self;
    platform->read_register = read_register;
    platform->write_register = write_register;
    platform->read_memory = read_memory;
    platform->write_memory = write_memory;
    platform->wait = wait_interrupt;
}

size_t moesaic_uio_bytes(void) {
    return sizeof(moesaic_uio);
}
