/* The driver on a mock: frames, layouts, and that nothing happens before arguments are checked. */
#include "check.h"
#include "sample_image.h"
#include "../platforms/mock.h"

enum { BASE = 0x10000, MEMORY = 32 * SAMPLE_ALIGN };

static uint8_t image[SAMPLE_BYTES], memory[MEMORY];
static moesaic_mock mock;
static moesaic_platform platform;
static moesaic_device device;
static int8_t input[5 * 37];
static int16_t output[7 * 35];

static moesaic_config config(void) {
    moesaic_config c = {BASE, MEMORY, 100000, 5000};
    return c;
}

/* Code (row, column) of output `number` that the mock "computes": negative for odd rows. */
static int16_t expected_code(uint32_t number, uint32_t row, uint32_t column) {
    int32_t value = (int32_t)(number * 5000 + row * 1000 + column + 1);
    return (int16_t)(row % 2 ? -value : value);
}

/* Write one output from chunk `start` on: by the position of each code in drain order. */
static void drain_one(moesaic_mock *self, uint32_t number, const moesaic_shape *shape,
                      uint32_t start) {
    const uint32_t part = 2 * SAMPLE_LANES / SAMPLE_OUTPUT_PORTS;
    uint32_t padded = (shape->columns + SAMPLE_LANES - 1) / SAMPLE_LANES * SAMPLE_LANES;
    for (uint32_t row = 0; row < shape->rows; ++row) {
        for (uint32_t column = 0; column < shape->columns; ++column) {
            uint32_t tile = column / SAMPLE_WIDTH, rest = padded - tile * SAMPLE_WIDTH;
            uint32_t in_row = rest < SAMPLE_WIDTH ? rest : SAMPLE_WIDTH;
            uint32_t code = tile * SAMPLE_WIDTH * shape->rows + row * in_row +
                            column % SAMPLE_WIDTH;
            uint32_t chunk = start + code / SAMPLE_LANES, byte = code % SAMPLE_LANES * 2;
            uint32_t port = byte / part;
            uint64_t base = moesaic_mock_base(
                self, MOESAIC_OUTPUT_BASE_LO + MOESAIC_WINDOW_STRIDE * port);
            uint8_t *p = self->memory + (base - self->memory_base) + chunk * part + byte % part;
            uint16_t value = (uint16_t)expected_code(number, row, column);
            p[0] = (uint8_t)value;
            p[1] = (uint8_t)(value >> 8);
        }
    }
}

/* Write the outputs of a task as the gateware would: one behind the other. */
static void drain(moesaic_mock *self, void *user) {
    const moesaic_task_info *info = user;
    uint32_t start = 0;
    for (uint32_t number = 0; number < info->output_count; ++number) {
        const moesaic_shape *shape = &info->output[number];
        drain_one(self, number, shape, start);
        start += shape->rows * ((shape->columns + SAMPLE_LANES - 1) / SAMPLE_LANES);
    }
}

static void open_and_load(void) {
    moesaic_mock_open(&mock, SAMPLE_HASH, BASE, memory, MEMORY, &platform);
    memset(memory, 0xA5, MEMORY);
    mock.frame = drain;
    mock.user = (void *)&SAMPLE_INFO[0];
    CHECK(moesaic_open(&device, &platform, config()) == MOESAIC_OK);
    CHECK(moesaic_load(&device, image, SAMPLE_BYTES) == MOESAIC_OK);
}

static void image_lies_in_windows_that_do_not_overlap(void) {
    uint64_t end = BASE;
    open_and_load();
    for (uint32_t port = 0; port < SAMPLE_PORTS; ++port) {
        const moesaic_window *w = &device.weight[port];
        CHECK(w->address >= end && w->address % SAMPLE_ALIGN == 0 && w->bytes == 96);
        CHECK(memory[w->address - BASE] == 0x10 + port);
        CHECK((w->address - BASE) % MOESAIC_WEIGHT_ROUND_BYTES ==
              port * MOESAIC_WEIGHT_STEP_BYTES(SAMPLE_PORTS) % MOESAIC_WEIGHT_ROUND_BYTES);
        end = w->address + w->bytes;
    }
    for (uint32_t n = 0; n < SAMPLE_TASKS; ++n) {
        const moesaic_task *t = &device.task[n];
        const moesaic_window *all[] = {&t->program, &t->constant, &t->input, &t->output[0],
                                       &t->output[1]};
        for (unsigned i = 0; i < 5; ++i) {
            CHECK(all[i]->address >= end && all[i]->address % SAMPLE_ALIGN == 0);
            end = all[i]->address + all[i]->bytes;
        }
        CHECK(memory[t->program.address - BASE] == 0x12 + 2 * n);
        CHECK(memory[t->constant.address - BASE + 95] == 0x13 + 2 * n);
    }
    CHECK(end <= BASE + MEMORY);
    CHECK(device.task[0].input.bytes == 5 * 48 && device.task[0].output[0].bytes == 7 * 36);
}

static void outputs_come_back_one_behind_the_other(void) {
    const moesaic_task_info *info = &SAMPLE_INFO[1];
    int16_t codes[4 * 4 + 3 * 9 + 1], *next = codes;
    unsigned wrong = 0;
    open_and_load();
    mock.user = &device.task[1].info;
    codes[4 * 4 + 3 * 9] = 0x1234;
    CHECK(moesaic_run(&device, 1, input, 3 * 16, codes, 4 * 4) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_run(&device, 1, input, 3 * 16, codes, 4 * 4 + 3 * 9) == MOESAIC_OK);
    for (uint32_t n = 0; n < info->output_count; ++n)
        for (uint32_t row = 0; row < info->output[n].rows; ++row)
            for (uint32_t column = 0; column < info->output[n].columns; ++column)
                wrong += *next++ != expected_code(n, row, column);
    CHECK(wrong == 0 && *next == 0x1234);
    CHECK(device.task[1].output[1].bytes == (4 + 3 * 3) * SAMPLE_LANES * 2 / SAMPLE_OUTPUT_PORTS);
    CHECK(device.task[1].output[0].bytes == device.task[1].output[1].bytes + 200); /* scratch */
}

static void frame_runs_and_its_codes_come_back(void) {
    uint64_t counters[MOESAIC_COUNTER_COUNT];
    uint32_t task = 9;
    unsigned wrong = 0;
    open_and_load();
    CHECK(moesaic_find_task(&device, "seg", &task) == MOESAIC_OK && task == 0);
    CHECK(moesaic_find_task(&device, "depth", &task) == MOESAIC_OK && task == 1);
    CHECK(moesaic_find_task(&device, "se", &task) == MOESAIC_NO_TASK);
    CHECK(moesaic_find_task(&device, "segment", &task) == MOESAIC_NO_TASK);
    memset(device.buffer, 0x5A, sizeof(device.buffer)); /* as outputs leave it */
    for (unsigned i = 0; i < sizeof(input); ++i) input[i] = (int8_t)(i * 7);
    CHECK(moesaic_run(&device, 0, input, sizeof(input), output, 7 * 35) == MOESAIC_OK);
    for (uint32_t row = 0; row < 7; ++row)
        for (uint32_t column = 0; column < 35; ++column)
            wrong += output[row * 35 + column] != expected_code(0, row, column);
    CHECK(wrong == 0);
    for (uint32_t row = 0; row < 5; ++row)
        for (uint32_t column = 0; column < 48; ++column) {
            int8_t there = (int8_t)memory[device.task[0].input.address - BASE + row * 48 + column];
            wrong += there != (column < 37 ? input[row * 37 + column] : 0);
        }
    CHECK(wrong == 0);
    CHECK(moesaic_read_counters(&device, counters, MOESAIC_COUNTER_COUNT) == MOESAIC_OK);
    CHECK(counters[MOESAIC_COUNTER_CYCLES] == 1000);
    CHECK(device.lost_interrupts == 0);
    CHECK(moesaic_close(&device) == MOESAIC_OK);
    CHECK(mock.registers[MOESAIC_IRQ_ENABLE / 4] == 0);
}

static void second_frame_writes_only_what_changes(void) {
    uint32_t writes;
    open_and_load();
    CHECK(moesaic_submit(&device, 0) == MOESAIC_OK && moesaic_wait(&device, 9000) == MOESAIC_OK);
    writes = mock.writes;
    CHECK(moesaic_submit(&device, 0) == MOESAIC_OK && moesaic_wait(&device, 9000) == MOESAIC_OK);
    CHECK(mock.writes - writes == 2); /* START, and the interrupt acknowledged */
    CHECK(moesaic_reset(&device) == MOESAIC_OK); /* afterwards nothing is taken for granted */
    writes = mock.writes;
    CHECK(moesaic_submit(&device, 0) == MOESAIC_OK && moesaic_wait(&device, 9000) == MOESAIC_OK);
    CHECK(mock.writes - writes == 2 + 3 * (SAMPLE_PORTS + 3 + SAMPLE_OUTPUT_PORTS) + 2);
}

static void next_input_goes_in_while_a_frame_runs(void) {
    open_and_load();
    CHECK(moesaic_submit(&device, 0) == MOESAIC_OK);
    CHECK(moesaic_write_input(&device, 0, input, sizeof(input)) == MOESAIC_BAD_STATE);
    CHECK(moesaic_read_output(&device, 0, output, 7 * 35) == MOESAIC_BAD_STATE);
    CHECK(moesaic_write_input(&device, 1, input, 3 * 16) == MOESAIC_OK);
    CHECK(moesaic_submit(&device, 1) == MOESAIC_BAD_STATE);
    CHECK(moesaic_load(&device, image, SAMPLE_BYTES) == MOESAIC_BAD_STATE);
    CHECK(moesaic_wait(&device, 9000) == MOESAIC_OK);
    CHECK(moesaic_submit(&device, 1) == MOESAIC_OK);
    CHECK(moesaic_read_output(&device, 0, output, 7 * 35) == MOESAIC_OK);
    CHECK(moesaic_wait(&device, 9000) == MOESAIC_OK);
}

static void bad_arguments_touch_nothing(void) {
    moesaic_config bad[] = {config(), config(), config(), config(), config(), config()};
    moesaic_platform partial;
    moesaic_device other;
    uint64_t counters[MOESAIC_COUNTER_COUNT];
    uint32_t task, accesses;
    moesaic_task copy;
    open_and_load();
    accesses = mock.reads + mock.writes + mock.memory_writes + mock.waits;
    bad[0].memory_base += 1;
    bad[1].memory_bytes = 0;
    bad[2].watchdog_cycles = 0;
    bad[3].poll_cycles = 0;
    bad[4].memory_base = (uint64_t)1 << MOESAIC_ADDRESS_BITS;
    bad[5].memory_bytes = (uint64_t)1 << MOESAIC_ADDRESS_BITS;
    for (unsigned i = 0; i < 6; ++i)
        CHECK(moesaic_open(&other, &platform, bad[i]) == MOESAIC_BAD_ARGUMENT);
    partial = platform;
    partial.wait = NULL;
    CHECK(moesaic_open(&other, &partial, config()) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_open(&other, NULL, config()) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_open(NULL, &platform, config()) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_load(&device, NULL, 5) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_load(&device, image, SAMPLE_BYTES - 1) == MOESAIC_BAD_IMAGE);
    CHECK(moesaic_find_task(&device, NULL, &task) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_get_task(&device, 2, &copy) == MOESAIC_NO_TASK);
    CHECK(moesaic_get_task(&device, 1, NULL) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_get_weight_window(&device, 2, &copy.input) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_write_input(&device, 0, input, sizeof(input) - 1) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_write_input(&device, 2, input, sizeof(input)) == MOESAIC_NO_TASK);
    CHECK(moesaic_write_input(&device, 0, NULL, sizeof(input)) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_read_output(&device, 0, output, 1) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_submit(&device, 2) == MOESAIC_NO_TASK);
    CHECK(moesaic_wait(&device, 10) == MOESAIC_BAD_STATE);
    CHECK(moesaic_run(&device, 0, input, sizeof(input), output, 1) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_run(&device, 0, input, sizeof(input), NULL, 1) == MOESAIC_BAD_ARGUMENT);
    CHECK(moesaic_read_counters(&device, counters, 3) == MOESAIC_BAD_ARGUMENT);
    CHECK(mock.reads + mock.writes + mock.memory_writes + mock.waits == accesses);
    memset(&other, 0, sizeof(other)); /* never opened */
    CHECK(moesaic_load(&other, image, SAMPLE_BYTES) == MOESAIC_BAD_STATE);
    CHECK(moesaic_submit(&other, 0) == MOESAIC_BAD_STATE);
    CHECK(moesaic_reset(&other) == MOESAIC_BAD_STATE);
    CHECK(moesaic_close(&other) == MOESAIC_BAD_STATE);
}

static void image_that_does_not_fit_is_refused_before_it_is_copied(void) {
    moesaic_config small = config();
    small.memory_bytes = 5 * SAMPLE_ALIGN;
    moesaic_mock_open(&mock, SAMPLE_HASH, BASE, memory, MEMORY, &platform);
    CHECK(moesaic_open(&device, &platform, small) == MOESAIC_OK);
    CHECK(moesaic_load(&device, image, SAMPLE_BYTES) == MOESAIC_NO_MEMORY);
    CHECK(mock.memory_writes == 0 && mock.writes == 0);
    CHECK(moesaic_submit(&device, 0) == MOESAIC_BAD_STATE);
    open_and_load(); /* and now to the byte */
    small.memory_bytes = device.task[SAMPLE_TASKS - 1].output[SAMPLE_OUTPUT_PORTS - 1].address +
                         device.task[SAMPLE_TASKS - 1].output[SAMPLE_OUTPUT_PORTS - 1].bytes - BASE;
    CHECK(moesaic_open(&device, &platform, small) == MOESAIC_OK);
    CHECK(moesaic_load(&device, image, SAMPLE_BYTES) == MOESAIC_OK);
    small.memory_bytes -= 1;
    CHECK(moesaic_open(&device, &platform, small) == MOESAIC_OK);
    CHECK(moesaic_load(&device, image, SAMPLE_BYTES) == MOESAIC_NO_MEMORY);
}

static void results_have_texts(void) {
    for (int i = 0; i < MOESAIC_RESULT_COUNT; ++i)
        CHECK(strcmp(moesaic_result_text(i), "unknown result") != 0);
    CHECK(strcmp(moesaic_result_text(-1), "unknown result") == 0);
    CHECK(strcmp(moesaic_result_text(MOESAIC_RESULT_COUNT), "unknown result") == 0);
    CHECK(strcmp(moesaic_error_name(MOESAIC_ERROR_WATCHDOG), "WATCHDOG") == 0);
    CHECK(strcmp(moesaic_error_name(1000), "unknown error") == 0);
    CHECK(moesaic_abi() == MOESAIC_ABI && moesaic_device_bytes() == sizeof(moesaic_device));
}

int main(void) {
    sample_image(image);
    RUN(image_lies_in_windows_that_do_not_overlap);
    RUN(outputs_come_back_one_behind_the_other);
    RUN(frame_runs_and_its_codes_come_back);
    RUN(second_frame_writes_only_what_changes);
    RUN(next_input_goes_in_while_a_frame_runs);
    RUN(bad_arguments_touch_nothing);
    RUN(image_that_does_not_fit_is_refused_before_it_is_copied);
    RUN(results_have_texts);
    return check_result();
}
