#include "bus.h"

#include <string.h>

#if defined(__GNUC__)
typedef uintptr_t __attribute__((may_alias)) word; /* the memory may be an array of anything */
#else
typedef uintptr_t word;
#endif

/* Bytes up to the first aligned word. */
static size_t head(uintptr_t address, size_t bytes) {
    size_t lead = (size_t)(-address % sizeof(word));
    return lead < bytes ? lead : bytes;
}

void moesaic_bus_load(void *to, const volatile void *from, size_t bytes) {
    uint8_t *t = to;
    const volatile uint8_t *f = from;
    size_t lead = head((uintptr_t)from, bytes);
    bytes -= lead;
    while (lead--) *t++ = *f++;
    for (; bytes >= sizeof(word); bytes -= sizeof(word)) {
        word value = *(const volatile word *)(const volatile void *)f;
        memcpy(t, &value, sizeof(word)); /* the caller's side is ordinary memory, at any address */
        f += sizeof(word);
        t += sizeof(word);
    }
    while (bytes--) *t++ = *f++;
}

void moesaic_bus_store(volatile void *to, const void *from, size_t bytes) {
    volatile uint8_t *t = to;
    const uint8_t *f = from;
    size_t lead = head((uintptr_t)to, bytes);
    bytes -= lead;
    while (lead--) *t++ = *f++;
    for (; bytes >= sizeof(word); bytes -= sizeof(word)) {
        word value;
        memcpy(&value, f, sizeof(word));
        *(volatile word *)(volatile void *)t = value;
        f += sizeof(word);
        t += sizeof(word);
    }
    while (bytes--) *t++ = *f++;
}
