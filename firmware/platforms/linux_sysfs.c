#define _POSIX_C_SOURCE 200809L
#include "linux_sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int fail(int error) {
    errno = error;
    return -1;
}

int moesaic_sysfs_path(char path[SYSFS_PATH_BYTES], const char *folder, const char *name) {
    size_t first = strlen(folder), second = strlen(name);
    if (first >= SYSFS_PATH_BYTES || second >= SYSFS_PATH_BYTES - first - 1)
        return fail(ENAMETOOLONG);
    memcpy(path, folder, first);
    path[first] = '/';
    memcpy(path + first + 1, name, second + 1);
    return 0;
}

int moesaic_sysfs_text(const char *folder, const char *name, char *text, size_t bytes) {
    char path[SYSFS_PATH_BYTES], *end;
    ssize_t got;
    int file, error;
    if (moesaic_sysfs_path(path, folder, name)) return -1;
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    got = read(file, text, bytes);
    error = errno;
    close(file);
    if (got < 0) return fail(error);
    end = memchr(text, '\n', (size_t)got);
    if (!end) return fail(EIO);
    *end = 0;
    return 0;
}

static int digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

int moesaic_sysfs_number(const char *folder, const char *name, uint64_t *value) {
    char text[32], *p = text;
    uint64_t base = 10, sum = 0;
    if (moesaic_sysfs_text(folder, name, text, sizeof(text))) return -1;
    if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
        base = 16;
        p += 2;
    }
    if (!*p) return fail(EIO);
    for (; *p; ++p) {
        int digit = digit_of(*p);
        if (digit < 0 || (uint64_t)digit >= base || sum > (UINT64_MAX - (uint64_t)digit) / base)
            return fail(EIO);
        sum = sum * base + (uint64_t)digit;
    }
    *value = sum;
    return 0;
}
