/* What check.h needs of stdio.h. */
#ifndef MOESAIC_STDIO_H
#define MOESAIC_STDIO_H

/* %s, %d and %u only. */
int printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
