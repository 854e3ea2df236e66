/* Images with as many ports, tasks and bytes as there can be, and with one more. */
#include "check.h"
#include "sample_image.h"

enum {
    PORTS = 2 * MOESAIC_MAX_WEIGHT_PORTS,
    TASKS = MOESAIC_MAX_TASKS + 1,
    SECTIONS = PORTS + 2 * TASKS,
    PART = 32,
    BYTES = (SECTIONS + 2) * SAMPLE_ALIGN + PART
};

static uint8_t image[BYTES];

static uint8_t *section_record(uint32_t number) {
    return image + MOESAIC_HEADER_SIZE + number * MOESAIC_SECTION_SIZE;
}

/* Right checksums, over whatever the records say. */
static void seal(uint32_t sections, size_t tables, size_t bytes) {
    moesaic_sha256 sha;
    for (uint32_t n = 0; n < sections; ++n) {
        const uint8_t *r = section_record(n);
        uint32_t offset = (uint32_t)r[MOESAIC_SECTION_OFFSET + 1] << 8 |
                          (uint32_t)r[MOESAIC_SECTION_OFFSET + 2] << 16;
        uint32_t count = r[MOESAIC_SECTION_BYTES] | (uint32_t)r[MOESAIC_SECTION_BYTES + 1] << 8;
        put32(section_record(n) + MOESAIC_SECTION_CRC, moesaic_crc32(0, image + offset, count));
    }
    moesaic_sha256_begin(&sha);
    moesaic_sha256_add(&sha, image + tables, bytes - tables);
    moesaic_sha256_end(&sha, image + MOESAIC_HEADER_SHA256);
    put32(image + MOESAIC_HEADER_TABLE_CRC, 0);
    put32(image + MOESAIC_HEADER_TABLE_CRC, moesaic_crc32(0, image, tables));
}

/* Make an image; the first section has `first` bytes, the others PART. Its length. */
static size_t make(uint32_t ports, uint32_t output_ports, uint32_t lanes, uint32_t tasks,
                   uint32_t first, size_t *tables) {
    const uint32_t sections = ports + 2 * tasks;
    const uint32_t header[][2] = {
        {MOESAIC_HEADER_MAGIC, MOESAIC_IMAGE_MAGIC}, {MOESAIC_HEADER_VERSION, MOESAIC_IMAGE_VERSION},
        {MOESAIC_HEADER_SECTION_COUNT, sections},    {MOESAIC_HEADER_TASK_COUNT, tasks},
        {MOESAIC_HEADER_DEPTH, 16},                  {MOESAIC_HEADER_WIDTH, 16},
        {MOESAIC_HEADER_LANES, lanes},               {MOESAIC_HEADER_WEIGHT_PORTS, ports},
        {MOESAIC_HEADER_OUTPUT_PORTS, output_ports},
    };
    const uint32_t all =
        MOESAIC_HEADER_SIZE + sections * MOESAIC_SECTION_SIZE + tasks * MOESAIC_TASK_SIZE;
    uint32_t next = (all + SAMPLE_ALIGN - 1) / SAMPLE_ALIGN * SAMPLE_ALIGN, end = 0;
    uint8_t *record = image + MOESAIC_HEADER_SIZE;
    memset(image, 0, BYTES);
    for (size_t i = 0; i < sizeof(header) / sizeof(header[0]); ++i)
        put32(image + header[i][0], header[i][1]);
    for (uint32_t n = 0; n < sections; ++n, record += MOESAIC_SECTION_SIZE) {
        uint32_t of_task = n - ports, count = n == 0 ? first : PART;
        put32(record + MOESAIC_SECTION_KIND,
              n < ports ? MOESAIC_KIND_WEIGHT
                        : (of_task % 2 ? MOESAIC_KIND_CONSTANT : MOESAIC_KIND_PROGRAM));
        put32(record + MOESAIC_SECTION_INDEX, n < ports ? n : of_task / 2);
        put32(record + MOESAIC_SECTION_OFFSET, next);
        put32(record + MOESAIC_SECTION_BYTES, count);
        end = next + count;
        next = (end + SAMPLE_ALIGN - 1) / SAMPLE_ALIGN * SAMPLE_ALIGN;
    }
    for (uint32_t t = 0; t < tasks; ++t, record += MOESAIC_TASK_SIZE) {
        record[MOESAIC_TASK_NAME] = (uint8_t)('a' + t);
        put32(record + MOESAIC_TASK_INPUT_ROWS, 1);
        put32(record + MOESAIC_TASK_INPUTS, 1);
        put32(record + MOESAIC_TASK_OUTPUT_COUNT, 1);
        put32(record + MOESAIC_TASK_OUTPUT, 1);
        put32(record + MOESAIC_TASK_OUTPUT + 4, 1);
    }
    *tables = (size_t)(record - image);
    put32(image + MOESAIC_HEADER_TABLE_BYTES, (uint32_t)*tables);
    put32(image + MOESAIC_HEADER_TOTAL_BYTES, end);
    seal(sections, *tables, end);
    return end;
}

static moesaic_result made(uint32_t ports, uint32_t output_ports, uint32_t lanes, uint32_t tasks) {
    size_t tables, bytes = make(ports, output_ports, lanes, tasks, PART, &tables);
    return moesaic_check_image(image, bytes, NULL);
}

static void counts_end_at_the_most(void) {
    CHECK(made(1, 1, 4, 1) == MOESAIC_OK);
    CHECK(made(MOESAIC_MAX_WEIGHT_PORTS, 1, 4, 1) == MOESAIC_OK);
    CHECK(made(2 * MOESAIC_MAX_WEIGHT_PORTS, 1, 4, 1) == MOESAIC_BAD_IMAGE);
    CHECK(made(MOESAIC_MAX_WEIGHT_PORTS, MOESAIC_MAX_OUTPUT_PORTS, 8, 1) == MOESAIC_OK);
    CHECK(made(MOESAIC_MAX_WEIGHT_PORTS, 8, 4, 1) == MOESAIC_BAD_IMAGE); /* half a code each */
    CHECK(made(1, 1, 4, MOESAIC_MAX_TASKS) == MOESAIC_OK);
    CHECK(made(1, 1, 4, MOESAIC_MAX_TASKS + 1) == MOESAIC_BAD_IMAGE);
}

static void names_differ_however_far_apart_they_are(void) {
    size_t tables, bytes = make(1, 1, 4, 3, PART, &tables);
    image[tables - MOESAIC_TASK_SIZE + MOESAIC_TASK_NAME] = 'a'; /* as the first one, not the second */
    seal(7, tables, bytes);
    CHECK(moesaic_check_image(image, bytes, NULL) == MOESAIC_BAD_IMAGE);
}

static void sections_may_touch(void) {
    size_t tables, bytes = make(1, 1, 4, 1, SAMPLE_ALIGN, &tables);
    CHECK(bytes == 3 * SAMPLE_ALIGN + PART);
    CHECK(moesaic_check_image(image, bytes, NULL) == MOESAIC_OK);
}

static void no_section_is_empty(void) {
    for (uint32_t n = 0; n < 3; ++n) {
        size_t tables, bytes = make(1, 1, 4, 1, PART, &tables);
        put32(section_record(n) + MOESAIC_SECTION_BYTES, 0);
        if (n == 2) { /* so that the image ends where its last section does */
            bytes -= PART;
            put32(image + MOESAIC_HEADER_TOTAL_BYTES, (uint32_t)bytes);
        }
        seal(3, tables, bytes);
        CHECK(moesaic_check_image(image, bytes, NULL) == MOESAIC_BAD_IMAGE);
    }
}

/* Tables that end where the image does are read, and found wrong; longer ones are not read. */
static void tables_are_not_read_beyond_the_image(void) {
    size_t tables;
    (void)make(1, 1, 4, 1, PART, &tables);
    image[MOESAIC_HEADER_TABLE_CRC] ^= 1;
    put32(image + MOESAIC_HEADER_TOTAL_BYTES, (uint32_t)tables);
    CHECK(moesaic_check_image(image, tables, NULL) == MOESAIC_CORRUPT_IMAGE);
    put32(image + MOESAIC_HEADER_TOTAL_BYTES, (uint32_t)tables - 1);
    CHECK(moesaic_check_image(image, tables - 1, NULL) == MOESAIC_BAD_IMAGE);
}

int main(void) {
    RUN(counts_end_at_the_most);
    RUN(names_differ_however_far_apart_they_are);
    RUN(sections_may_touch);
    RUN(no_section_is_empty);
    RUN(tables_are_not_read_beyond_the_image);
    return check_result();
}
