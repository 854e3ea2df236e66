/* The part of string.h that the driver and its tests need, for targets without a C library. */
#ifndef MOESAIC_STRING_H
#define MOESAIC_STRING_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);
void *memchr(const void *data, int value, size_t bytes);
int strcmp(const char *a, const char *b);

#endif
