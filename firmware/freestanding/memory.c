/* The functions that compilers call by themselves, memchr and strcmp. Weak: a C library's or a faster one
 * of the application wins. Byte by byte, which is right for any address and small. */
#include <stdint.h>
#include <string.h>

/* Otherwise the compiler may see through a loop and replace it by a call of itself. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#endif
#define WEAK __attribute__((weak))

WEAK void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
    uint8_t *t = to;
    const uint8_t *f = from;
    while (bytes--) *t++ = *f++;
    return to;
}

WEAK void *memmove(void *to, const void *from, size_t bytes) {
    uint8_t *t = to;
    const uint8_t *f = from;
    if ((uintptr_t)t - (uintptr_t)f >= bytes) return memcpy(to, from, bytes);
    while (bytes--) t[bytes] = f[bytes];
    return to;
}

WEAK void *memset(void *to, int value, size_t bytes) {
    uint8_t *t = to;
    while (bytes--) *t++ = (uint8_t)value;
    return to;
}

WEAK int memcmp(const void *a, const void *b, size_t bytes) {
    const uint8_t *p = a, *q = b;
    for (; bytes--; ++p, ++q)
        if (*p != *q) return *p < *q ? -1 : 1;
    return 0;
}

WEAK void *memchr(const void *data, int value, size_t bytes) {
    const uint8_t *p = data;
    for (; bytes--; ++p)
        if (*p == (uint8_t)value) return (void *)(uintptr_t)p;
    return NULL;
}

WEAK int strcmp(const char *a, const char *b) {
    for (; *a && *a == *b; ++a) ++b;
    return (int)(uint8_t)*a - (int)(uint8_t)*b;
}
