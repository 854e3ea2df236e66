/* LayerNorm of rows of the stream, and rows as they are in another step. */
#include "level.h"

#include <math.h>

/* 1 / sqrt(value) is the result times 2**(-16 - *e); 1 <= value < 2**62. */
static int64_t reciprocal_sqrt(int64_t value, const int32_t *table, int *e) {
  *e = (bit_length(value) - 1) >> 1;
  int64_t f = *e >= 8 ? value >> (2 * *e - 16) : value << (16 - 2 * *e);
  int64_t r0 = table[f >> 9];
  int64_t p = (f * ((r0 * r0) >> 16)) >> 16;
  int64_t r = (r0 * ((3 << 16) - p)) >> 17;
  return r > 65535 ? 65535 : r;
}

typedef struct {
  const exact_norm *n;
  const int16_t *x;
  int rows, each;
  int16_t *narrow, *wide;
} job;

static void one(const exact_norm *n, const int16_t *x, int16_t *narrow, int16_t *wide) {
  int channels = n->channels;
  double scale = channels, mean = 0, factor;
  if (n->plain) {
    factor = ldexp(n->multiplier, -n->shift);
  } else {
    int64_t total = 0, square = 0;
    for (int j = 0; j < channels; j++) {
      int32_t value = x[j];
      total += value;
      square += (int64_t)(value * value);
    }
    int64_t variance = channels * square - total * total + n->epsilon;
    int e;
    int64_t r = reciprocal_sqrt(variance < 1 ? 1 : variance, n->rsqrt, &e);
    factor = ldexp((double)round_shift(r * n->multiplier, 16), -(e + n->shift));
    mean = (double)total;
  }
  for (int j = 0; j < channels; j++) {
    double value = floor((x[j] * scale - mean) * factor + 0.5);
    value = value < -32768.0 ? -32768.0 : value;
    value = value > 32767.0 ? 32767.0 : value;
    int32_t code = (int32_t)value;
    wide[j] = (int16_t)code;
    code = (code + 128) >> 8;
    narrow[j] = (int16_t)(code > 127 ? 127 : code);
  }
}

static void piece(void *context, int number) {
  job *j = context;
  size_t channels = (size_t)j->n->channels;
  int from = number * j->each, rest = j->rows - from;
  int to = from + (rest < j->each ? rest : j->each);
  for (int row = from; row < to; row++) {
    size_t at = row * channels;
    one(j->n, j->x + at, j->narrow + at, j->wide + at);
  }
}

/* Rows [rows][channels] to int8 codes and to int16 ones. */
void AT_LEVEL(norm)(exact_pool *pool, const exact_norm *n, const int16_t *x, int32_t rows,
                    int16_t *narrow, int16_t *wide) {
  job j = {n, x, rows, rows_of_piece(pool, rows), narrow, wide};
  exact_share(pool, piece, &j, pieces_of(rows, j.each));
}
