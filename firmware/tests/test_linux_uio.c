/* Taking, mapping and leaving a UIO device: on plain files, so that every failure can be had. */
#define _GNU_SOURCE
#include "check.h"
#include "fake_uio.h"

#include <errno.h>
#include <sys/wait.h>

#include "../platforms/bus.h"

static fake_uio fake;
static moesaic_uio uio;
static moesaic_platform platform;
static int descriptors;

static void begin(void) {
    fake_make(&fake);
    descriptors = count_descriptors();
}

static void end(void) {
    moesaic_uio_close(&uio);
    CHECK(count_descriptors() == descriptors);
    fake_drop(&fake);
}

static moesaic_result open_uio(void) {
    return moesaic_uio_open(&uio, &fake.config, &platform);
}

static void registers_are_those_of_the_file(void) {
    uint32_t value = 0, words[3] = {0, 0, 0};
    begin();
    CHECK(open_uio() == MOESAIC_OK);
    CHECK(uio.memory_base == FAKE_BASE && uio.memory_bytes == FAKE_MEMORY);
    CHECK(platform.write_register(platform.context, 8, 0xDEADBEEF) == 0);
    CHECK(platform.read_register(platform.context, 8, &value) == 0 && value == 0xDEADBEEF);
    CHECK(pread(uio.device, words, sizeof(words), 0) == sizeof(words));
    CHECK(words[0] == 0 && words[1] == 0 && words[2] == 0xDEADBEEF);
    CHECK(platform.read_register(platform.context, 2, &value) != 0);
    CHECK(platform.write_register(platform.context, BUS_REGISTER_BYTES - 4, 1) == 0);
    CHECK(platform.write_register(platform.context, BUS_REGISTER_BYTES, 1) != 0);
    end();
}

static void registers_may_begin_inside_a_page(void) {
    uint32_t word = 0;
    begin();
    fake_text(&fake, "map0/offset", "0x100\n");
    CHECK(open_uio() == MOESAIC_OK);
    CHECK(platform.write_register(platform.context, 4, 77) == 0);
    CHECK(pread(uio.device, &word, sizeof(word), 0x104) == sizeof(word) && word == 77);
    end();
}

static void driver_probes_through_the_platform(void) {
    moesaic_device *device = malloc(sizeof(*device));
    moesaic_config config = {FAKE_BASE, FAKE_MEMORY, 100000, 5000};
    const uint32_t identity[] = {MOESAIC_MAGIC, MOESAIC_INTERFACE_VERSION, MOESAIC_ARCH_NANO};
    begin();
    CHECK(open_uio() == MOESAIC_OK);
    CHECK(moesaic_open(device, &platform, config) == MOESAIC_NO_DEVICE);
    fake_write(&fake, "uio0", identity, sizeof(identity));
    CHECK(truncate(fake.device, FAKE_REGISTERS) == 0);
    CHECK(moesaic_open(device, &platform, config) == MOESAIC_OK);
    CHECK(moesaic_close(device) == MOESAIC_OK);
    end();
    free(device);
}

static void memory_is_copied_at_any_alignment(void) {
    uint8_t source[67], copy[67], all[128];
    begin();
    CHECK(open_uio() == MOESAIC_OK);
    for (unsigned i = 0; i < sizeof(source); ++i) source[i] = (uint8_t)(i * 7 + 1);
    for (unsigned offset = 0; offset < 10; ++offset) {
        for (size_t bytes = 0; bytes <= 40; ++bytes) {
            memset(copy, 0, sizeof(copy));
            memset(all, 0x55, sizeof(all));
            CHECK(pwrite(uio.buffer, all, sizeof(all), 0) == sizeof(all));
            CHECK(platform.write_memory(&uio, FAKE_BASE + 8 + offset, source + offset, bytes) == 0);
            CHECK(platform.read_memory(&uio, FAKE_BASE + 8 + offset, copy + 1, bytes) == 0);
            CHECK(memcmp(copy + 1, source + offset, bytes) == 0 && copy[bytes + 1] == 0);
            CHECK(pread(uio.buffer, all, sizeof(all), 0) == sizeof(all));
            CHECK(all[7 + offset] == 0x55 && all[8 + offset + bytes] == 0x55);
            CHECK(memcmp(all + 8 + offset, source + offset, bytes) == 0);
        }
    }
    end();
}

static void memory_ends_where_the_buffer_ends(void) {
    uint8_t byte[2] = {1, 2};
    begin();
    CHECK(open_uio() == MOESAIC_OK);
    CHECK(platform.write_memory(&uio, FAKE_BASE + FAKE_MEMORY - 2, byte, 2) == 0);
    CHECK(platform.write_memory(&uio, FAKE_BASE + FAKE_MEMORY - 1, byte, 2) != 0);
    CHECK(uio.error == EINVAL && uio.failed != NULL);
    CHECK(platform.read_memory(&uio, FAKE_BASE - 1, byte, 1) != 0);
    CHECK(platform.read_memory(&uio, FAKE_BASE + FAKE_MEMORY, byte, 1) != 0);
    CHECK(platform.read_memory(&uio, FAKE_BASE, byte, SIZE_MAX) != 0);
    CHECK(platform.read_memory(&uio, UINT64_MAX, byte, 2) != 0);
    end();
}

static void caches_are_told_whole_lines(void) {
    uint8_t data[100] = {0};
    char text[64];
    begin();
    CHECK(open_uio() == MOESAIC_OK);
    CHECK(platform.write_memory(&uio, FAKE_BASE + 0x1001, data, 0x40) == 0);
    fake_read(&fake, "buffer/sync_for_device", text, sizeof(text));
    CHECK(strcmp(text, "0x0000100000000085") == 0); /* 0x80 bytes, to the device, go */
    fake_read(&fake, "buffer/sync_for_cpu", text, sizeof(text));
    CHECK(text[0] == 0);
    CHECK(platform.read_memory(&uio, FAKE_BASE + FAKE_MEMORY - 1, data, 1) == 0);
    fake_read(&fake, "buffer/sync_for_cpu", text, sizeof(text));
    CHECK(strcmp(text, "0x0000FFC000000049") == 0); /* 0x40 bytes, from the device, go */
    moesaic_uio_close(&uio);
    fake.config.mode = MOESAIC_UIO_UNCACHED; /* needs no attributes */
    fake_remove(&fake, "buffer/sync_for_cpu");
    fake_remove(&fake, "buffer/sync_for_device");
    CHECK(open_uio() == MOESAIC_OK);
    CHECK(platform.write_memory(&uio, FAKE_BASE, data, 1) == 0);
    CHECK(fcntl(uio.buffer, F_GETFL) & O_SYNC);
    end();
}

static void second_opener_gets_in_use(void) {
    moesaic_uio other;
    int status = -1;
    pid_t child;
    begin();
    CHECK(open_uio() == MOESAIC_OK);
    CHECK(moesaic_uio_open(&other, &fake.config, &platform) == MOESAIC_IN_USE);
    child = fork();
    if (child == 0) _exit((int)moesaic_uio_open(&other, &fake.config, &platform));
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == MOESAIC_IN_USE);
    moesaic_uio_close(&uio);
    CHECK(open_uio() == MOESAIC_OK);
    end();
}

static void death_of_its_owner_frees_the_device(void) {
    int status = -1;
    pid_t child;
    begin();
    child = fork();
    if (child == 0) _exit((int)open_uio()); /* without closing */
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == MOESAIC_OK);
    CHECK(open_uio() == MOESAIC_OK);
    end();
}

static void missing_files_are_no_device(void) {
    static const char *const names[] = {"uio0", "map0/size", "map0/offset", "buffer/phys_addr",
                                        "buffer/size", "udmabuf0", "buffer/sync_for_cpu",
                                        "buffer/sync_for_device"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); ++i) {
        begin();
        fake_remove(&fake, names[i]);
        CHECK(open_uio() == MOESAIC_NO_DEVICE);
        CHECK(uio.error == ENOENT && uio.failed != NULL);
        end();
    }
}

static void attributes_that_make_no_sense_are_refused(void) {
    static const char *const cases[][2] = {
        {"buffer/phys_addr", "0x0000000070000000"}, /* cut short: no newline */
        {"buffer/phys_addr", "0x\n"},
        {"buffer/phys_addr", ""},
        {"buffer/phys_addr", "\n"},
        {"buffer/phys_addr", "0x7000000G\n"},
        {"buffer/phys_addr", "0x70000010\n"}, /* not at a page */
        {"buffer/phys_addr", "0x170000000FFFFFFFFF\n"},
        {"buffer/phys_addr", "0xFFFFFFFFFFFFF000\n"}, /* wraps around */
        {"buffer/phys_addr", "18446744073709551616\n"},
        {"buffer/size", "0\n"},
        {"buffer/size", "100\n"},
        {"buffer/size", "-65536\n"},
        {"buffer/size", "0x100000000\n"}, /* 4 GiB */
        {"map0/size", "0x35c\n"},         /* one register less than there are */
        {"map0/size", "junk\n"},
        {"map0/offset", "0x2\n"},
        {"map0/offset", "0xf00\n"}, /* the registers would leave the page */
        {"map0/offset", "0x1000\n"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        begin();
        fake_text(&fake, cases[i][0], cases[i][1]);
        CHECK(open_uio() == MOESAIC_PLATFORM_ERROR);
        CHECK(uio.error == EIO || uio.error == ERANGE);
        end();
    }
}

static void arguments_are_checked_before_anything_is_opened(void) {
    const int closed = -1;
    begin();
    CHECK(moesaic_uio_open(NULL, &fake.config, &platform) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_uio_open(&uio, NULL, &platform) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_uio_open(&uio, &fake.config, NULL) == MOESAIC_BAD_ARGUMENT);
    fake.config.clock_hz = 0;
    CHECK(open_uio() == MOESAIC_BAD_ARGUMENT);
    fake.config.clock_hz = UINT64_MAX;
    CHECK(open_uio() == MOESAIC_BAD_ARGUMENT);
    fake.config.clock_hz = 1;
    fake.config.mode = (moesaic_uio_mode)9;
    CHECK(open_uio() == MOESAIC_BAD_ARGUMENT);
    fake.config.mode = MOESAIC_UIO_CACHED;
    fake.config.interrupt = &closed;
    CHECK(open_uio() == MOESAIC_BAD_ARGUMENT);
    fake.config.interrupt = NULL;
    fake.config.map = NULL;
    CHECK(open_uio() == MOESAIC_BAD_ARGUMENT);
    moesaic_uio_close(NULL);
    end();
}

static void nothing_works_after_close(void) {
    uint32_t value;
    uint64_t waited;
    begin();
    CHECK(open_uio() == MOESAIC_OK);
    moesaic_uio_close(&uio);
    moesaic_uio_close(&uio);
    CHECK(platform.read_register(&uio, 0, &value) != 0);
    CHECK(platform.write_register(&uio, 0, 0) != 0);
    CHECK(platform.read_memory(&uio, FAKE_BASE, &value, 4) != 0);
    CHECK(platform.wait(&uio, 100, &waited) != 0);
    end();
}

static void devices_are_found_by_name(void) {
    unsigned number = 99;
    char folder[256];
    moesaic_uio_paths paths;
    moesaic_uio_config config;
    begin();
    fake_folder(&fake, "class");
    fake_folder(&fake, "class/uio0");
    fake_folder(&fake, "class/uio1");
    fake_folder(&fake, "class/uio3");
    fake_text(&fake, "class/uio0/name", "axi-pmon\n");
    fake_text(&fake, "class/uio1/name", "moesaic\n");
    fake_text(&fake, "class/uio3/name", "moesaic\n");
    fake_path(folder, &fake, "class");
    CHECK(moesaic_uio_find(folder, "moesaic", 0, &number) == MOESAIC_OK && number == 1);
    CHECK(moesaic_uio_find(folder, "moesaic", 1, &number) == MOESAIC_OK && number == 3);
    CHECK(moesaic_uio_find(folder, "moesaic", 2, &number) == MOESAIC_NO_DEVICE);
    CHECK(moesaic_uio_find(folder, "moesai", 0, &number) == MOESAIC_NO_DEVICE);
    CHECK(moesaic_uio_find(NULL, "no such device", 0, &number) == MOESAIC_NO_DEVICE);
    CHECK(moesaic_uio_find(folder, NULL, 0, &number) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_uio_fill(&paths, &config, 3, "udmabuf0") == MOESAIC_OK);
    CHECK(strcmp(config.device, "/dev/uio3") == 0);
    CHECK(strcmp(config.map, "/sys/class/uio/uio3/maps/map0") == 0);
    CHECK(strcmp(config.memory, "/dev/udmabuf0") == 0);
    CHECK(strcmp(config.memory_attributes, "/sys/class/u-dma-buf/udmabuf0") == 0);
    CHECK(moesaic_uio_fill(&paths, &config, 3, "../etc") == MOESAIC_BAD_ARGUMENT);
    end();
}

int main(void) {
    RUN(registers_are_those_of_the_file);
    RUN(registers_may_begin_inside_a_page);
    RUN(driver_probes_through_the_platform);
    RUN(memory_is_copied_at_any_alignment);
    RUN(memory_ends_where_the_buffer_ends);
    RUN(caches_are_told_whole_lines);
    RUN(second_opener_gets_in_use);
    RUN(death_of_its_owner_frees_the_device);
    RUN(missing_files_are_no_device);
    RUN(attributes_that_make_no_sense_are_refused);
    RUN(arguments_are_checked_before_anything_is_opened);
    RUN(nothing_works_after_close);
    RUN(devices_are_found_by_name);
    return check_result();
}
