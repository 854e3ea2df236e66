/* Attributes of devices: small files with one value and a newline each. */
#ifndef MOESAIC_LINUX_SYSFS_H
#define MOESAIC_LINUX_SYSFS_H

#include <stddef.h>
#include <stdint.h>

enum { SYSFS_PATH_BYTES = 256 };

/* FOLDER/NAME in `path`; 0, or -1 and errno if it does not fit. */
int moesaic_sysfs_path(char path[SYSFS_PATH_BYTES], const char *folder, const char *name);
/* The text before the newline. Without one it has been cut short: -1, and errno is EIO. */
int moesaic_sysfs_text(const char *folder, const char *name, char *text, size_t bytes);
/* A whole number, decimal or 0x... Anything else: -1, and errno is EIO. */
int moesaic_sysfs_number(const char *folder, const char *name, uint64_t *value);

#endif
