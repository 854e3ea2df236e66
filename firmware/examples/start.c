/* Start of a bare-metal program: stack, zeroed .bss, main. For AArch64 and RISC-V. */
#include <string.h>

extern char __bss_start[], __bss_end[];
int main(void);
void start_in_c(void);

void start_in_c(void) {
    memset(__bss_start, 0, (size_t)(__bss_end - __bss_start));
    main();
    for (;;) {
    }
}

#if defined(__aarch64__)
__asm__(
    ".section .start, \"ax\"\n"
    ".globl _start\n"
    "_start:\n"
    "  adrp x0, __stack_top\n"
    "  add x0, x0, :lo12:__stack_top\n"
    "  mov sp, x0\n"
    "  b start_in_c\n");
#elif defined(__riscv)
__asm__(
    ".section .start, \"ax\"\n"
    ".globl _start\n"
    "_start:\n"
    "  .option push\n"
    "  .option norelax\n" /* gp must not be computed from itself */
    "  la gp, __global_pointer$\n"
    "  .option pop\n"
    "  la sp, __stack_top\n"
    "  j start_in_c\n");
#else
#error no start for this processor
#endif
