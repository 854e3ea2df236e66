/* Start of a unit test on rv32imac: no C library and no operating system in the program, but the
 * emulator of Linux programs around it, which prints and takes the exit code. */
#include <stddef.h>

int main(void);
long rv32_write(int file, const void *data, size_t bytes);
void rv32_main(void);

enum { WRITE = 64, EXIT_GROUP = 94 }; /* numbers of Linux's system calls */

static long call(long number, long a, long b, long c) {
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    register long a7 __asm__("a7") = number;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a1), "r"(a2), "r"(a7) : "memory");
    return a0;
}

long rv32_write(int file, const void *data, size_t bytes) {
    return call(WRITE, file, (long)data, (long)bytes);
}

void rv32_main(void) {
    call(EXIT_GROUP, main(), 0, 0);
    for (;;) {
    }
}

__asm__(
    ".globl _start\n"
    "_start:\n"
    "  .option push\n"
    "  .option norelax\n"
    "  la gp, __global_pointer$\n"
    "  .option pop\n"
    "  andi sp, sp, -16\n"
    "  call rv32_main\n");
