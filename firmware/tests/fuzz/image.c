/* Fuzz target: device images, with checksums that are right.
 *
 * Input: which checksums to leave wrong (1 byte), number of zeros behind (3 bytes), and the image
 * before them: its tables, mostly, so that inputs are short. An image that is taken must be what it
 * says, by a reading of its own here, and can be used: its windows lie apart in memory, and codes of
 * the sizes that it names go in and come out in the right order, within blocks of these sizes. */
#include <string.h>

#include "../sample_image.h"
#include "accelerator.h"

enum { INPUT_HEAD = 4, MOST_ZEROS = 0x3FFFF, MOST_SECTIONS = 64 };
enum { KEEP_TABLE_CRC = 1, KEEP_SECTION_CRC = 2, KEEP_SHA = 4, KEEP_TOTAL = 8 };

static accelerator bus;
static moesaic_platform platform;

/* Put right checksums over whatever is there, as far as it can be found. */
static void seal(uint8_t *image, size_t bytes, uint32_t keep) {
    uint8_t *record = image + MOESAIC_HEADER_SIZE;
    uint32_t tables, sections;
    moesaic_sha256 sha;
    if (bytes < MOESAIC_HEADER_SIZE) return;
    if (!(keep & KEEP_TOTAL)) put32(image + MOESAIC_HEADER_TOTAL_BYTES, (uint32_t)bytes);
    tables = fuzz_get(image + MOESAIC_HEADER_TABLE_BYTES);
    sections = fuzz_get(image + MOESAIC_HEADER_SECTION_COUNT);
    if (tables < MOESAIC_HEADER_SIZE || tables > bytes) return;
    for (uint32_t n = 0; n < sections && n < MOST_SECTIONS && !(keep & KEEP_SECTION_CRC); ++n) {
        uint32_t offset, count;
        if ((size_t)(record + MOESAIC_SECTION_SIZE - image) > tables) break;
        offset = fuzz_get(record + MOESAIC_SECTION_OFFSET);
        count = fuzz_get(record + MOESAIC_SECTION_BYTES);
        if (offset <= bytes && count <= bytes - offset)
            put32(record + MOESAIC_SECTION_CRC, moesaic_crc32(0, image + offset, count));
        record += MOESAIC_SECTION_SIZE;
    }
    if (!(keep & KEEP_SHA)) {
        moesaic_sha256_begin(&sha);
        moesaic_sha256_add(&sha, image + tables, bytes - tables);
        moesaic_sha256_end(&sha, image + MOESAIC_HEADER_SHA256);
    }
    if (!(keep & KEEP_TABLE_CRC)) {
        put32(image + MOESAIC_HEADER_TABLE_CRC, 0);
        put32(image + MOESAIC_HEADER_TABLE_CRC, moesaic_crc32(0, image, tables));
    }
}

/* Bytes of device memory that the image needs, each window from an aligned place on. Doubles hold
 * these integers exactly, as far as they can matter, and do not wrap around. */
static double needed(const moesaic_image *image) {
    const moesaic_sizes *sizes = &image->sizes;
    const double align = MOESAIC_WINDOW_ALIGNMENT;
    double end = 0;
#define AFTER(bytes) end = (double)(uint64_t)((end + align - 1) / align) * align + (bytes)
    for (uint32_t port = 0; port < sizes->weight_ports; ++port)
        AFTER((double)moesaic_weight_section(image, port).bytes);
    for (uint32_t number = 0; number < image->task_count; ++number) {
        moesaic_task_info info;
        moesaic_image_task(image, number, &info);
        AFTER((double)moesaic_program_section(image, number).bytes);
        AFTER((double)moesaic_constant_section(image, number).bytes);
        AFTER((double)info.input_rows * ((info.inputs - 1) / sizes->depth + 1) * sizes->depth);
        double chunks = 0;
        for (uint32_t n = 0; n < info.output_count; ++n)
            chunks += (double)info.output[n].rows * ((info.output[n].columns - 1) / sizes->lanes + 1);
        for (uint32_t port = 0; port < sizes->output_ports; ++port)
            AFTER(chunks * 2 * sizes->lanes / sizes->output_ports + (port ? 0 : info.scratch_bytes));
    }
#undef AFTER
    return end;
}

/* What holds of every image that is taken. */
static void check_tables(const moesaic_image *image, const uint8_t *data, size_t bytes) {
    uint32_t ports = fuzz_get(data + MOESAIC_HEADER_WEIGHT_PORTS);
    uint32_t tasks = fuzz_get(data + MOESAIC_HEADER_TASK_COUNT), sections = ports + 2 * tasks;
    uint64_t end = MOESAIC_HEADER_SIZE + (uint64_t)sections * MOESAIC_SECTION_SIZE +
                   (uint64_t)tasks * MOESAIC_TASK_SIZE;
    REQUIRE(image->data == data && image->task_count == tasks && image->sizes.weight_ports == ports);
    REQUIRE(ports >= 1 && ports <= MOESAIC_MAX_WEIGHT_PORTS && tasks >= 1 && tasks <= MOESAIC_MAX_TASKS);
    REQUIRE(end <= bytes && fuzz_get(data + MOESAIC_HEADER_SECTION_COUNT) == sections);
    for (uint32_t n = 0; n < sections; ++n) {
        moesaic_section part = n < ports            ? moesaic_weight_section(image, n)
                               : (n - ports) % 2 == 0 ? moesaic_program_section(image, (n - ports) / 2)
                                                      : moesaic_constant_section(image, (n - ports) / 2);
        REQUIRE(part.offset >= end && part.offset % MOESAIC_WINDOW_ALIGNMENT == 0 && part.bytes > 0);
        REQUIRE(part.offset <= bytes && part.bytes <= bytes - part.offset);
        end = part.offset + part.bytes;
    }
    REQUIRE(end == bytes);
    for (uint32_t number = 0; number < tasks; ++number) {
        moesaic_task_info info;
        moesaic_image_task(image, number, &info);
        REQUIRE(memchr(info.name, 0, sizeof(info.name)) && info.name[0]);
        REQUIRE((double)info.input_rows * info.inputs < 4294967296.0);
        REQUIRE(info.output_count >= 1 && info.output_count <= MOESAIC_MAX_HEADS);
        REQUIRE(moesaic_output_codes(&info) > 0 && moesaic_output_codes(&info) < 2147483648.0);
    }
}

static void check_windows_lie_apart(const moesaic_device *device) {
    uint64_t end = MEMORY_BASE;
#define NEXT(window)                                                        \
    do {                                                                    \
        REQUIRE((window).address >= end && (window).bytes > 0);             \
        REQUIRE((window).address % MOESAIC_WINDOW_ALIGNMENT == 0);          \
        end = (window).address + (window).bytes;                            \
    } while (0)
    for (uint32_t port = 0; port < device->sizes.weight_ports; ++port) NEXT(device->weight[port]);
    for (uint32_t number = 0; number < device->task_count; ++number) {
        NEXT(device->task[number].program);
        NEXT(device->task[number].constant);
        NEXT(device->task[number].input);
        for (uint32_t port = 0; port < device->sizes.output_ports; ++port)
            NEXT(device->task[number].output[port]);
    }
#undef NEXT
    REQUIRE(end <= MEMORY_BASE + MEMORY_BYTES);
}

/* Codes of a task through the driver. Counts are what a caller on this processor computes. */
static void check_codes(moesaic_device *device, uint32_t number) {
    const moesaic_task *task = &device->task[number];
    const moesaic_task_info *info = &task->info;
    const uint8_t *window = bus.memory + (task->input.address - MEMORY_BASE);
    size_t padded = task->input.bytes / info->input_rows, wrong = 0;
    size_t inputs = (size_t)info->input_rows * info->inputs;
    size_t outputs = (size_t)moesaic_output_codes(info);
    const int16_t *next;
    int8_t *input = fuzz_block(inputs);
    int16_t *output = fuzz_block(outputs * sizeof(*output));
    bus.task = number;
    bus.call = CALL_INPUT;
    for (size_t i = 0; i < inputs; ++i) input[i] = (int8_t)(i * 7 + number + 1);
    REQUIRE(moesaic_write_input(device, number, input, inputs) == MOESAIC_OK);
    REQUIRE(moesaic_write_input(device, number, input, inputs - 1) == MOESAIC_BAD_ARGUMENT);
    for (size_t i = 0; i < task->input.bytes; ++i) {
        size_t row = i / padded, column = i % padded;
        wrong += window[i] !=
                 (uint8_t)(column < info->inputs ? input[row * info->inputs + column] : 0);
    }
    bus.call = CALL_OUTPUT;
    accelerator_drain(&bus, task, number + 1);
    REQUIRE(moesaic_read_output(device, number, output, outputs) == MOESAIC_OK);
    REQUIRE(moesaic_read_output(device, number, output, outputs + 1) == MOESAIC_BAD_ARGUMENT);
    next = output;
    for (uint32_t n = 0; n < info->output_count; ++n)
        for (uint32_t row = 0; row < info->output[n].rows; ++row)
            for (uint32_t column = 0; column < info->output[n].columns; ++column)
                wrong += *next++ != accelerator_code(number + 1, n, row, column);
    REQUIRE(wrong == 0);
    free(input);
    free(output);
}

static void use(const moesaic_image *image, size_t bytes) {
    moesaic_device *device = fuzz_block(sizeof(*device));
    moesaic_config config = {MEMORY_BASE, MEMORY_BYTES, 1000, 100};
    moesaic_result result;
    accelerator_begin(&bus, image->sizes.arch_hash, NULL, 0, &platform);
    bus.device = device;
    REQUIRE(moesaic_open(device, &platform, config) == MOESAIC_OK);
    bus.call = CALL_LOAD;
    result = moesaic_load(device, image->data, bytes);
    REQUIRE(result == (needed(image) <= MEMORY_BYTES ? MOESAIC_OK : MOESAIC_NO_MEMORY));
    if (result == MOESAIC_OK) {
        check_windows_lie_apart(device);
        check_codes(device, 0);
        if (image->task_count > 1) check_codes(device, image->task_count - 1);
    }
    free(device);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    fuzz_input head = {data, bytes};
    uint32_t keep = fuzz_take(&head, 1), zeros = fuzz_take(&head, 3) & MOST_ZEROS, tasks = 0;
    size_t total = head.left + zeros;
    uint8_t *copy = fuzz_block(total);
    moesaic_image image;
    moesaic_result result;
    if (head.left) memcpy(copy, head.next, head.left);
    memset(copy + head.left, 0, zeros);
    seal(copy, total, keep);
    result = moesaic_parse_image(&image, copy, total);
    REQUIRE(result == MOESAIC_OK || result == MOESAIC_BAD_IMAGE || result == MOESAIC_CORRUPT_IMAGE);
    REQUIRE(moesaic_check_image(copy, total, &tasks) == result);
    if (result == MOESAIC_OK) {
        REQUIRE(tasks == image.task_count);
        check_tables(&image, copy, total);
        use(&image, total);
    }
    free(copy);
    return 0;
}

/* Half of the mutations are of one number of the tables, to a value near one where something ends,
 * or take nearly all of the zeros away. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t most, unsigned seed) {
    uint32_t state = seed | 1u, value, place;
    (void)fuzz_random(&state);
    if (bytes < INPUT_HEAD + MOESAIC_HEADER_SIZE + 4 || fuzz_random(&state) % 2)
        return LLVMFuzzerMutate(data, bytes, most);
    if (fuzz_random(&state) % 16 == 0) {
        data[1] = (uint8_t)fuzz_random(&state);
        data[2] = data[3] = 0;
        return fuzz_random(&state) % 2 ? bytes : bytes - fuzz_random(&state) % (uint32_t)(bytes - 4);
    }
    place = INPUT_HEAD + fuzz_random(&state) % (uint32_t)((bytes - INPUT_HEAD) / 4) * 4;
    value = fuzz_get(data + place);
    switch (fuzz_random(&state) % 6) {
        case 0: value += fuzz_random(&state) % 5 - 2; break;
        case 1: value = 1u << fuzz_random(&state) % 32; break;
        case 2: value = (1u << fuzz_random(&state) % 32) + fuzz_random(&state) % 5 - 2; break;
        case 3: value = value * 2; break;
        case 4: value = value + MOESAIC_WINDOW_ALIGNMENT * (fuzz_random(&state) % 5 - 2); break;
        case 5: value = fuzz_random(&state) % 64; break;
    }
    put32(data + place, value);
    return bytes;
}
