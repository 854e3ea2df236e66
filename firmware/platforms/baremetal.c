#include "baremetal.h"

#include <string.h>

#include "bus.h"

enum { FAILED = -1, DONE = 0 };

static volatile uint32_t *register_at(const moesaic_baremetal *self, uint32_t offset) {
    if (offset % 4 || offset >= BUS_REGISTER_BYTES) return NULL;
    return (volatile uint32_t *)((uintptr_t)self->config.registers + offset);
}

static int read_register(void *context, uint32_t offset, uint32_t *value) {
    volatile uint32_t *address = register_at(context, offset);
    if (!address) return FAILED;
    *value = bus_read(address);
    return DONE;
}

static int write_register(void *context, uint32_t offset, uint32_t value) {
    volatile uint32_t *address = register_at(context, offset);
    if (!address) return FAILED;
    bus_write(address, value);
    return DONE;
}

/* Where the processor sees the accelerator's `address`; 0 unless all bytes are in the memory. */
static uintptr_t memory_at(const moesaic_baremetal *self, uint64_t address, size_t bytes) {
    const moesaic_baremetal_config *config = &self->config;
    uint64_t offset = address - config->memory_base;
    if (address < config->memory_base || offset > config->memory_bytes ||
        bytes > config->memory_bytes - offset)
        return 0;
    return (uintptr_t)(config->memory + offset);
}

static int read_memory(void *context, uint64_t address, void *data, size_t bytes) {
    moesaic_baremetal *self = context;
    uintptr_t source = memory_at(self, address, bytes);
    if (!source) return FAILED;
    if (self->config.invalidate) self->config.invalidate(self->config.hooks, source, bytes);
    moesaic_bus_load(data, (const volatile void *)source, bytes);
    return DONE;
}

static int write_memory(void *context, uint64_t address, const void *data, size_t bytes) {
    moesaic_baremetal *self = context;
    uintptr_t target = memory_at(self, address, bytes);
    if (!target) return FAILED;
    moesaic_bus_store((volatile void *)target, data, bytes);
    if (self->config.clean) self->config.clean(self->config.hooks, target, bytes);
    return DONE;
}

static int wait(void *context, uint64_t cycles, uint64_t *waited) {
    moesaic_baremetal *self = context;
    const moesaic_baremetal_config *config = &self->config;
    uint64_t start = config->cycles ? config->cycles(config->hooks) : 0;
    uint64_t looks = 0, passed = 0;
    if (config->unmask) config->unmask(config->hooks);
    /* A counter that stands still must not hang the driver: a look takes a cycle at least. */
    while (passed < cycles && looks < cycles) {
        if (self->interrupt) {
            self->interrupt = 0;
            /* Less than was asked for: that is how the driver knows. */
            *waited = passed ? passed : 1;
            return DONE;
        }
        ++looks;
        passed = config->cycles ? config->cycles(config->hooks) - start : looks;
    }
    if (config->cycles && passed == 0) return FAILED;
    *waited = passed ? passed : 1;
    return DONE;
}

void moesaic_baremetal_interrupt(moesaic_baremetal *self) {
    if (self) self->interrupt = 1;
}

/* Whether a pointer reaches all of a range that is not at 0. */
static int reachable(uint64_t address, uint64_t bytes) {
    return address != 0 && address <= UINTPTR_MAX && bytes != 0 &&
           bytes - 1 <= UINTPTR_MAX - address;
}

moesaic_result moesaic_baremetal_open(moesaic_baremetal *self,
                                      const moesaic_baremetal_config *config,
                                      moesaic_platform *platform) {
    if (!self || !config || !platform) return MOESAIC_BAD_ARGUMENT;
    if (!reachable(config->registers, BUS_REGISTER_BYTES) || config->registers % 4 ||
        !reachable(config->memory, config->memory_bytes) ||
        config->memory_bytes - 1 > UINT64_MAX - config->memory_base)
        return MOESAIC_BAD_ARGUMENT;
    memset(self, 0, sizeof(*self));
    self->config = *config;
    platform->context = self;
    platform->read_register = read_register;
    platform->write_register = write_register;
    platform->read_memory = read_memory;
    platform->write_memory = write_memory;
    platform->wait = wait;
    return MOESAIC_OK;
}
