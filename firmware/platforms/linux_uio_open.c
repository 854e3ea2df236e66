/* Finding, taking and leaving an accelerator; linux_uio.c uses it. */
#define _GNU_SOURCE /* flock */
#include "linux_uio.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bus.h"
#include "linux_sysfs.h"
#include "linux_uio_internal.h"

enum { NUMBERS = 64 }; /* uioN that are looked at; scanning the folder would allocate memory */
#define FASTEST_CLOCK_HZ UINT64_C(10000000000)

moesaic_result moesaic_uio_find(const char *class_folder, const char *name, unsigned instance,
                                unsigned *number) {
    if (!name || !number) return MOESAIC_BAD_ARGUMENT;
    if (!class_folder) class_folder = "/sys/class/uio";
    for (unsigned n = 0; n < NUMBERS; ++n) {
        char attribute[24], text[64];
        snprintf(attribute, sizeof(attribute), "uio%u/name", n);
        if (moesaic_sysfs_text(class_folder, attribute, text, sizeof(text))) continue;
        if (strcmp(text, name) || instance--) continue;
        *number = n;
        return MOESAIC_OK;
    }
    return MOESAIC_NO_DEVICE;
}

moesaic_result moesaic_uio_fill(moesaic_uio_paths *paths, moesaic_uio_config *config,
                                unsigned number, const char *buffer) {
    if (!paths || !config || !buffer || strlen(buffer) > 32 || strchr(buffer, '/'))
        return MOESAIC_BAD_ARGUMENT;
    snprintf(paths->device, sizeof(paths->device), "/dev/uio%u", number);
    snprintf(paths->map, sizeof(paths->map), "/sys/class/uio/uio%u/maps/map0", number);
    snprintf(paths->memory, sizeof(paths->memory), "/dev/%s", buffer);
    snprintf(paths->memory_attributes, sizeof(paths->memory_attributes), "/sys/class/u-dma-buf/%s",
             buffer);
    config->device = paths->device;
    config->map = paths->map;
    config->memory = paths->memory;
    config->memory_attributes = paths->memory_attributes;
    return MOESAIC_OK;
}

/* Remember what failed, and say it as a result. */
static moesaic_result fail(moesaic_uio *self, const char *what, int error) {
    self->failed = what;
    self->error = error;
    return error == ENOENT || error == ENXIO || error == ENODEV ? MOESAIC_NO_DEVICE
                                                                : MOESAIC_PLATFORM_ERROR;
}

static moesaic_result map_registers(moesaic_uio *self, const moesaic_uio_config *config) {
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t bytes, offset;
    if (moesaic_sysfs_number(config->map, "size", &bytes))
        return fail(self, "size of the registers", errno);
    if (moesaic_sysfs_number(config->map, "offset", &offset))
        return fail(self, "offset of the registers", errno);
    if (offset % 4 || offset >= page || bytes > SIZE_MAX - page || bytes < BUS_REGISTER_BYTES ||
        bytes - BUS_REGISTER_BYTES < offset)
        return fail(self, "size of the registers", ERANGE);
    /* map0 is at offset 0 of the device file. */
    self->mapping = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, self->device, 0);
    if (self->mapping == MAP_FAILED) return fail(self, "mapping the registers", errno);
    self->mapping_bytes = (size_t)bytes;
    self->registers = (volatile uint8_t *)self->mapping + offset;
    return MOESAIC_OK;
}

static moesaic_result map_memory(moesaic_uio *self, const moesaic_uio_config *config) {
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const char *folder = config->memory_attributes;
    uint64_t base, bytes;
    int flags = O_RDWR | O_CLOEXEC | (config->mode == MOESAIC_UIO_UNCACHED ? O_SYNC : 0);
    if (moesaic_sysfs_number(folder, "phys_addr", &base))
        return fail(self, "phys_addr of the memory", errno);
    if (moesaic_sysfs_number(folder, "size", &bytes))
        return fail(self, "size of the memory", errno);
    if (base % page || bytes == 0 || bytes % page || bytes > SIZE_MAX || base > UINT64_MAX - bytes)
        return fail(self, "range of the memory", ERANGE);
    /* The attributes for cache maintenance have 32 bits for an offset. */
    if (config->mode == MOESAIC_UIO_CACHED && bytes > UINT32_MAX)
        return fail(self, "cached memory must be below 4 GiB", ERANGE);
    self->buffer = open(config->memory, flags);
    if (self->buffer < 0) return fail(self, "the memory's device file", errno);
    self->memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, self->buffer, 0);
    if (self->memory == MAP_FAILED) return fail(self, "mapping the memory", errno);
    self->memory_base = base;
    self->memory_bytes = bytes;
    return MOESAIC_OK;
}

static moesaic_result open_attribute(moesaic_uio *self, const char *folder, const char *name,
                                     int *descriptor) {
    char path[SYSFS_PATH_BYTES];
    if (!moesaic_sysfs_path(path, folder, name)) *descriptor = open(path, O_WRONLY | O_CLOEXEC);
    return *descriptor < 0 ? fail(self, "the memory's cache attributes", errno) : MOESAIC_OK;
}

static moesaic_result take(moesaic_uio *self, const moesaic_uio_config *config) {
    moesaic_result result;
    /* Without O_NONBLOCK, a read of an interrupt that someone else has taken would never end. */
    self->device = open(config->device, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (self->device < 0) return fail(self, "the device file", errno);
    if (flock(self->device, LOCK_EX | LOCK_NB)) {
        int error = errno;
        result = fail(self, "the lock on the device file", error);
        return error == EWOULDBLOCK ? MOESAIC_IN_USE : result;
    }
    self->interrupt = config->interrupt ? *config->interrupt : self->device;
    result = map_registers(self, config);
    if (result == MOESAIC_OK) result = map_memory(self, config);
    if (config->mode != MOESAIC_UIO_CACHED || result != MOESAIC_OK) return result;
    result = open_attribute(self, config->memory_attributes, "sync_for_cpu", &self->sync_for_cpu);
    if (result != MOESAIC_OK) return result;
    return open_attribute(self, config->memory_attributes, "sync_for_device",
                          &self->sync_for_device);
}

static void release(moesaic_uio *self) {
    if (self->mapping != MAP_FAILED) munmap(self->mapping, self->mapping_bytes);
    if (self->memory != MAP_FAILED) munmap(self->memory, (size_t)self->memory_bytes);
    if (self->sync_for_cpu >= 0) close(self->sync_for_cpu);
    if (self->sync_for_device >= 0) close(self->sync_for_device);
    if (self->buffer >= 0) close(self->buffer);
    if (self->device >= 0) close(self->device); /* the lock goes with it */
}

moesaic_result moesaic_uio_open(moesaic_uio *self, const moesaic_uio_config *config,
                                moesaic_platform *platform) {
    moesaic_result result;
    if (!self || !config || !platform || !config->device || !config->map || !config->memory ||
        !config->memory_attributes || config->clock_hz == 0 ||
        config->clock_hz > FASTEST_CLOCK_HZ || config->mode > MOESAIC_UIO_COHERENT ||
        (config->interrupt && *config->interrupt < 0))
        return MOESAIC_BAD_ARGUMENT;
    memset(self, 0, sizeof(*self));
    self->device = self->buffer = self->sync_for_cpu = self->sync_for_device = -1;
    self->mapping = self->memory = MAP_FAILED;
    result = take(self, config);
    if (result != MOESAIC_OK) {
        release(self);
        return result;
    }
    self->clock_hz = config->clock_hz;
    self->state = UIO_OPEN;
    moesaic_uio_platform(self, platform);
    return MOESAIC_OK;
}

void moesaic_uio_close(moesaic_uio *self) {
    if (!self || self->state != UIO_OPEN) return;
    self->state = 0;
    release(self);
}
