/* Waiting for UIO's interrupt: a socket pair plays the kernel. */
#define _GNU_SOURCE
#include "check.h"
#include "fake_uio.h"

#include <errno.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

static fake_uio fake;
static moesaic_uio uio;
static moesaic_platform platform;

/* The clock has 1 GHz: cycles are nanoseconds. */
static const uint64_t MS = 1000000, S = 1000000000;

static void begin(void) {
    fake_make(&fake);
    CHECK(moesaic_uio_open(&uio, &fake.config, &platform) == MOESAIC_OK);
}

static void end(void) {
    moesaic_uio_close(&uio);
    fake_drop(&fake);
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * S + (uint64_t)time.tv_nsec;
}

static void interrupt(uint32_t count) {
    CHECK(write(fake.peer, &count, sizeof(count)) == sizeof(count));
}

/* How often the interrupt has been let through since the last look. */
static int enabled(void) {
    uint32_t word;
    int times = 0;
    while (recv(fake.peer, &word, sizeof(word), MSG_DONTWAIT) == sizeof(word)) times += word == 1;
    return times;
}

static void wait_ends_in_time(void) {
    uint64_t waited = 0, start;
    begin();
    start = now();
    CHECK(platform.wait(&uio, 20 * MS, &waited) == 0);
    CHECK(now() - start >= 20 * MS && now() - start < 5 * S);
    CHECK(waited >= 20 * MS && waited < 5 * S);
    CHECK(enabled() == 1);
    start = now();
    CHECK(platform.wait(&uio, 1, &waited) == 0 && waited >= 1);
    CHECK(platform.wait(&uio, 0, &waited) == 0 && waited >= 1);
    CHECK(now() - start < 5 * S);
    end();
}

static void wait_counts_cycles_of_the_clock(void) {
    uint64_t waited = 0, start;
    begin();
    uio.clock_hz = 1000;
    start = now();
    CHECK(platform.wait(&uio, 20, &waited) == 0);
    CHECK(now() - start >= 20 * MS && waited >= 20 && waited < 5000);
    end();
}

static void interrupt_ends_the_wait(void) {
    uint64_t waited = 0, start;
    begin();
    interrupt(1);
    start = now();
    CHECK(platform.wait(&uio, 3600 * S, &waited) == 0);
    CHECK(now() - start < 5 * S && waited >= 1 && waited < 5 * S);
    /* Taken: the next wait is not ended by it. */
    CHECK(platform.wait(&uio, MS, &waited) == 0 && waited >= MS);
    CHECK(enabled() == 2);
    interrupt(2);
    CHECK(platform.wait(&uio, 0, &waited) == 0 && waited == 1); /* not 0 - 1 cycles */
    end();
}

static void interrupt_during_the_wait_ends_it(void) {
    uint64_t waited = 0;
    pid_t child;
    begin();
    child = fork();
    if (child == 0) {
        struct timespec pause = {0, 20000000};
        uint32_t count = 1;
        nanosleep(&pause, NULL);
        _exit(write(fake.peer, &count, sizeof(count)) != sizeof(count));
    }
    CHECK(platform.wait(&uio, UINT64_MAX, &waited) == 0); /* as long as there is, without overflow */
    CHECK(waited >= 1 && waited < 60 * S);
    CHECK(waitpid(child, NULL, 0) == child);
    end();
}

static void spurious_interrupts_end_waits_early(void) {
    uint64_t waited = 0;
    begin();
    for (uint32_t i = 0; i < 3; ++i) interrupt(i);
    for (int i = 0; i < 3; ++i)
        CHECK(platform.wait(&uio, S, &waited) == 0 && waited >= 1 && waited < S);
    CHECK(platform.wait(&uio, MS, &waited) == 0 && waited >= MS);
    end();
}

static void on_alarm(int number) {
    (void)number;
}

static void signal_ends_a_wait_early(void) {
    struct itimerval timer = {{0, 0}, {0, 20000}}, off = {{0, 0}, {0, 0}};
    uint64_t waited = 0;
    begin();
    signal(SIGALRM, on_alarm);
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    CHECK(platform.wait(&uio, 100 * S, &waited) == 0);
    CHECK(waited >= 1 && waited < 100 * S);
    CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
    end();
}

static void half_an_interrupt_fails(void) {
    uint64_t waited;
    begin();
    CHECK(write(fake.peer, "ab", 2) == 2);
    CHECK(platform.wait(&uio, S, &waited) != 0);
    CHECK(uio.error == EIO);
    end();
}

static void device_that_goes_fails(void) {
    uint64_t waited;
    begin();
    signal(SIGPIPE, SIG_IGN);
    close(fake.peer);
    CHECK(platform.wait(&uio, S, &waited) != 0);
    CHECK(uio.error == EPIPE && uio.failed != NULL);
    fake.peer = -1;
    end();
}

static void interrupts_come_by_the_device_itself(void) {
    uint64_t waited = 0;
    uint32_t first = 0;
    begin();
    moesaic_uio_close(&uio);
    fake.config.interrupt = NULL;
    CHECK(moesaic_uio_open(&uio, &fake.config, &platform) == MOESAIC_OK);
    CHECK(uio.interrupt == uio.device);
    CHECK(platform.wait(&uio, S, &waited) == 0 && waited < S); /* a file can always be read */
    CHECK(pread(uio.device, &first, sizeof(first), 0) == sizeof(first) && first == 1);
    end();
}

int main(void) {
    RUN(wait_ends_in_time);
    RUN(wait_counts_cycles_of_the_clock);
    RUN(interrupt_ends_the_wait);
    RUN(interrupt_during_the_wait_ends_it);
    RUN(spurious_interrupts_end_waits_early);
    RUN(signal_ends_a_wait_early);
    RUN(half_an_interrupt_fails);
    RUN(device_that_goes_fails);
    RUN(interrupts_come_by_the_device_itself);
    return check_result();
}
