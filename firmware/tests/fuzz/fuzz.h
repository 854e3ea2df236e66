/* What the fuzz targets share. A target is a program with the entry points of libFuzzer; replay.c
 * gives it a main of its own where there is no libFuzzer. */
#ifndef MOESAIC_FUZZ_H
#define MOESAIC_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t most, unsigned seed);
/* The fuzzer's own mutations, for a custom mutator to build on. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t most);

/* A property of the driver: what does not hold is a finding. */
#define REQUIRE(condition)                                                          \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

/* Input that is taken bit by bit; zeros when it has ended. */
typedef struct {
    const uint8_t *next;
    size_t left;
} fuzz_input;

static inline uint32_t fuzz_take(fuzz_input *input, unsigned bytes) {
    uint32_t value = 0;
    for (unsigned i = 0; i < bytes && input->left; ++i, --input->left)
        value |= (uint32_t)*input->next++ << (8 * i);
    return value;
}

static inline uint32_t fuzz_get(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* A block of exactly so many bytes, so that a sanitizer sees the first one that is not in it. */
static inline void *fuzz_block(size_t bytes) {
    void *block = malloc(bytes ? bytes : 1);
    if (!block) exit(2);
    return block;
}

/* xorshift32; `state` is not 0. */
static inline uint32_t fuzz_random(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

#endif
