/* Checks a device image and finds its parts. Nothing in it is trusted before it is checked.
 *
 * Sizes are computed in 64 bits whatever a size_t has, and of numbers that are bounded already: no
 * sum and no product wraps around. */
#include <string.h>

#include "internal.h"

/* What check_shapes() allows fits the 32 bits of a window's size, and check_header() the buffer. */
#if MOESAIC_MAX_INPUT_WORDS * MOESAIC_MAX_DEPTH > 0xFFFFFFFF || \
    MOESAIC_MAX_OUTPUT_CHUNKS * 2 * MOESAIC_MAX_DEPTH > 0xFFFFFFFF
#error an input or an output may exceed a window
#endif
#if 2 * MOESAIC_MAX_DEPTH > MOESAIC_BUFFER_BYTES
#error a chunk may exceed the buffer
#endif

static uint32_t u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t u64(const uint8_t *p) { return (uint64_t)u32(p) | (uint64_t)u32(p + 4) << 32; }

static int power_of_two(uint32_t value) { return value != 0 && (value & (value - 1)) == 0; }

static uint32_t section_count(const moesaic_image *image) {
    return image->sizes.weight_ports + 2 * image->task_count;
}

/* Header, sections and tasks; a few kilobytes, once the counts have been checked. */
static size_t table_bytes(const moesaic_image *image) {
    return MOESAIC_HEADER_SIZE + (size_t)section_count(image) * MOESAIC_SECTION_SIZE +
           (size_t)image->task_count * MOESAIC_TASK_SIZE;
}

static const uint8_t *section_record(const moesaic_image *image, uint32_t number) {
    return image->data + MOESAIC_HEADER_SIZE + (size_t)number * MOESAIC_SECTION_SIZE;
}

static const uint8_t *task_record(const moesaic_image *image, uint32_t task) {
    return section_record(image, section_count(image)) + (size_t)task * MOESAIC_TASK_SIZE;
}

static moesaic_section section(const moesaic_image *image, uint32_t number) {
    const uint8_t *record = section_record(image, number);
    moesaic_section result = {u64(record + MOESAIC_SECTION_OFFSET),
                              u64(record + MOESAIC_SECTION_BYTES)};
    return result;
}

moesaic_section moesaic_weight_section(const moesaic_image *image, uint32_t port) {
    return section(image, port);
}

moesaic_section moesaic_program_section(const moesaic_image *image, uint32_t task) {
    return section(image, image->sizes.weight_ports + 2 * task);
}

moesaic_section moesaic_constant_section(const moesaic_image *image, uint32_t task) {
    return section(image, image->sizes.weight_ports + 2 * task + 1);
}

void moesaic_image_task(const moesaic_image *image, uint32_t task, moesaic_task_info *info) {
    const uint8_t *record = task_record(image, task);
    memcpy(info->name, record + MOESAIC_TASK_NAME, MOESAIC_NAME_BYTES);
    info->input_rows = u32(record + MOESAIC_TASK_INPUT_ROWS);
    info->inputs = u32(record + MOESAIC_TASK_INPUTS);
    info->output_count = u32(record + MOESAIC_TASK_OUTPUT_COUNT);
    info->scratch_bytes = u32(record + MOESAIC_TASK_SCRATCH_BYTES);
    for (uint32_t output = 0; output < MOESAIC_MAX_HEADS; ++output) {
        const uint8_t *shape = record + MOESAIC_TASK_OUTPUT + 8 * output;
        info->output[output].rows = u32(shape);
        info->output[output].columns = u32(shape + 4);
    }
}

/* Words of `per_word` values that hold `rows` rows of `values`, which begin on words of their own. */
static uint64_t words(uint32_t rows, uint32_t values, uint32_t per_word) {
    return rows * (((uint64_t)values + per_word - 1) / per_word);
}

uint64_t moesaic_input_bytes(const moesaic_sizes *sizes, const moesaic_task_info *info) {
    return words(info->input_rows, info->inputs, sizes->depth) * sizes->depth;
}

uint64_t moesaic_output_bytes(const moesaic_sizes *sizes, const moesaic_task_info *info,
                              uint32_t port) {
    uint64_t chunks = 0;
    for (uint32_t output = 0; output < info->output_count; ++output)
        chunks += words(info->output[output].rows, info->output[output].columns, sizes->lanes);
    return chunks * (2 * sizes->lanes / sizes->output_ports) + (port ? 0 : info->scratch_bytes);
}

uint64_t moesaic_output_codes(const moesaic_task_info *info) {
    uint64_t codes = 0;
    if (!info || info->output_count > MOESAIC_MAX_HEADS) return 0;
    for (uint32_t output = 0; output < info->output_count; ++output)
        codes += (uint64_t)info->output[output].rows * info->output[output].columns;
    return codes;
}

static moesaic_result check_header(moesaic_image *image, const uint8_t *data, size_t bytes) {
    moesaic_sizes *sizes = &image->sizes;
    if (bytes < MOESAIC_HEADER_SIZE) return MOESAIC_BAD_IMAGE;
    if (u32(data + MOESAIC_HEADER_MAGIC) != MOESAIC_IMAGE_MAGIC) return MOESAIC_BAD_IMAGE;
    if (u32(data + MOESAIC_HEADER_VERSION) != MOESAIC_IMAGE_VERSION) return MOESAIC_BAD_IMAGE;
    if (u64(data + MOESAIC_HEADER_TOTAL_BYTES) != bytes) return MOESAIC_BAD_IMAGE;
    image->data = data;
    image->task_count = u32(data + MOESAIC_HEADER_TASK_COUNT);
    sizes->depth = u32(data + MOESAIC_HEADER_DEPTH);
    sizes->width = u32(data + MOESAIC_HEADER_WIDTH);
    sizes->lanes = u32(data + MOESAIC_HEADER_LANES);
    sizes->weight_ports = u32(data + MOESAIC_HEADER_WEIGHT_PORTS);
    sizes->output_ports = u32(data + MOESAIC_HEADER_OUTPUT_PORTS);
    sizes->arch_hash = u32(data + MOESAIC_HEADER_ARCH_HASH);
    if (image->task_count < 1 || image->task_count > MOESAIC_MAX_TASKS) return MOESAIC_BAD_IMAGE;
    if (!power_of_two(sizes->depth) || sizes->depth < MOESAIC_MIN_DEPTH ||
        sizes->depth > MOESAIC_MAX_DEPTH)
        return MOESAIC_BAD_IMAGE;
    if (!power_of_two(sizes->width) || sizes->width < sizes->depth ||
        sizes->width > MOESAIC_MAX_OUTPUTS + 1)
        return MOESAIC_BAD_IMAGE;
    if (!power_of_two(sizes->lanes) || sizes->lanes < MOESAIC_MIN_LANES ||
        sizes->lanes > sizes->depth)
        return MOESAIC_BAD_IMAGE;
    if (!power_of_two(sizes->weight_ports) || sizes->weight_ports > MOESAIC_MAX_WEIGHT_PORTS)
        return MOESAIC_BAD_IMAGE;
    if (!power_of_two(sizes->output_ports) || sizes->output_ports > MOESAIC_MAX_OUTPUT_PORTS ||
        sizes->output_ports > sizes->weight_ports || sizes->output_ports > sizes->lanes)
        return MOESAIC_BAD_IMAGE;
    return MOESAIC_OK;
}

static moesaic_result check_tables(const moesaic_image *image, size_t bytes) {
    static const uint8_t ZEROS[4] = {0};
    const uint8_t *data = image->data;
    size_t tables = table_bytes(image), behind = MOESAIC_HEADER_TABLE_CRC + 4;
    uint32_t crc;
    if (u32(data + MOESAIC_HEADER_SECTION_COUNT) != section_count(image)) return MOESAIC_BAD_IMAGE;
    if (u32(data + MOESAIC_HEADER_TABLE_BYTES) != tables) return MOESAIC_BAD_IMAGE;
    if (tables > bytes) return MOESAIC_BAD_IMAGE;
    crc = moesaic_crc32(0, data, MOESAIC_HEADER_TABLE_CRC);
    crc = moesaic_crc32(crc, ZEROS, sizeof(ZEROS));
    crc = moesaic_crc32(crc, data + behind, tables - behind);
    if (crc != u32(data + MOESAIC_HEADER_TABLE_CRC)) return MOESAIC_CORRUPT_IMAGE;
    return MOESAIC_OK;
}

static moesaic_result check_sections(const moesaic_image *image, size_t bytes) {
    uint64_t end = table_bytes(image);
    uint32_t ports = image->sizes.weight_ports;
    for (uint32_t number = 0; number < section_count(image); ++number) {
        const uint8_t *record = section_record(image, number);
        moesaic_section part = section(image, number);
        uint32_t of_task = number - ports;
        uint32_t kind = number < ports ? MOESAIC_KIND_WEIGHT
                                       : (of_task % 2 ? MOESAIC_KIND_CONSTANT : MOESAIC_KIND_PROGRAM);
        uint32_t index = number < ports ? number : of_task / 2;
        if (u32(record + MOESAIC_SECTION_KIND) != kind) return MOESAIC_BAD_IMAGE;
        if (u32(record + MOESAIC_SECTION_INDEX) != index) return MOESAIC_BAD_IMAGE;
        if (part.offset % MOESAIC_WINDOW_ALIGNMENT || part.offset < end) return MOESAIC_BAD_IMAGE;
        if (part.bytes == 0 || part.bytes > UINT32_MAX) return MOESAIC_BAD_IMAGE;
        if (part.offset > bytes || part.bytes > bytes - part.offset) return MOESAIC_BAD_IMAGE;
        if (kind == MOESAIC_KIND_WEIGHT && part.bytes != section(image, 0).bytes)
            return MOESAIC_BAD_IMAGE;
        if (kind == MOESAIC_KIND_PROGRAM && part.bytes % MOESAIC_INSTRUCTION_BYTES)
            return MOESAIC_BAD_IMAGE;
        end = part.offset + part.bytes;
    }
    return end == bytes ? MOESAIC_OK : MOESAIC_BAD_IMAGE;
}

/* Whether the accelerator can be given such an input, and can give such outputs. */
static moesaic_result check_shapes(const moesaic_sizes *sizes, const moesaic_task_info *info) {
    if (info->input_rows == 0 || info->input_rows > MOESAIC_MAX_ROWS || info->inputs == 0)
        return MOESAIC_BAD_IMAGE;
    if (words(info->input_rows, info->inputs, sizes->depth) > MOESAIC_MAX_INPUT_WORDS)
        return MOESAIC_BAD_IMAGE;
    if (info->output_count == 0 || info->output_count > MOESAIC_MAX_HEADS) return MOESAIC_BAD_IMAGE;
    for (uint32_t output = 0; output < MOESAIC_MAX_HEADS; ++output) {
        const moesaic_shape *shape = &info->output[output];
        if (output >= info->output_count) {
            if (shape->rows || shape->columns) return MOESAIC_BAD_IMAGE;
            continue;
        }
        if (shape->rows == 0 || shape->rows > MOESAIC_MAX_ROWS || shape->columns == 0 ||
            shape->columns > MOESAIC_MAX_OUTPUTS ||
            words(shape->rows, shape->columns, sizes->lanes) > MOESAIC_MAX_OUTPUT_CHUNKS)
            return MOESAIC_BAD_IMAGE;
    }
    return moesaic_output_bytes(sizes, info, 0) > UINT32_MAX ? MOESAIC_BAD_IMAGE : MOESAIC_OK;
}

static moesaic_result check_tasks(const moesaic_image *image) {
    for (uint32_t task = 0; task < image->task_count; ++task) {
        moesaic_task_info info, other;
        moesaic_image_task(image, task, &info);
        if (info.name[0] == 0 || !memchr(info.name, 0, sizeof(info.name))) return MOESAIC_BAD_IMAGE;
        TRY(check_shapes(&image->sizes, &info));
        for (uint32_t before = 0; before < task; ++before) {
            moesaic_image_task(image, before, &other);
            if (memcmp(info.name, other.name, sizeof(info.name)) == 0) return MOESAIC_BAD_IMAGE;
        }
    }
    return MOESAIC_OK;
}

static moesaic_result check_contents(const moesaic_image *image, size_t bytes) {
    size_t tables = table_bytes(image);
    uint8_t digest[32];
    moesaic_sha256 sha;
    for (uint32_t number = 0; number < section_count(image); ++number) {
        moesaic_section part = section(image, number);
        uint32_t crc = moesaic_crc32(0, image->data + part.offset, (size_t)part.bytes);
        if (crc != u32(section_record(image, number) + MOESAIC_SECTION_CRC))
            return MOESAIC_CORRUPT_IMAGE;
    }
    moesaic_sha256_begin(&sha);
    moesaic_sha256_add(&sha, image->data + tables, bytes - tables);
    moesaic_sha256_end(&sha, digest);
    if (memcmp(digest, image->data + MOESAIC_HEADER_SHA256, sizeof(digest)) != 0)
        return MOESAIC_CORRUPT_IMAGE;
    return MOESAIC_OK;
}

moesaic_result moesaic_parse_image(moesaic_image *image, const void *data, size_t bytes) {
    TRY(check_header(image, data, bytes));
    TRY(check_tables(image, bytes));
    TRY(check_sections(image, bytes));
    TRY(check_tasks(image));
    return check_contents(image, bytes);
}

moesaic_result moesaic_check_image(const void *data, size_t bytes, uint32_t *task_count) {
    moesaic_image image;
    if (!data) return MOESAIC_BAD_ARGUMENT;
    TRY(moesaic_parse_image(&image, data, bytes));
    if (task_count) *task_count = image.task_count;
    return MOESAIC_OK;
}
