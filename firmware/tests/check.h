/* A unit test is a program: CHECK counts what does not hold, RUN names what it runs. */
#ifndef MOESAIC_CHECK_H
#define MOESAIC_CHECK_H

#include <stdio.h>

static int check_failures, check_count;

#define CHECK(condition)                                                         \
    do {                                                                         \
        ++check_count;                                                           \
        if (!(condition)) {                                                      \
            ++check_failures;                                                    \
            printf("%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                        \
    } while (0)

#define RUN(test)                                    \
    do {                                             \
        int before = check_failures;                 \
        test();                                      \
        printf("%s %s\n", check_failures == before ? "ok  " : "FAIL", #test); \
    } while (0)

static int check_result(void) {
    printf("%d checks, %d failed\n", check_count, check_failures);
    return check_failures != 0 || check_count == 0;
}

#endif
