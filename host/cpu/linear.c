/* Products of rows and weights, and what they are requantised to. */
#include "level.h"

#include <math.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

static inline int32_t pair_at(const int16_t *row, int pair) {
  int32_t both;
  memcpy(&both, row + 2 * pair, sizeof both);
  return both;
}

#if defined(__AVX512VNNI__)

static inline __attribute__((always_inline)) void some(const int16_t *weights, int pairs,
                                                       const int16_t *const *rows, const int count,
                                                       int32_t sums[][TILE]) {
  __m512i acc[MOST_ROWS][4];
  for (int r = 0; r < count; r++)
    for (int v = 0; v < 4; v++) acc[r][v] = _mm512_setzero_si512();
  for (int k = 0; k < pairs; k++) {
    __m512i w[4];
    for (int v = 0; v < 4; v++) w[v] = _mm512_loadu_si512(weights + (k * TILE + 16 * v) * 2);
    for (int r = 0; r < count; r++) {
      __m512i x = _mm512_set1_epi32(pair_at(rows[r], k));
      for (int v = 0; v < 4; v++) acc[r][v] = _mm512_dpwssd_epi32(acc[r][v], x, w[v]);
    }
  }
  for (int r = 0; r < count; r++)
    for (int v = 0; v < 4; v++) _mm512_storeu_si512(sums[r] + 16 * v, acc[r][v]);
}

#elif defined(__AVX2__)

static inline __attribute__((always_inline)) void some(const int16_t *weights, int pairs,
                                                       const int16_t *const *rows, const int count,
                                                       int32_t sums[][TILE]) {
  for (int part = 0; part < TILE; part += 16) {
    __m256i acc[MOST_ROWS][2];
    for (int r = 0; r < count; r++) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    for (int k = 0; k < pairs; k++) {
      const int16_t *at = weights + (k * TILE + part) * 2;
      __m256i low = _mm256_loadu_si256((const __m256i *)at);
      __m256i high = _mm256_loadu_si256((const __m256i *)(at + 16));
      for (int r = 0; r < count; r++) {
        __m256i x = _mm256_set1_epi32(pair_at(rows[r], k));
        acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(x, low));
        acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(x, high));
      }
    }
    for (int r = 0; r < count; r++) {
      _mm256_storeu_si256((__m256i *)(sums[r] + part), acc[r][0]);
      _mm256_storeu_si256((__m256i *)(sums[r] + part + 8), acc[r][1]);
    }
  }
}

#else

static inline void some(const int16_t *weights, int pairs, const int16_t *const *rows,
                        const int count, int32_t sums[][TILE]) {
  for (int r = 0; r < count; r++) {
    memset(sums[r], 0, sizeof sums[r]);
    for (int k = 0; k < pairs; k++) {
      const int16_t *at = weights + k * TILE * 2;
      int32_t first = rows[r][2 * k], second = rows[r][2 * k + 1];
      for (int j = 0; j < TILE; j++) sums[r][j] += first * at[2 * j] + second * at[2 * j + 1];
    }
  }
}

#endif

void multiply(const int16_t *weights, int pairs, const int16_t *const *rows, int count,
              int32_t sums[][TILE]) {
  switch (count) {  /* loops of known lengths keep the sums in registers */
    case 1: some(weights, pairs, rows, 1, sums); break;
    case 2: some(weights, pairs, rows, 2, sums); break;
    case 3: some(weights, pairs, rows, 3, sums); break;
    case 4: some(weights, pairs, rows, 4, sums); break;
    case 5: some(weights, pairs, rows, 5, sums); break;
    default: some(weights, pairs, rows, 6, sums); break;
  }
}

static inline void requantise(int32_t *sums, const exact_linear *l, int from) {
  const double *f = l->factor + from, *o = l->offset + from, *lo = l->low + from,
               *hi = l->high + from;
  for (int j = 0; j < TILE; j++) {
    double value = floor(sums[j] * f[j] + o[j]);
    value = value < lo[j] ? lo[j] : value;
    value = value > hi[j] ? hi[j] : value;
    sums[j] = (int32_t)value;
  }
}

void linear(const exact_linear *l, const int16_t *x, size_t stride, const int32_t *index, int from,
            int to, exact_sink sink, void *context) {
  int pairs = (l->inputs + 1) / 2;
  int32_t sums[MOST_ROWS][TILE];
  for (int tile = 0; tile * TILE < l->outputs; tile++) {
    const int16_t *weights = l->weights + (size_t)tile * pairs * TILE * 2;
    int outputs = l->outputs - tile * TILE < TILE ? l->outputs - tile * TILE : TILE;
    for (int row = from; row < to; row += MOST_ROWS) {
      const int16_t *at[MOST_ROWS];
      int count = to - row < MOST_ROWS ? to - row : MOST_ROWS;
      for (int r = 0; r < count; r++) at[r] = x + (index ? index[row + r] : row + r) * stride;
      multiply(weights, pairs, at, count, sums);
      for (int r = 0; r < count; r++) {
        requantise(sums[r], l, tile * TILE);
        sink(context, row + r, tile * TILE, sums[r], outputs);
      }
    }
  }
}

typedef struct {
  const exact_linear *l;
  const int16_t *x;
  size_t stride;
  int rows, each;
  exact_sink sink;
  void *context;
} job;

static void piece(void *context, int number) {
  job *j = context;
  int from = number * j->each, rest = j->rows - from;
  linear(j->l, j->x, j->stride, NULL, from, from + (rest < j->each ? rest : j->each), j->sink,
         j->context);
}

void share_linear(exact_pool *pool, const exact_linear *l, const int16_t *x, size_t stride,
                  int rows, exact_sink sink, void *context) {
  job j = {l, x, stride, rows, rows_of_piece(pool, rows), sink, context};
  exact_share(pool, piece, &j, pieces_of(rows, j.each));
}

void add_rows(void *context, int row, int from, const int32_t *values, int outputs) {
  const exact_sum *sum = context;
  int16_t *at = sum->stream + (sum->index ? sum->index[row] : row) * sum->stride + from;
  if (!sum->weights) {
    for (int j = 0; j < outputs; j++)
      at[j] = (int16_t)saturate16(at[j] + ((values[j] + (1 << (GUARD_BITS - 1))) >> GUARD_BITS));
    return;
  }
  double weight = ldexp(sum->weights[row], -(GATE_BITS + GUARD_BITS));
  for (int j = 0; j < outputs; j++)
    at[j] = (int16_t)saturate16(at[j] + (int32_t)floor(values[j] * weight + 0.5));
}

/* Adds to all rows of a stream what a linear layer makes of x. */
void AT_LEVEL(add)(exact_pool *pool, const exact_linear *l, const int16_t *x, int32_t rows,
                   int16_t *stream) {
  exact_sum sum = {stream, (size_t)l->outputs, NULL, NULL};
  share_linear(pool, l, x, (size_t)l->inputs, rows, add_rows, &sum);
}

typedef struct {
  int16_t *rows;
  size_t stride;
} codes_to;

static void keep(void *context, int row, int from, const int32_t *values, int outputs) {
  codes_to *to = context;
  int16_t *at = to->rows + row * to->stride + from;
  for (int j = 0; j < outputs; j++) at[j] = (int16_t)values[j];
}

/* Codes [rows][outputs] of a linear layer. */
void AT_LEVEL(codes)(exact_pool *pool, const exact_linear *l, const int16_t *x, int32_t rows,
                     int16_t *out) {
  codes_to to = {out, (size_t)l->outputs};
  share_linear(pool, l, x, (size_t)l->inputs, rows, keep, &to);
}
