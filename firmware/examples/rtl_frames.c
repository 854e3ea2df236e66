/* Runs frames on the Verilated accelerator, in C from end to end, and compares their codes.
 *
 *     rtl_frames SIMULATOR.so DEVICE.bin DRAM MEMORY_BYTES [TASK INPUT CODES]...
 *
 * DRAM is a file with a struct moesaic_dram_config. INPUT and CODES are files with the int8 and
 * int16 codes of one frame of TASK. Frames run in the order given; prints each one's cycles. Exit
 * code 0 if every code is as expected, 1 if not or if the driver fails, 2 for wrong arguments. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../platforms/linux_sim.h"

/* The whole file in memory of the caller's to free, or null. */
static void *read_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    void *data = NULL;
    long size;
    if (!file) return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) > 0 && fseek(file, 0, SEEK_SET) == 0) {
        *bytes = (size_t)size;
        data = malloc(*bytes);
        if (data && fread(data, 1, *bytes, file) != *bytes) {
            free(data);
            data = NULL;
        }
    }
    fclose(file);
    return data;
}

static moesaic_result frame(moesaic_device *device, const char *name, const char *input_path,
                            const char *codes_path) {
    uint64_t counters[MOESAIC_COUNTER_COUNT];
    size_t input_bytes = 0, codes_bytes = 0;
    uint32_t task = 0;
    int8_t *input = read_file(input_path, &input_bytes);
    int16_t *expected = read_file(codes_path, &codes_bytes);
    int16_t *codes = expected ? malloc(codes_bytes) : NULL;
    moesaic_result result = MOESAIC_BAD_ARGUMENT;
    if (input && expected && codes) {
        result = moesaic_find_task(device, name, &task);
        if (!result)
            result = moesaic_run(device, task, input, input_bytes, codes, codes_bytes / 2);
        if (!result) result = moesaic_read_counters(device, counters, MOESAIC_COUNTER_COUNT);
        if (!result) {
            int same = memcmp(codes, expected, codes_bytes) == 0;
            printf("%s %llu cycles %s\n", name,
                   (unsigned long long)counters[MOESAIC_COUNTER_CYCLES],
                   same ? "bit-exact" : "DIFFERENT");
            if (!same) result = MOESAIC_FRAME_ERROR;
        }
    }
    free(input);
    free(expected);
    free(codes);
    return result;
}

int main(int argc, char **argv) {
    static moesaic_device device;
    moesaic_sim sim;
    moesaic_platform platform;
    moesaic_config config = {0, 0, 100000000u, 1000000u};
    size_t image_bytes = 0, dram_bytes = 0;
    void *image, *dram;
    moesaic_result result;
    if (argc < 8 || (argc - 5) % 3) {
        fprintf(stderr, "usage: %s SIMULATOR.so DEVICE.bin DRAM MEMORY_BYTES [TASK INPUT CODES]...\n",
                argv[0]);
        return 2;
    }
    image = read_file(argv[2], &image_bytes);
    dram = read_file(argv[3], &dram_bytes);
    config.memory_bytes = strtoull(argv[4], NULL, 0);
    if (!image || !dram || dram_bytes != sizeof(struct moesaic_dram_config)) {
        fprintf(stderr, "%s or %s cannot be read\n", argv[2], argv[3]);
        return 2;
    }
    result = moesaic_sim_open(&sim, argv[1], config.memory_base, config.memory_bytes, dram, &platform);
    if (!result) {
        result = moesaic_open(&device, &platform, config);
        if (!result) result = moesaic_load(&device, image, image_bytes);
        for (int i = 5; i < argc && !result; i += 3)
            result = frame(&device, argv[i], argv[i + 1], argv[i + 2]);
        if (!result) result = moesaic_close(&device);
        moesaic_sim_close(&sim);
    }
    free(image);
    free(dram);
    if (result) fprintf(stderr, "%s\n", moesaic_result_text((int)result));
    return result != MOESAIC_OK;
}
