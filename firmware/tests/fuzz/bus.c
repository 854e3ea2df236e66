/* Fuzz target: any calls of the driver on a bus that does anything.
 *
 * Input: configuration (4 bytes), number of calls, calls of 2 bytes each, then what the bus does,
 * see accelerator.c. Whatever it is, each call ends within its bound, touches its own windows only
 * and returns a result that belongs to it; a frame that is said to have gone well has ended, and its
 * output is the one that belongs to its input; and when the bus works again, so does the driver. */
#include <string.h>

#include "../sample_image.h"
#include "accelerator.h"

#define ANY_PLACE_TO_STOP (1u << MOESAIC_PLATFORM_ERROR | 1u << MOESAIC_DEVICE_LOST)
#define RESULT(name) (1u << MOESAIC_##name)
#define RESET_RESULTS (ANY_PLACE_TO_STOP | RESULT(OK) | RESULT(STUCK) | RESULT(BAD_STATE))
#define WAIT_RESULTS (RESET_RESULTS | RESULT(TIMEOUT) | RESULT(FRAME_ERROR))

enum { RESET_ACCESSES = 20100, FRAME_ACCESSES = 200, NAMES = 3 };
/* Few inputs wait for all of the driver's bounds, which are long: inputs have to be quick. */
enum { SHORT = 2000, LONG = 50000 };

static uint8_t image[SAMPLE_BYTES];
static accelerator bus;
static moesaic_platform platform;
static moesaic_config config;
static moesaic_device *device;

/* What is known of a task: the digest of the input that was written, of that of the frame whose
 * output is in memory, and whether there are such. */
static struct {
    int written, done;
    uint32_t input, output;
} known[SAMPLE_TASKS];
static uint32_t running, running_input, ended_before, fresh;
static int running_known;

static moesaic_result checked(moesaic_result result, uint32_t allowed, uint64_t most_accesses) {
    REQUIRE((unsigned)result < MOESAIC_RESULT_COUNT && (allowed >> result & 1u));
    REQUIRE(bus.accesses <= most_accesses);
    bus.call = CALL_OTHER;
    return result;
}

static void begin_call(bus_call call, uint32_t task) {
    bus.call = call;
    bus.task = task % SAMPLE_TASKS;
    bus.accesses = bus.waits = 0;
}

/* A new input for the task, in a block of its size; its digest as the accelerator will see it. */
static int8_t *new_input(uint32_t task, size_t *count, uint32_t *digest) {
    const moesaic_task_info *info = &SAMPLE_INFO[task];
    const size_t padded = (info->inputs + SAMPLE_DEPTH - 1) / SAMPLE_DEPTH * SAMPLE_DEPTH;
    uint8_t window[8 * 64] = {0};
    int8_t *codes;
    *count = (size_t)info->input_rows * info->inputs;
    codes = fuzz_block(*count);
    for (size_t i = 0; i < *count; ++i) {
        codes[i] = (int8_t)(fuzz_random(&fresh) % 255u - 127);
        window[i / info->inputs * padded + i % info->inputs] = (uint8_t)codes[i];
    }
    *digest = accelerator_digest(window, info->input_rows * padded);
    return codes;
}

static void check_output(uint32_t task, const int16_t *codes, uint32_t digest) {
    const moesaic_task_info *info = &SAMPLE_INFO[task];
    for (uint32_t output = 0; output < info->output_count; ++output)
        for (uint32_t row = 0; row < info->output[output].rows; ++row)
            for (uint32_t column = 0; column < info->output[output].columns; ++column)
                REQUIRE(*codes++ == accelerator_code(digest, output, row, column));
}

static void forget(void) { memset(known, 0, sizeof(known)); }

static moesaic_result open_it(void) {
    begin_call(CALL_OTHER, 0);
    forget();
    return checked(moesaic_open(device, &platform, config),
                   ANY_PLACE_TO_STOP | RESULT(OK) | RESULT(NO_DEVICE) | RESULT(BAD_VERSION), 3);
}

static moesaic_result load_it(void) {
    moesaic_result result;
    begin_call(CALL_LOAD, 0);
    result = checked(moesaic_load(device, image, SAMPLE_BYTES),
                     RESET_RESULTS | RESULT(WRONG_ARCH) | RESULT(NO_MEMORY),
                     RESET_ACCESSES + SAMPLE_SECTIONS);
    if (result != MOESAIC_BAD_STATE) forget();
    return result;
}

static void write_input(uint32_t task, uint32_t number) {
    size_t count;
    uint32_t digest;
    int8_t *codes = new_input(task, &count, &digest);
    moesaic_result result;
    begin_call(CALL_INPUT, task);
    result = checked(moesaic_write_input(device, number, codes, count),
                     RESULT(OK) | RESULT(PLATFORM_ERROR) | RESULT(BAD_STATE) | RESULT(NO_TASK), 2);
    if (number == task && (result == MOESAIC_OK || result == MOESAIC_PLATFORM_ERROR)) {
        known[task].written = result == MOESAIC_OK;
        known[task].input = digest;
    }
    REQUIRE(number == task || result == MOESAIC_NO_TASK || result == MOESAIC_BAD_STATE);
    free(codes);
}

static void submit(uint32_t task, uint32_t number) {
    const uint32_t ended = bus.ended;
    moesaic_result result;
    begin_call(CALL_OTHER, task);
    result = checked(moesaic_submit(device, number),
                     ANY_PLACE_TO_STOP | RESULT(OK) | RESULT(BAD_STATE) | RESULT(NO_TASK),
                     FRAME_ACCESSES);
    REQUIRE(number == task || result != MOESAIC_OK);
    if (result == MOESAIC_BAD_STATE || result == MOESAIC_NO_TASK) return;
    known[task].done = 0;
    ended_before = ended;
    running = task;
    running_known = known[task].written;
    running_input = known[task].input;
}

static void wait_for(uint64_t cycles) {
    moesaic_result result;
    begin_call(CALL_OTHER, 0);
    result = checked(moesaic_wait(device, cycles), WAIT_RESULTS | RESULT(BAD_ARGUMENT),
                     2 * cycles + RESET_ACCESSES);
    REQUIRE((result == MOESAIC_BAD_ARGUMENT) == (cycles == 0));
    REQUIRE(bus.waits <= cycles); /* each takes one at least */
    if (result != MOESAIC_OK || bus.lied) return;
    REQUIRE(bus.ended == ended_before + 1);
    known[running].done = running_known;
    known[running].output = running_input;
}

static void read_output(uint32_t task, uint32_t number) {
    size_t count = (size_t)moesaic_output_codes(&SAMPLE_INFO[task]);
    int16_t *codes = fuzz_block(count * sizeof(*codes));
    moesaic_result result;
    begin_call(CALL_OUTPUT, task);
    result = checked(moesaic_read_output(device, number, codes, count),
                     RESULT(OK) | RESULT(PLATFORM_ERROR) | RESULT(BAD_STATE) | RESULT(NO_TASK),
                     SAMPLE_OUTPUTS * SAMPLE_OUTPUT_PORTS);
    REQUIRE(number == task || result != MOESAIC_OK);
    if (result == MOESAIC_OK && known[task].done && !bus.lied)
        check_output(task, codes, known[task].output);
    free(codes);
}

static moesaic_result run(uint32_t task) {
    size_t inputs, outputs = (size_t)moesaic_output_codes(&SAMPLE_INFO[task]);
    uint32_t digest;
    int8_t *input = new_input(task, &inputs, &digest);
    int16_t *output = fuzz_block(outputs * sizeof(*output));
    const uint32_t ended = bus.ended;
    moesaic_result result;
    begin_call(CALL_RUN, task);
    result = checked(moesaic_run(device, task, input, inputs, output, outputs), WAIT_RESULTS,
                     2 * moesaic_frame_timeout(device) + RESET_ACCESSES + FRAME_ACCESSES);
    if (result != MOESAIC_BAD_STATE) {
        /* A frame may be under way; what it is of is no longer followed. */
        known[task].written = known[task].done = running_known = 0;
        ended_before = ended;
        running = task;
    }
    if (result == MOESAIC_OK && !bus.lied) {
        REQUIRE(bus.ended == ended + 1);
        check_output(task, output, digest);
    }
    free(input);
    free(output);
    return result;
}

static void look(uint32_t number) {
    static const char *const NAMED[NAMES] = {"seg", "depth", "no such task"};
    uint64_t counters[MOESAIC_COUNTER_COUNT];
    moesaic_fault fault;
    moesaic_window window;
    uint32_t found = 0;
    moesaic_task *task = fuzz_block(sizeof(*task));
    moesaic_result result;
    begin_call(CALL_OTHER, 0);
    (void)checked(moesaic_read_counters(device, counters, MOESAIC_COUNTER_COUNT),
                  ANY_PLACE_TO_STOP | RESULT(OK) | RESULT(BAD_STATE), 2 * MOESAIC_COUNTER_COUNT + 2);
    result = moesaic_find_task(device, NAMED[number % NAMES], &found);
    REQUIRE(result == MOESAIC_OK ? found == number % NAMES && found < SAMPLE_TASKS
                                 : result == MOESAIC_NO_TASK || result == MOESAIC_BAD_STATE);
    result = moesaic_get_task(device, number, task);
    REQUIRE(result != MOESAIC_OK || number < SAMPLE_TASKS);
    result = moesaic_get_weight_window(device, number, &window);
    REQUIRE(result != MOESAIC_OK || number < SAMPLE_PORTS);
    REQUIRE(moesaic_get_fault(device, &fault) == MOESAIC_OK);
    free(task);
}

static void call(uint32_t kind, uint32_t argument) {
    uint32_t task = argument % SAMPLE_TASKS, number = argument < 0xF0 ? task : argument;
    switch (kind % 10) {
        case 0: (void)run(task); break;
        case 1: write_input(task, number); break;
        case 2: submit(task, number); break;
        case 3: wait_for(argument < 0x80 ? argument : moesaic_frame_timeout(device)); break;
        case 4: read_output(task, number); break;
        case 5:
            begin_call(CALL_OTHER, 0);
            (void)checked(moesaic_reset(device), RESET_RESULTS, RESET_ACCESSES);
            break;
        case 6: (void)load_it(); break;
        case 7:
            begin_call(CALL_OTHER, 0);
            (void)checked(moesaic_close(device), RESET_RESULTS, RESET_ACCESSES);
            break;
        case 8: (void)open_it(); break;
        case 9: look(argument); break;
    }
}

/* However it was left, the driver and an accelerator that works come together again: by a reset, if
 * it has not noticed that the accelerator went away, and by opening and loading. */
static void work_again(void) {
    accelerator_works(&bus);
    bus.hash = SAMPLE_HASH;
    bus.lied = 0;
    if (device->state == STATE_LOADED || device->state == STATE_RUNNING) {
        begin_call(CALL_OTHER, 0);
        REQUIRE(moesaic_reset(device) == MOESAIC_OK);
        REQUIRE(run(1) == MOESAIC_OK && run(0) == MOESAIC_OK);
    }
    REQUIRE(open_it() == MOESAIC_OK && load_it() == MOESAIC_OK);
    REQUIRE(run(0) == MOESAIC_OK && run(1) == MOESAIC_OK);
    begin_call(CALL_OTHER, 0);
    REQUIRE(moesaic_close(device) == MOESAIC_OK);
    REQUIRE(bus.registers[MOESAIC_IRQ_ENABLE / 4] == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    fuzz_input head = {data, bytes}, calls;
    uint32_t mode = fuzz_take(&head, 1), poll = fuzz_take(&head, 1), watchdog = fuzz_take(&head, 2);
    size_t call_bytes = 2 * (size_t)(fuzz_take(&head, 1) % 32);
    if (image[0] == 0) sample_image(image);
    calls = head;
    if (call_bytes > head.left) call_bytes = head.left;
    calls.left = call_bytes;
    accelerator_begin(&bus, SAMPLE_HASH, head.next + call_bytes, head.left - call_bytes, &platform);
    bus.afterwards = (bus_mode)(mode % BUS_MODES);
    bus.patience = (mode & 0x70) == 0x70 ? LONG : SHORT;
    device = fuzz_block(sizeof(*device));
    bus.device = device;
    fresh = 1;
    running = 0;
    running_known = 0;
    config.memory_base = MEMORY_BASE;
    config.memory_bytes =
        mode & 0x80 ? 15 * SAMPLE_ALIGN + MOESAIC_WEIGHT_STEP_BYTES(SAMPLE_PORTS) : MEMORY_BYTES;
    config.poll_cycles = poll ? 64 * poll : 7; /* rarely short: a frame that never ends costs many */
    config.watchdog_cycles = 1 + watchdog;
    memset(device, 0, sizeof(*device));
    if (open_it() == MOESAIC_OK) (void)load_it();
    while (calls.left) {
        uint32_t kind = fuzz_take(&calls, 1);
        call(kind, fuzz_take(&calls, 1));
    }
    work_again();
    free(device);
    return 0;
}

/* The fuzzer's own mutations know nothing of the two halves, and need not. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t most, unsigned seed) {
    (void)seed;
    return LLVMFuzzerMutate(data, bytes, most);
}
