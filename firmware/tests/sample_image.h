/* A device image made here, byte by byte, so that the loader is not tested against itself. */
#ifndef MOESAIC_SAMPLE_IMAGE_H
#define MOESAIC_SAMPLE_IMAGE_H

#include <string.h>

#include "../core/internal.h"

enum {
    SAMPLE_HASH = 0x1234ABCD,
    SAMPLE_DEPTH = 16,
    SAMPLE_WIDTH = 16,
    SAMPLE_LANES = 4,
    SAMPLE_PORTS = 2,
    SAMPLE_OUTPUT_PORTS = 2,
    SAMPLE_TASKS = 2,
    SAMPLE_OUTPUTS = 2, /* of a task, at most */
    SAMPLE_SECTIONS = SAMPLE_PORTS + 2 * SAMPLE_TASKS,
    SAMPLE_ALIGN = MOESAIC_WINDOW_ALIGNMENT,
    SAMPLE_TABLES = MOESAIC_HEADER_SIZE + SAMPLE_SECTIONS * MOESAIC_SECTION_SIZE +
                    SAMPLE_TASKS * MOESAIC_TASK_SIZE,
    SAMPLE_FIRST_TASK = MOESAIC_HEADER_SIZE + SAMPLE_SECTIONS * MOESAIC_SECTION_SIZE,
    SAMPLE_BYTES = SAMPLE_ALIGN * SAMPLE_SECTIONS + 96,
};

static const moesaic_task_info SAMPLE_INFO[SAMPLE_TASKS] = {
    {"seg", 5, 37, 1, 0, {{7, 35}}}, {"depth", 3, 16, 2, 200, {{4, 4}, {3, 9}}}};

static void put32(uint8_t *p, uint32_t value) {
    for (unsigned i = 0; i < 4; ++i) p[i] = (uint8_t)(value >> (8 * i));
}

/* Checksums once more, after a test has changed something else. */
static inline void sample_seal(uint8_t image[SAMPLE_BYTES]) {
    moesaic_sha256 sha;
    for (uint32_t n = 0; n < SAMPLE_SECTIONS; ++n) {
        uint8_t *record = image + MOESAIC_HEADER_SIZE + n * MOESAIC_SECTION_SIZE;
        put32(record + MOESAIC_SECTION_CRC, moesaic_crc32(0, image + (n + 1) * SAMPLE_ALIGN, 96));
    }
    moesaic_sha256_begin(&sha);
    moesaic_sha256_add(&sha, image + SAMPLE_TABLES, SAMPLE_BYTES - SAMPLE_TABLES);
    moesaic_sha256_end(&sha, image + MOESAIC_HEADER_SHA256);
    put32(image + MOESAIC_HEADER_TABLE_CRC, 0);
    put32(image + MOESAIC_HEADER_TABLE_CRC, moesaic_crc32(0, image, SAMPLE_TABLES));
}

static inline void sample_image(uint8_t image[SAMPLE_BYTES]) {
    const uint32_t header[][2] = {
        {MOESAIC_HEADER_MAGIC, MOESAIC_IMAGE_MAGIC},
        {MOESAIC_HEADER_VERSION, MOESAIC_IMAGE_VERSION},
        {MOESAIC_HEADER_TOTAL_BYTES, SAMPLE_BYTES},
        {MOESAIC_HEADER_TABLE_BYTES, SAMPLE_TABLES},
        {MOESAIC_HEADER_ARCH_HASH, SAMPLE_HASH},
        {MOESAIC_HEADER_SECTION_COUNT, SAMPLE_SECTIONS},
        {MOESAIC_HEADER_TASK_COUNT, SAMPLE_TASKS},
        {MOESAIC_HEADER_DEPTH, SAMPLE_DEPTH},
        {MOESAIC_HEADER_WIDTH, SAMPLE_WIDTH},
        {MOESAIC_HEADER_LANES, SAMPLE_LANES},
        {MOESAIC_HEADER_WEIGHT_PORTS, SAMPLE_PORTS},
        {MOESAIC_HEADER_OUTPUT_PORTS, SAMPLE_OUTPUT_PORTS},
    };
    uint8_t *record = image + MOESAIC_HEADER_SIZE;
    memset(image, 0, SAMPLE_BYTES);
    for (size_t i = 0; i < sizeof(header) / sizeof(header[0]); ++i)
        put32(image + header[i][0], header[i][1]);
    for (uint32_t n = 0; n < SAMPLE_SECTIONS; ++n, record += MOESAIC_SECTION_SIZE) {
        int weight = n < SAMPLE_PORTS;
        uint32_t of_task = n - SAMPLE_PORTS;
        put32(record + MOESAIC_SECTION_KIND,
              weight ? MOESAIC_KIND_WEIGHT
                     : (of_task % 2 ? MOESAIC_KIND_CONSTANT : MOESAIC_KIND_PROGRAM));
        put32(record + MOESAIC_SECTION_INDEX, weight ? n : of_task / 2);
        put32(record + MOESAIC_SECTION_OFFSET, (n + 1) * SAMPLE_ALIGN);
        put32(record + MOESAIC_SECTION_BYTES, 96);
        memset(image + (n + 1) * SAMPLE_ALIGN, (int)(0x10 + n), 96);
    }
    for (uint32_t t = 0; t < SAMPLE_TASKS; ++t, record += MOESAIC_TASK_SIZE) {
        memcpy(record + MOESAIC_TASK_NAME, SAMPLE_INFO[t].name, MOESAIC_NAME_BYTES);
        put32(record + MOESAIC_TASK_INPUT_ROWS, SAMPLE_INFO[t].input_rows);
        put32(record + MOESAIC_TASK_INPUTS, SAMPLE_INFO[t].inputs);
        put32(record + MOESAIC_TASK_OUTPUT_COUNT, SAMPLE_INFO[t].output_count);
        put32(record + MOESAIC_TASK_SCRATCH_BYTES, SAMPLE_INFO[t].scratch_bytes);
        for (uint32_t o = 0; o < SAMPLE_INFO[t].output_count; ++o) {
            put32(record + MOESAIC_TASK_OUTPUT + 8 * o, SAMPLE_INFO[t].output[o].rows);
            put32(record + MOESAIC_TASK_OUTPUT + 8 * o + 4, SAMPLE_INFO[t].output[o].columns);
        }
    }
    sample_seal(image);
}

#endif
