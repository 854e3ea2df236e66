/* A fuzz target without libFuzzer, for any compiler: runs inputs from files, then mutations of them.
 *
 *     TARGET [-runs=N] [-seed=S] [FILE]...
 *
 * N mutations besides the files, the same ones for the same seed. Coverage does not guide them; they
 * are few, and run wherever the tests do. */
#include <string.h>

#include "fuzz.h"

enum { MOST = 4096, MOST_INPUTS = 64 };

static struct {
    uint8_t data[MOST];
    size_t bytes;
} inputs[MOST_INPUTS];
static uint32_t state = 1;

size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t most) {
    size_t at = bytes ? fuzz_random(&state) % bytes : 0;
    size_t many = 1 + fuzz_random(&state) % 4;
    switch (fuzz_random(&state) % 5) {
        case 0:
            if (bytes) data[at] ^= (uint8_t)(1u << fuzz_random(&state) % 8);
            break;
        case 1:
            if (bytes) data[at] = (uint8_t)fuzz_random(&state);
            break;
        case 2: /* insert */
            if (bytes + many > most) break;
            memmove(data + at + many, data + at, bytes - at);
            for (size_t i = 0; i < many; ++i) data[at + i] = (uint8_t)(fuzz_random(&state) % 12);
            bytes += many;
            break;
        case 3: /* erase */
            if (bytes - at <= many) break;
            memmove(data + at, data + at + many, bytes - at - many);
            bytes -= many;
            break;
        case 4:
            for (size_t i = at; i < bytes && i < at + many; ++i) data[i] = (uint8_t)(fuzz_random(&state) % 12);
            break;
    }
    return bytes;
}

/* Exactly the bytes of the input, so that a sanitizer sees a target that reads behind them. */
static void run_one(const uint8_t *data, size_t bytes) {
    uint8_t *copy = fuzz_block(bytes);
    if (bytes) memcpy(copy, data, bytes);
    LLVMFuzzerTestOneInput(copy, bytes);
    free(copy);
}

int main(int argc, char **argv) {
    unsigned long runs = 0, done = 0;
    unsigned count = 0;
    for (int i = 1; i < argc; ++i) {
        FILE *file;
        if (sscanf(argv[i], "-runs=%lu", &runs) == 1 || sscanf(argv[i], "-seed=%u", &state) == 1) continue;
        file = fopen(argv[i], "rb");
        if (!file || count == MOST_INPUTS) {
            fprintf(stderr, "%s cannot be read, or is one too many\n", argv[i]);
            return 2;
        }
        inputs[count].bytes = fread(inputs[count].data, 1, MOST, file);
        fclose(file);
        run_one(inputs[count].data, inputs[count].bytes);
        ++count;
        ++done;
    }
    if (state == 0) state = 1;
    for (unsigned long i = 0; i < runs && count; ++i, ++done) {
        static uint8_t data[MOST];
        unsigned which = fuzz_random(&state) % count;
        size_t bytes = inputs[which].bytes;
        memcpy(data, inputs[which].data, bytes);
        for (uint32_t steps = 1 + fuzz_random(&state) % 4; steps; --steps)
            bytes = LLVMFuzzerCustomMutator(data, bytes, MOST, fuzz_random(&state));
        run_one(data, bytes);
    }
    printf("%u inputs, %lu runs, 0 findings\n", count, done);
    return count == 0;
}
