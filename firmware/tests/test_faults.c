/* Hardware gone wrong: every fault ends in bounded time, with its own result, and what can be used
 * again works again. */
#include "check.h"
#include "sample_image.h"
#include "../platforms/mock.h"

enum { BASE = 0, MEMORY = 32 * SAMPLE_ALIGN, WATCHDOG = 50000, POLL = 3000 };

static uint8_t image[SAMPLE_BYTES], memory[MEMORY];
static moesaic_mock mock;
static moesaic_platform platform;
static moesaic_device device;
static int8_t input[5 * 37];
static int16_t output[7 * 35];

static moesaic_result open_it(uint32_t hash, mock_fault fault) {
    moesaic_config config = {BASE, MEMORY, WATCHDOG, POLL};
    moesaic_mock_open(&mock, hash, BASE, memory, MEMORY, &platform);
    mock.fault = fault;
    return moesaic_open(&device, &platform, config);
}

static void load_it(void) {
    CHECK(open_it(SAMPLE_HASH, MOCK_WORKS) == MOESAIC_OK);
    CHECK(moesaic_load(&device, image, SAMPLE_BYTES) == MOESAIC_OK);
}

static moesaic_result run(void) {
    return moesaic_run(&device, 0, input, sizeof(input), output, 7 * 35);
}

static void probe_names_what_is_wrong(void) {
    CHECK(open_it(SAMPLE_HASH, MOCK_ALL_ONES) == MOESAIC_NO_DEVICE);
    CHECK(open_it(SAMPLE_HASH, MOCK_ALL_ZEROS) == MOESAIC_NO_DEVICE);
    moesaic_mock_open(&mock, SAMPLE_HASH, BASE, memory, MEMORY, &platform);
    mock.registers[MOESAIC_VERSION / 4] += 1;
    {
        moesaic_config config = {BASE, MEMORY, WATCHDOG, POLL};
        CHECK(moesaic_open(&device, &platform, config) == MOESAIC_BAD_VERSION);
    }
    CHECK(mock.writes == 0 && mock.memory_writes == 0);
    CHECK(open_it(SAMPLE_HASH + 1, MOCK_WORKS) == MOESAIC_OK);
    CHECK(moesaic_load(&device, image, SAMPLE_BYTES) == MOESAIC_WRONG_ARCH);
    CHECK(mock.writes == 0 && mock.memory_writes == 0);
}

static void error_interrupt_is_told_and_the_next_frame_runs(void) {
    load_it();
    mock.fault = MOCK_FRAME_ERROR;
    mock.error = MOESAIC_ERROR_BUS;
    mock.info = 4;
    CHECK(run() == MOESAIC_FRAME_ERROR);
    CHECK(device.fault.code == MOESAIC_ERROR_BUS && device.fault.info == 4);
    mock.fault = MOCK_WORKS;
    CHECK(run() == MOESAIC_OK);
}

static void lost_interrupt_costs_time_but_no_frame(void) {
    load_it();
    mock.fault = MOCK_LOST_INTERRUPT;
    CHECK(run() == MOESAIC_OK);
    CHECK(device.lost_interrupts == 1);
}

static void hang_ends_in_a_timeout_and_the_next_frame_runs(void) {
    load_it();
    mock.fault = MOCK_HANG;
    CHECK(run() == MOESAIC_TIMEOUT);
    CHECK(mock.waits <= moesaic_frame_timeout(&device) / POLL + 1);
    mock.fault = MOCK_WORKS;
    CHECK(run() == MOESAIC_OK);
}

static void accelerator_that_stays_busy_is_stuck(void) {
    uint32_t reads;
    load_it();
    mock.fault = MOCK_STUCK;
    reads = mock.reads;
    CHECK(run() == MOESAIC_STUCK);
    CHECK(mock.reads - reads < 30000);
}

static void vanished_device_is_lost_not_done(void) {
    const mock_fault faults[] = {MOCK_ALL_ONES, MOCK_ALL_ZEROS, MOCK_OTHER_HASH};
    for (unsigned i = 0; i < 3; ++i) {
        load_it();
        mock.fault = faults[i]; /* before the frame */
        CHECK(run() == MOESAIC_DEVICE_LOST);
    }
    load_it();
    mock.fault = MOCK_ONES_ON_START; /* in the middle of the frame */
    CHECK(run() == MOESAIC_DEVICE_LOST);
    CHECK(run() == MOESAIC_BAD_STATE); /* load again first */
    mock.fault = MOCK_WORKS;
    mock.registers[MOESAIC_STATUS / 4] = 0;
    CHECK(moesaic_load(&device, image, SAMPLE_BYTES) == MOESAIC_OK && run() == MOESAIC_OK);
}

static void counters_of_a_lost_device_are_not_believed(void) {
    uint64_t counters[MOESAIC_COUNTER_COUNT];
    load_it();
    CHECK(run() == MOESAIC_OK);
    mock.fault = MOCK_ALL_ONES;
    CHECK(moesaic_read_counters(&device, counters, MOESAIC_COUNTER_COUNT) == MOESAIC_DEVICE_LOST);
    load_it();
    CHECK(run() == MOESAIC_OK);
    mock.fault = MOCK_OTHER_HASH;
    CHECK(moesaic_read_counters(&device, counters, MOESAIC_COUNTER_COUNT) == MOESAIC_DEVICE_LOST);
}

static void any_failing_access_is_told_and_leaves_a_driver_that_can_be_loaded(void) {
    uint32_t access = 1;
    for (; access < 1000; ++access) {
        moesaic_result result;
        load_it();
        mock.fail_access = access;
        result = run();
        if (mock.fail_access) break; /* the run needs fewer accesses than that */
        if (result != MOESAIC_PLATFORM_ERROR) printf("access %u: %d\n", (unsigned)access, result);
        CHECK(result == MOESAIC_PLATFORM_ERROR);
        if (device.state == STATE_RUNNING) CHECK(moesaic_reset(&device) == MOESAIC_OK);
        CHECK(moesaic_load(&device, image, SAMPLE_BYTES) == MOESAIC_OK && run() == MOESAIC_OK);
    }
    CHECK(access > 20 && access < 1000);
    for (access = 1; access < 1000; ++access) {
        CHECK(open_it(SAMPLE_HASH, MOCK_WORKS) == MOESAIC_OK);
        mock.fail_access = access;
        if (moesaic_load(&device, image, SAMPLE_BYTES) == MOESAIC_OK) break;
        CHECK(moesaic_submit(&device, 0) == MOESAIC_BAD_STATE);
    }
    CHECK(access > 8 && access < 1000);
}

static void reset_that_fails_leaves_no_frame_behind_that_could_answer_for_the_next(void) {
    load_it();
    CHECK(moesaic_submit(&device, 0) == MOESAIC_OK);
    mock.fail_access = 1;
    CHECK(moesaic_reset(&device) == MOESAIC_PLATFORM_ERROR);
    CHECK(mock.registers[MOESAIC_STATUS / 4] & MOESAIC_STATUS_BUSY);
    CHECK(moesaic_submit(&device, 1) == MOESAIC_BAD_STATE);
    CHECK(moesaic_reset(&device) == MOESAIC_OK);
    CHECK(moesaic_submit(&device, 1) == MOESAIC_OK && mock.frames == 2);
    mock.fault = MOCK_STUCK;
    CHECK(moesaic_wait(&device, 10) == MOESAIC_STUCK);
    CHECK(moesaic_submit(&device, 0) == MOESAIC_BAD_STATE);
    CHECK(moesaic_reset(&device) == MOESAIC_STUCK);
    mock.fault = MOCK_WORKS;
    CHECK(moesaic_reset(&device) == MOESAIC_OK && run() == MOESAIC_OK);
}

static int (*true_write)(void *context, uint32_t offset, uint32_t value);

/* START arrives, its answer does not. */
static int start_without_answer(void *context, uint32_t offset, uint32_t value) {
    int result = true_write(context, offset, value);
    return offset == MOESAIC_CONTROL && (value & MOESAIC_CONTROL_START) ? -1 : result;
}

static void start_that_fails_may_have_arrived(void) {
    load_it();
    true_write = device.platform.write_register;
    device.platform.write_register = start_without_answer;
    CHECK(moesaic_submit(&device, 0) == MOESAIC_PLATFORM_ERROR && mock.frames == 1);
    device.platform.write_register = true_write;
    CHECK(moesaic_submit(&device, 1) == MOESAIC_BAD_STATE);
    CHECK(moesaic_wait(&device, moesaic_frame_timeout(&device)) == MOESAIC_OK);
    CHECK(moesaic_submit(&device, 1) == MOESAIC_OK && mock.frames == 2);
}

static uint32_t jumps;

/* A clock whose sum would wrap around to where it was. */
static int wait_of_a_clock_that_jumps(void *context, uint64_t cycles, uint64_t *waited) {
    (void)context;
    (void)cycles;
    *waited = jumps++ % 2 ? UINT64_MAX : 1;
    return jumps > 1000; /* or the test would not end */
}

static void clock_that_jumps_ends_the_wait(void) {
    load_it();
    CHECK(moesaic_submit(&device, 0) == MOESAIC_OK);
    device.platform.wait = wait_of_a_clock_that_jumps;
    jumps = 0;
    CHECK(moesaic_wait(&device, 100) == MOESAIC_TIMEOUT && jumps == 2);
    CHECK(moesaic_frame_timeout(NULL) == 0);
}

static void close_stops_a_frame(void) {
    load_it();
    CHECK(moesaic_submit(&device, 0) == MOESAIC_OK);
    CHECK(mock.registers[MOESAIC_STATUS / 4] & MOESAIC_STATUS_BUSY);
    CHECK(moesaic_close(&device) == MOESAIC_OK);
    CHECK(mock.registers[MOESAIC_IRQ_ENABLE / 4] == 0);
    CHECK(!(mock.registers[MOESAIC_STATUS / 4] & MOESAIC_STATUS_BUSY));
    CHECK(moesaic_close(&device) == MOESAIC_BAD_STATE);
}

int main(void) {
    sample_image(image);
    RUN(probe_names_what_is_wrong);
    RUN(error_interrupt_is_told_and_the_next_frame_runs);
    RUN(lost_interrupt_costs_time_but_no_frame);
    RUN(hang_ends_in_a_timeout_and_the_next_frame_runs);
    RUN(accelerator_that_stays_busy_is_stuck);
    RUN(vanished_device_is_lost_not_done);
    RUN(counters_of_a_lost_device_are_not_believed);
    RUN(any_failing_access_is_told_and_leaves_a_driver_that_can_be_loaded);
    RUN(reset_that_fails_leaves_no_frame_behind_that_could_answer_for_the_next);
    RUN(start_that_fails_may_have_arrived);
    RUN(clock_that_jumps_ends_the_wait);
    RUN(close_stops_a_frame);
    return check_result();
}
