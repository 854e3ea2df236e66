#define _POSIX_C_SOURCE 200809L
#include "linux_sim.h"

#include <dlfcn.h>
#include <string.h>

enum { BUS_TIMEOUT_CYCLES = 10000, POWER_UP_SEED = 1 };

/* ISO C has no cast from an object to a function pointer; POSIX promises that the bytes agree. */
static int find(void *library, const char *name, void *function) {
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof(symbol));
    return symbol ? 0 : -1;
}

static int read_register(void *context, uint32_t offset, uint32_t *value) {
    moesaic_sim *sim = context;
    return sim->read_register(sim->simulator, offset, value, BUS_TIMEOUT_CYCLES);
}

static int write_register(void *context, uint32_t offset, uint32_t value) {
    moesaic_sim *sim = context;
    return sim->write_register(sim->simulator, offset, value, BUS_TIMEOUT_CYCLES);
}

static uint8_t *locate(const moesaic_sim *sim, uint64_t address, size_t bytes) {
    uint64_t offset = address - sim->memory_base;
    if (address < sim->memory_base || offset > sim->memory_bytes ||
        bytes > sim->memory_bytes - offset)
        return NULL;
    return sim->memory + offset;
}

static int read_memory(void *context, uint64_t address, void *data, size_t bytes) {
    const uint8_t *place = locate(context, address, bytes);
    if (!place) return -1;
    memcpy(data, place, bytes);
    return 0;
}

static int write_memory(void *context, uint64_t address, const void *data, size_t bytes) {
    uint8_t *place = locate(context, address, bytes);
    if (!place) return -1;
    memcpy(place, data, bytes);
    return 0;
}

static int wait_interrupt(void *context, uint64_t cycles, uint64_t *waited) {
    moesaic_sim *sim = context;
    uint64_t before = sim->cycles(sim->simulator);
    int result = sim->run(sim->simulator, cycles, 1); /* 0: cycles done, 1: interrupt */
    *waited = sim->cycles(sim->simulator) - before;
    return result < 0 || result > 1 || sim->violation_count(sim->simulator);
}

moesaic_result moesaic_sim_open(moesaic_sim *sim, const char *library, uint64_t memory_base,
                                uint64_t memory_bytes, const struct moesaic_dram_config *dram,
                                moesaic_platform *platform) {
    void *(*create)(uint64_t, uint64_t, const struct moesaic_dram_config *, uint32_t);
    uint8_t *(*memory)(void *);
    if (!sim || !library || !dram || !platform) return MOESAIC_BAD_ARGUMENT;
    memset(sim, 0, sizeof(*sim));
    sim->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!sim->library) return MOESAIC_NO_DEVICE;
    if (find(sim->library, "moesaic_create", &create) ||
        find(sim->library, "moesaic_memory", &memory) ||
        find(sim->library, "moesaic_destroy", &sim->destroy) ||
        find(sim->library, "moesaic_run", &sim->run) ||
        find(sim->library, "moesaic_read_register", &sim->read_register) ||
        find(sim->library, "moesaic_write_register", &sim->write_register) ||
        find(sim->library, "moesaic_cycles", &sim->cycles) ||
        find(sim->library, "moesaic_violation_count", &sim->violation_count)) {
        moesaic_sim_close(sim);
        return MOESAIC_NO_DEVICE;
    }
    sim->simulator = create(memory_base, memory_bytes, dram, POWER_UP_SEED);
    if (!sim->simulator) {
        moesaic_sim_close(sim);
        return MOESAIC_NO_DEVICE;
    }
    sim->memory = memory(sim->simulator);
    sim->memory_base = memory_base;
    sim->memory_bytes = memory_bytes;
    platform->context = sim;
    platform->read_register = read_register;
    platform->write_register = write_register;
    platform->read_memory = read_memory;
    platform->write_memory = write_memory;
    platform->wait = wait_interrupt;
    return MOESAIC_OK;
}

void moesaic_sim_close(moesaic_sim *sim) {
    if (!sim) return;
    if (sim->simulator) sim->destroy(sim->simulator);
    if (sim->library) dlclose(sim->library);
    memset(sim, 0, sizeof(*sim));
}
