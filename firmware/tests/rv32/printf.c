/* printf for unit tests without a C library: writes to standard output of the emulator. */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

long rv32_write(int file, const void *data, size_t bytes); /* start.c */

static void put(const char *text) {
    size_t bytes = 0;
    while (text[bytes]) ++bytes;
    rv32_write(1, text, bytes);
}

static void put_number(unsigned value) {
    char digits[12], *p = digits + sizeof(digits) - 1;
    *p = 0;
    do *--p = (char)('0' + value % 10);
    while (value /= 10);
    put(p);
}

int printf(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    for (; *format; ++format) {
        char kind = *format == '%' && format[1] ? *++format : 0;
        if (kind == 's') {
            put(va_arg(arguments, const char *));
        } else if (kind == 'd' || kind == 'u') {
            int value = va_arg(arguments, int);
            if (kind == 'd' && value < 0) put("-");
            put_number(kind == 'd' && value < 0 ? 0u - (unsigned)value : (unsigned)value);
        } else {
            rv32_write(1, format, 1);
        }
    }
    va_end(arguments);
    return 0;
}
