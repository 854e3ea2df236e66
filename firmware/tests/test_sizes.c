/* Numbers of an image that size memory: none may wrap around, on a processor of any width. */
#include "check.h"
#include "sample_image.h"
#include "../platforms/mock.h"

enum { BASE = 0x10000, MEMORY = 64 * SAMPLE_ALIGN, GUARD = 256 };

static uint8_t image[SAMPLE_BYTES], copy[SAMPLE_BYTES], memory[MEMORY];
static moesaic_mock mock;
static moesaic_platform platform;
static moesaic_device device;

/* Result for an image whose task 0 has other shapes, and whose checksums are right. */
static moesaic_result shaped(uint32_t input_rows, uint32_t inputs, uint32_t output_rows,
                             uint32_t outputs) {
    uint8_t *task = copy + SAMPLE_FIRST_TASK;
    memcpy(copy, image, SAMPLE_BYTES);
    put32(task + MOESAIC_TASK_INPUT_ROWS, input_rows);
    put32(task + MOESAIC_TASK_INPUTS, inputs);
    put32(task + MOESAIC_TASK_OUTPUT, output_rows);
    put32(task + MOESAIC_TASK_OUTPUT + 4, outputs);
    sample_seal(copy);
    return moesaic_check_image(copy, SAMPLE_BYTES, NULL);
}

static moesaic_result load_copy(void) {
    moesaic_config config = {BASE, MEMORY, 100000, 5000};
    moesaic_mock_open(&mock, SAMPLE_HASH, BASE, memory, MEMORY, &platform);
    CHECK(moesaic_open(&device, &platform, config) == MOESAIC_OK);
    return moesaic_load(&device, copy, SAMPLE_BYTES);
}

/* In 32 bits, 2 * 0x80000002 is 4: a window of two rows. The count of codes wraps around to that of
 * two rows, too, but the second tile of columns begins after all 0x80000002 of them. */
static void output_rows_that_wrap_around_are_refused(void) {
    enum { OUTPUTS = 2 * SAMPLE_WIDTH + 2, CODES = 2 * OUTPUTS };
    static int16_t codes[CODES + GUARD];
    const uint32_t rows = 0x80000002u;
    unsigned touched = 0;
    CHECK(shaped(5, 37, rows, OUTPUTS) == MOESAIC_BAD_IMAGE);
    memset(memory, 0x11, sizeof(memory));
    memset(codes, 0x55, sizeof(codes));
    if (load_copy() == MOESAIC_OK) {
        CHECK(moesaic_read_output(&device, 0, codes, CODES) != MOESAIC_OK);
        for (unsigned i = CODES; i < CODES + GUARD; ++i) touched += codes[i] != 0x5555;
    }
    CHECK(touched == 0);
    CHECK(load_copy() == MOESAIC_BAD_IMAGE);
    CHECK(mock.writes == 0 && mock.memory_writes == 0);
}

/* Whether a * b * c is above `limit`, without a product that could wrap around. */
static int exceeds(uint64_t a, uint64_t b, uint64_t c, uint64_t limit) {
    if (a == 0 || b == 0 || c == 0) return 0;
    return a > limit / b || a * b > limit / c;
}

static void every_product_is_that_of_the_integers(void) {
    static const uint32_t SIZES[] = {
        1, 2, 3, 4, 16, 17, 100, 1023, 1024, 1025, 4095, 4096, 4097, 0x7FFF, 0x8000, 0x8001, 0xFFF0,
        0xFFFF, 0x10000, 0x10001, 0x100000, 0x3FFFFFFF, 0x40000000, 0x40000001, 0x55555556,
        0x7FFFFFFF, 0x80000000, 0x80000001, 0x80000002, 0xAAAAAAAB, 0xC0000001, 0xFFFFFFF0,
        0xFFFFFFFE, 0xFFFFFFFF};
    const unsigned count = sizeof(SIZES) / sizeof(SIZES[0]);
    unsigned taken = 0, wrong = 0;
    for (unsigned i = 0; i < count; ++i) {
        for (unsigned j = 0; j < count; ++j) {
            const uint64_t rows = SIZES[i], columns = SIZES[j];
            const uint64_t words = (columns + SAMPLE_DEPTH - 1) / SAMPLE_DEPTH;
            const uint64_t chunks = (columns + SAMPLE_LANES - 1) / SAMPLE_LANES;
            /* What fits no window must not be taken; what the smallest bounds allow must be. */
            int in = shaped(SIZES[i], SIZES[j], 7, 35) == MOESAIC_OK;
            int out = shaped(5, 37, SIZES[i], SIZES[j]) == MOESAIC_OK;
            wrong += in && exceeds(rows, words, SAMPLE_DEPTH, UINT32_MAX);
            wrong += out && exceeds(rows, chunks, 2 * SAMPLE_LANES / SAMPLE_OUTPUT_PORTS, UINT32_MAX);
            wrong += !in && rows <= 1023 && columns <= 1023;
            wrong += !out && rows <= 1023 && columns <= 1023;
            taken += (unsigned)(in + out);
        }
    }
    CHECK(wrong == 0);
    CHECK(taken > 2 * 8 * 8);
}

/* Result for an image that says other numbers in its header; sections and ports stay. */
static moesaic_result sized(uint32_t depth, uint32_t width, uint32_t lanes) {
    memcpy(copy, image, SAMPLE_BYTES);
    put32(copy + MOESAIC_HEADER_DEPTH, depth);
    put32(copy + MOESAIC_HEADER_WIDTH, width);
    put32(copy + MOESAIC_HEADER_LANES, lanes);
    sample_seal(copy);
    return moesaic_check_image(copy, SAMPLE_BYTES, NULL);
}

static void sizes_end_where_those_of_accelerators_do(void) {
    CHECK(sized(MOESAIC_MIN_DEPTH, 16, 4) == MOESAIC_OK);
    CHECK(sized(MOESAIC_MIN_DEPTH / 2, 16, 4) == MOESAIC_BAD_IMAGE);
    CHECK(sized(MOESAIC_MAX_DEPTH, 128, 4) == MOESAIC_OK);
    CHECK(sized(2 * MOESAIC_MAX_DEPTH, 256, 4) == MOESAIC_BAD_IMAGE);
    CHECK(sized(16, MOESAIC_MAX_OUTPUTS + 1, 4) == MOESAIC_OK);
    CHECK(sized(16, 2 * (MOESAIC_MAX_OUTPUTS + 1), 4) == MOESAIC_BAD_IMAGE);
    CHECK(sized(16, 16, 16) == MOESAIC_OK && sized(16, 8, 4) == MOESAIC_BAD_IMAGE);
    CHECK(sized(16, 32, 32) == MOESAIC_BAD_IMAGE);
    CHECK(sized(16, 16, MOESAIC_MIN_LANES) == MOESAIC_OK);
    CHECK(sized(16, 16, MOESAIC_MIN_LANES / 2) == MOESAIC_BAD_IMAGE);
}

static void shapes_end_where_instructions_do(void) {
    const uint32_t rows = MOESAIC_MAX_ROWS, outputs = MOESAIC_MAX_OUTPUTS;
    const uint32_t most = MOESAIC_MAX_INPUT_WORDS, chunks = MOESAIC_MAX_OUTPUT_CHUNKS;
    CHECK(shaped(rows, 1, rows, 1) == MOESAIC_OK);
    CHECK(shaped(rows + 1, 1, 1, 1) == MOESAIC_BAD_IMAGE);
    CHECK(shaped(1, 1, rows + 1, 1) == MOESAIC_BAD_IMAGE);
    CHECK(shaped(1, 1, 1, outputs) == MOESAIC_OK);
    CHECK(shaped(1, 1, 1, outputs + 1) == MOESAIC_BAD_IMAGE);
    CHECK(shaped(1, most * SAMPLE_DEPTH, 1, 1) == MOESAIC_OK);
    CHECK(shaped(1, most * SAMPLE_DEPTH + 1, 1, 1) == MOESAIC_BAD_IMAGE);
    CHECK(shaped(1025, 1023 * SAMPLE_DEPTH, 1, 1) == MOESAIC_OK); /* these are `most`, too */
    CHECK(1025 * 1023 == most && shaped(1025, 1023 * SAMPLE_DEPTH + 1, 1, 1) == MOESAIC_BAD_IMAGE);
    CHECK(4095 * 4097 == chunks && shaped(1, 1, 4095, 4097 * SAMPLE_LANES) == MOESAIC_OK);
    CHECK(shaped(1, 1, 4095, 4097 * SAMPLE_LANES + 1) == MOESAIC_BAD_IMAGE);
    CHECK(shaped(0, 1, 1, 1) == MOESAIC_BAD_IMAGE && shaped(1, 0, 1, 1) == MOESAIC_BAD_IMAGE);
    CHECK(shaped(1, 1, 0, 1) == MOESAIC_BAD_IMAGE && shaped(1, 1, 1, 0) == MOESAIC_BAD_IMAGE);
}

/* Result for an image whose task 0 has `count` outputs, of which `listed` have a shape, and other lanes. */
static moesaic_result counted(uint32_t count, uint32_t listed, uint32_t rows, uint32_t columns,
                              uint32_t lanes) {
    uint8_t *task = copy + SAMPLE_FIRST_TASK;
    memcpy(copy, image, SAMPLE_BYTES);
    put32(copy + MOESAIC_HEADER_LANES, lanes);
    put32(task + MOESAIC_TASK_OUTPUT_COUNT, count);
    for (uint32_t output = 0; output < MOESAIC_MAX_HEADS; ++output) {
        put32(task + MOESAIC_TASK_OUTPUT + 8 * output, output < listed ? rows : 0);
        put32(task + MOESAIC_TASK_OUTPUT + 8 * output + 4, output < listed ? columns : 0);
    }
    sample_seal(copy);
    return moesaic_check_image(copy, SAMPLE_BYTES, NULL);
}

static void outputs_are_those_that_are_counted(void) {
    const uint32_t most = MOESAIC_MAX_HEADS;
    const uint32_t lanes = SAMPLE_LANES;
    CHECK(counted(most, most, 3, 9, lanes) == MOESAIC_OK && load_copy() == MOESAIC_OK);
    CHECK(device.task[0].output[0].bytes == most * 3 * 3 * SAMPLE_LANES * 2 / SAMPLE_OUTPUT_PORTS);
    CHECK(moesaic_output_codes(&device.task[0].info) == most * 27);
    CHECK(moesaic_output_codes(NULL) == 0);
    CHECK(counted(0, 0, 3, 9, lanes) == MOESAIC_BAD_IMAGE);
    CHECK(counted(most + 1, most, 3, 9, lanes) == MOESAIC_BAD_IMAGE);
    CHECK(counted(2, 1, 3, 9, lanes) == MOESAIC_BAD_IMAGE);
    CHECK(counted(1, 2, 3, 9, lanes) == MOESAIC_BAD_IMAGE);
    /* Each fits by itself; all of them exceed the 32 bits of a window. */
    CHECK(counted(16, 16, 4095, 65535, 16) == MOESAIC_OK);
    CHECK(counted(17, 17, 4095, 65535, 16) == MOESAIC_BAD_IMAGE);
}

/* Windows of shapes that are no multiples of words and differ between input and output. */
static void windows_hold_whole_words_of_every_row(void) {
    CHECK(shaped(3, 17, 5, 9) == MOESAIC_OK && load_copy() == MOESAIC_OK);
    CHECK(device.task[0].input.bytes == 3 * 32);
    CHECK(device.task[0].output[0].bytes == 5 * 3 * SAMPLE_LANES * 2 / SAMPLE_OUTPUT_PORTS);
    CHECK(device.task[0].output[1].bytes == device.task[0].output[0].bytes);
}

/* Scratch lies behind the codes in the first output window, and in no other. */
static void scratch_is_in_the_first_window(void) {
    const uint32_t part = 5 * 3 * SAMPLE_LANES * 2 / SAMPLE_OUTPUT_PORTS;
    uint8_t *task = copy + SAMPLE_FIRST_TASK;
    static int16_t codes[5 * 9];
    CHECK(shaped(3, 17, 5, 9) == MOESAIC_OK);
    put32(task + MOESAIC_TASK_SCRATCH_BYTES, 4096);
    sample_seal(copy);
    CHECK(load_copy() == MOESAIC_OK);
    CHECK(device.task[0].info.scratch_bytes == 4096);
    CHECK(device.task[0].output[0].bytes == part + 4096 && device.task[0].output[1].bytes == part);
    CHECK(device.task[0].output[1].address >= device.task[0].output[0].address + part + 4096);
    CHECK(moesaic_read_output(&device, 0, codes, 5 * 9) == MOESAIC_OK);
    put32(task + MOESAIC_TASK_SCRATCH_BYTES, 0xFFFFFFFFu - part);
    sample_seal(copy);
    CHECK(moesaic_check_image(copy, SAMPLE_BYTES, NULL) == MOESAIC_OK);
    CHECK(load_copy() == MOESAIC_NO_MEMORY);
    put32(task + MOESAIC_TASK_SCRATCH_BYTES, 0xFFFFFFFFu - part + 1);
    sample_seal(copy);
    CHECK(load_copy() == MOESAIC_BAD_IMAGE);
}

int main(void) {
    sample_image(image);
    RUN(sizes_end_where_those_of_accelerators_do);
    RUN(shapes_end_where_instructions_do);
    RUN(outputs_are_those_that_are_counted);
    RUN(windows_hold_whole_words_of_every_row);
    RUN(scratch_is_in_the_first_window);
    RUN(output_rows_that_wrap_around_are_refused);
    RUN(every_product_is_that_of_the_integers);
    return check_result();
}
