/* Device images: good ones are taken, and every kind of bad one is refused for its reason. */
#include "check.h"
#include "sample_image.h"

static uint8_t image[SAMPLE_BYTES], copy[SAMPLE_BYTES];

static void checksums_are_the_standard_ones(void) {
    const uint8_t *text = (const uint8_t *)"123456789";
    uint8_t digest[32];
    moesaic_sha256 sha;
    CHECK(moesaic_crc32(0, text, 9) == 0xCBF43926u);
    CHECK(moesaic_crc32(moesaic_crc32(0, text, 4), text + 4, 5) == 0xCBF43926u);
    moesaic_sha256_begin(&sha);
    moesaic_sha256_add(&sha, (const uint8_t *)"abc", 3);
    moesaic_sha256_end(&sha, digest);
    CHECK(digest[0] == 0xba && digest[1] == 0x78 && digest[2] == 0x16 && digest[31] == 0xad);
    moesaic_sha256_begin(&sha); /* 56 bytes: the length needs a block of its own */
    moesaic_sha256_add(
        &sha, (const uint8_t *)"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56);
    moesaic_sha256_end(&sha, digest);
    CHECK(digest[0] == 0x24 && digest[1] == 0x8d && digest[2] == 0x6a && digest[31] == 0xc1);
}

static void good_image_is_taken(void) {
    uint32_t tasks = 0;
    CHECK(moesaic_check_image(image, SAMPLE_BYTES, &tasks) == MOESAIC_OK);
    CHECK(tasks == SAMPLE_TASKS);
    CHECK(moesaic_check_image(image, SAMPLE_BYTES, NULL) == MOESAIC_OK);
    CHECK(moesaic_check_image(NULL, SAMPLE_BYTES, NULL) == MOESAIC_BAD_ARGUMENT);
}

static void truncated_image_is_refused_at_every_length(void) {
    for (size_t bytes = 0; bytes < SAMPLE_BYTES; ++bytes)
        if (moesaic_check_image(image, bytes, NULL) != MOESAIC_BAD_IMAGE) CHECK(bytes == SIZE_MAX);
    CHECK(moesaic_check_image(image, 0, NULL) == MOESAIC_BAD_IMAGE);
}

static void any_flipped_bit_is_refused(void) {
    unsigned accepted = 0;
    for (size_t byte = 0; byte < SAMPLE_BYTES; byte += byte < SAMPLE_TABLES ? 1 : 509) {
        for (unsigned bit = 0; bit < 8; ++bit) {
            image[byte] ^= (uint8_t)(1u << bit);
            accepted += moesaic_check_image(image, SAMPLE_BYTES, NULL) == MOESAIC_OK;
            image[byte] ^= (uint8_t)(1u << bit);
        }
    }
    CHECK(accepted == 0);
    image[SAMPLE_ALIGN] ^= 1;
    CHECK(moesaic_check_image(image, SAMPLE_BYTES, NULL) == MOESAIC_CORRUPT_IMAGE);
    image[SAMPLE_ALIGN] ^= 1;
}

/* An image that says `value` at `offset` and whose checksums are right. */
static moesaic_result with(size_t offset, uint32_t value) {
    memcpy(copy, image, SAMPLE_BYTES);
    put32(copy + offset, value);
    sample_seal(copy);
    return moesaic_check_image(copy, SAMPLE_BYTES, NULL);
}

static void lying_tables_are_refused_though_their_checksums_match(void) {
    const size_t section = MOESAIC_HEADER_SIZE + MOESAIC_SECTION_SIZE;
    const size_t program = MOESAIC_HEADER_SIZE + SAMPLE_PORTS * MOESAIC_SECTION_SIZE;
    const size_t task = MOESAIC_HEADER_SIZE + SAMPLE_SECTIONS * MOESAIC_SECTION_SIZE;
    const size_t last = MOESAIC_HEADER_SIZE + (SAMPLE_SECTIONS - 1) * MOESAIC_SECTION_SIZE;
    const size_t cases[][2] = {
        {MOESAIC_HEADER_VERSION, MOESAIC_IMAGE_VERSION + 1},
        {MOESAIC_HEADER_TASK_COUNT, 0},
        {MOESAIC_HEADER_TASK_COUNT, 17},
        {MOESAIC_HEADER_SECTION_COUNT, SAMPLE_SECTIONS - 1},
        {MOESAIC_HEADER_DEPTH, 0},
        {MOESAIC_HEADER_DEPTH, 24},
        {MOESAIC_HEADER_LANES, 0},
        {MOESAIC_HEADER_LANES, 4096},
        {MOESAIC_HEADER_WIDTH, 3},
        {MOESAIC_HEADER_WEIGHT_PORTS, 0},
        {MOESAIC_HEADER_WEIGHT_PORTS, 16},
        {MOESAIC_HEADER_OUTPUT_PORTS, 3},
        {MOESAIC_HEADER_OUTPUT_PORTS, 16},
        {section + MOESAIC_SECTION_KIND, MOESAIC_KIND_PROGRAM},
        {section + MOESAIC_SECTION_INDEX, 0},
        {section + MOESAIC_SECTION_OFFSET, 2 * SAMPLE_ALIGN + 4},
        {section + MOESAIC_SECTION_OFFSET, SAMPLE_ALIGN}, /* on top of the one before */
        {section + MOESAIC_SECTION_OFFSET + 4, 1},        /* far behind the end */
        {section + MOESAIC_SECTION_BYTES, 0},
        {section + MOESAIC_SECTION_BYTES, 95},
        {section + MOESAIC_SECTION_BYTES + 4, 1},
        {program + MOESAIC_SECTION_BYTES, 95},
        {task + MOESAIC_TASK_NAME, 0},
        {task + MOESAIC_TASK_INPUTS, 0},
        {task + MOESAIC_TASK_INPUTS, UINT32_MAX},
        {task + MOESAIC_TASK_OUTPUT, UINT32_MAX},
        {MOESAIC_HEADER_MAGIC, MOESAIC_IMAGE_MAGIC + 1},
        {MOESAIC_HEADER_TOTAL_BYTES + 4, 1},
        {MOESAIC_HEADER_TABLE_BYTES, SAMPLE_TABLES + 4},
        {MOESAIC_HEADER_OUTPUT_PORTS, 2 * SAMPLE_PORTS}, /* more than ports to read from */
        {last + MOESAIC_SECTION_KIND, MOESAIC_KIND_PROGRAM},
        {last + MOESAIC_SECTION_BYTES, 64}, /* bytes of no section behind it */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        moesaic_result result = with(cases[i][0], (uint32_t)cases[i][1]);
        if (result != MOESAIC_BAD_IMAGE) printf("case %u: %d\n", (unsigned)i, (int)result);
        CHECK(result == MOESAIC_BAD_IMAGE);
    }
    CHECK(with(MOESAIC_HEADER_DEPTH, SAMPLE_DEPTH) == MOESAIC_OK); /* the control */
}

/* Put right checksums over tables that have been changed, and over nothing else. */
static void seal_tables(void) {
    put32(copy + MOESAIC_HEADER_TABLE_CRC, 0);
    put32(copy + MOESAIC_HEADER_TABLE_CRC, moesaic_crc32(0, copy, SAMPLE_TABLES));
}

static void every_checksum_counts(void) {
    for (size_t n = 0; n < SAMPLE_SECTIONS; ++n) {
        memcpy(copy, image, SAMPLE_BYTES);
        copy[MOESAIC_HEADER_SIZE + n * MOESAIC_SECTION_SIZE + MOESAIC_SECTION_CRC] ^= 1;
        seal_tables();
        CHECK(moesaic_check_image(copy, SAMPLE_BYTES, NULL) == MOESAIC_CORRUPT_IMAGE);
    }
    memcpy(copy, image, SAMPLE_BYTES);
    copy[MOESAIC_HEADER_SHA256 + 31] ^= 1;
    seal_tables();
    CHECK(moesaic_check_image(copy, SAMPLE_BYTES, NULL) == MOESAIC_CORRUPT_IMAGE);
}

static void section_that_wraps_around_is_refused(void) {
    uint8_t *section = copy + MOESAIC_HEADER_SIZE + 3 * MOESAIC_SECTION_SIZE;
    memcpy(copy, image, SAMPLE_BYTES);
    put32(section + MOESAIC_SECTION_OFFSET, UINT32_MAX - (SAMPLE_ALIGN - 1));
    put32(section + MOESAIC_SECTION_OFFSET + 4, UINT32_MAX);
    put32(section + MOESAIC_SECTION_BYTES, SAMPLE_ALIGN); /* ends at address 0 */
    seal_tables();
    CHECK(moesaic_check_image(copy, SAMPLE_BYTES, NULL) == MOESAIC_BAD_IMAGE);
}

static void names_must_end_and_differ(void) {
    const size_t task = MOESAIC_HEADER_SIZE + SAMPLE_SECTIONS * MOESAIC_SECTION_SIZE;
    memcpy(copy, image, SAMPLE_BYTES);
    memset(copy + task, 'x', MOESAIC_NAME_BYTES);
    sample_seal(copy);
    CHECK(moesaic_check_image(copy, SAMPLE_BYTES, NULL) == MOESAIC_BAD_IMAGE);
    memcpy(copy, image, SAMPLE_BYTES);
    memcpy(copy + task + MOESAIC_TASK_SIZE, copy + task, MOESAIC_NAME_BYTES);
    sample_seal(copy);
    CHECK(moesaic_check_image(copy, SAMPLE_BYTES, NULL) == MOESAIC_BAD_IMAGE);
}

int main(void) {
    sample_image(image);
    RUN(checksums_are_the_standard_ones);
    RUN(good_image_is_taken);
    RUN(truncated_image_is_refused_at_every_length);
    RUN(any_flipped_bit_is_refused);
    RUN(lying_tables_are_refused_though_their_checksums_match);
    RUN(every_checksum_counts);
    RUN(section_that_wraps_around_is_refused);
    RUN(names_must_end_and_differ);
    return check_result();
}
