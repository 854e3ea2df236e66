/* A UIO device and a u-dma-buf of plain files in a temporary folder, for tests of the platform. */
#ifndef MOESAIC_FAKE_UIO_H
#define MOESAIC_FAKE_UIO_H

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../platforms/linux_uio.h"

enum { FAKE_MEMORY = 16 * 4096, FAKE_REGISTERS = 4096 };
#define FAKE_BASE 0x70000000u

typedef struct {
    char folder[128], device[160], map[160], memory[160], attributes[160];
    int interrupt, peer; /* what is written to one end is read at the other */
    moesaic_uio_config config;
} fake_uio;

static void fake_path(char path[256], const fake_uio *fake, const char *name) {
    snprintf(path, 256, "%s/%s", fake->folder, name);
}

static void fake_write(const fake_uio *fake, const char *name, const void *data, size_t bytes) {
    char path[256];
    int file;
    fake_path(path, fake, name);
    file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(file >= 0 && write(file, data, bytes) == (ssize_t)bytes);
    close(file);
}

static void fake_text(const fake_uio *fake, const char *name, const char *text) {
    fake_write(fake, name, text, strlen(text));
}

/* What a file holds, as text; empty if there is none. */
static inline void fake_read(const fake_uio *fake, const char *name, char *text, size_t bytes) {
    char path[256];
    ssize_t got = 0;
    int file;
    fake_path(path, fake, name);
    file = open(path, O_RDONLY);
    if (file >= 0) {
        got = read(file, text, bytes - 1);
        close(file);
    }
    text[got > 0 ? got : 0] = 0;
}

static inline void fake_remove(const fake_uio *fake, const char *name) {
    char path[256];
    fake_path(path, fake, name);
    CHECK(unlink(path) == 0);
}

static void fake_folder(const fake_uio *fake, const char *name) {
    char path[256];
    fake_path(path, fake, name);
    CHECK(mkdir(path, 0700) == 0);
}

static const char *const FAKE_FILES[] = {
    "uio0", "udmabuf0", "map0/size", "map0/offset", "buffer/phys_addr", "buffer/size",
    "buffer/sync_for_cpu", "buffer/sync_for_device", "class/uio0/name", "class/uio1/name",
    "class/uio3/name", "class/uio0", "class/uio1", "class/uio3", "class", "map0", "buffer", "",
};

static void fake_make(fake_uio *fake) {
    static const char zeros[FAKE_MEMORY];
    const char *place = getenv("TMPDIR");
    int ends[2];
    memset(fake, 0, sizeof(*fake));
    snprintf(fake->folder, sizeof(fake->folder), "%s/moesaic.XXXXXX", place ? place : "/tmp");
    CHECK(mkdtemp(fake->folder) != NULL);
    fake_folder(fake, "map0");
    fake_folder(fake, "buffer");
    fake_write(fake, "uio0", zeros, FAKE_REGISTERS);
    fake_write(fake, "udmabuf0", zeros, FAKE_MEMORY);
    fake_text(fake, "map0/size", "0x00001000\n");
    fake_text(fake, "map0/offset", "0x0\n");
    fake_text(fake, "buffer/phys_addr", "0x0000000070000000\n");
    fake_text(fake, "buffer/size", "65536\n");
    fake_text(fake, "buffer/sync_for_cpu", "");
    fake_text(fake, "buffer/sync_for_device", "");
    snprintf(fake->device, sizeof(fake->device), "%s/uio0", fake->folder);
    snprintf(fake->map, sizeof(fake->map), "%s/map0", fake->folder);
    snprintf(fake->memory, sizeof(fake->memory), "%s/udmabuf0", fake->folder);
    snprintf(fake->attributes, sizeof(fake->attributes), "%s/buffer", fake->folder);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    fake->interrupt = ends[0];
    fake->peer = ends[1];
    fake->config.device = fake->device;
    fake->config.map = fake->map;
    fake->config.memory = fake->memory;
    fake->config.memory_attributes = fake->attributes;
    fake->config.clock_hz = 1000000000;
    fake->config.mode = MOESAIC_UIO_CACHED;
    fake->config.interrupt = &fake->interrupt;
}

static void fake_drop(fake_uio *fake) {
    char path[256];
    close(fake->interrupt);
    close(fake->peer);
    for (size_t i = 0; i < sizeof(FAKE_FILES) / sizeof(FAKE_FILES[0]); ++i) {
        fake_path(path, fake, FAKE_FILES[i]);
        remove(path); /* not all tests make all of them */
    }
    CHECK(access(fake->folder, F_OK) != 0);
}

/* Open descriptors of this process. */
static inline int count_descriptors(void) {
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;
    CHECK(folder != NULL);
    while (folder && readdir(folder)) ++count;
    if (folder) closedir(folder);
    return count;
}

#endif
