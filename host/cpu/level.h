/* Levels of instructions: LEVEL is avx512, avx2 or plain, with the compiler's flags for it. */
#ifndef LEVEL_H
#define LEVEL_H

#include "exact.h"
#include "pool.h"

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define AT_LEVEL(name) JOIN(name, LEVEL)

enum {
  MOST_ROWS = 6,    /* that a tile's products are computed of at once */
  PIECE_ROWS = 24,  /* that a thread takes at a time */
};

/* Pieces of `rows` for the threads of a pool: small ones for several, one for a single one. */
static inline int rows_of_piece(const exact_pool *pool, int rows) {
  return exact_threads(pool) == 1 || rows < PIECE_ROWS ? rows : PIECE_ROWS;
}

static inline int pieces_of(int rows, int each) { return each ? (rows + each - 1) / each : 0; }

/* sums[row][output] of `rows` rows and a tile of weights. */
#define multiply AT_LEVEL(multiply)
void multiply(const int16_t *weights, int pairs, const int16_t *const *rows, int count,
              int32_t sums[][TILE]);

/* What becomes of a row's requantised tile; `outputs` of them count. */
typedef void (*exact_sink)(void *context, int row, int tile, const int32_t *values, int outputs);

/* All outputs of rows `from` .. `to` - 1: x + index[row] * stride, or x + row * stride without an
 * index. */
#define linear AT_LEVEL(linear)
void linear(const exact_linear *l, const int16_t *x, size_t stride, const int32_t *index, int from,
            int to, exact_sink sink, void *context);

/* The same of rows 0 .. `rows` - 1, by all threads of a pool. */
#define share_linear AT_LEVEL(share_linear)
void share_linear(exact_pool *pool, const exact_linear *l, const int16_t *x, size_t stride,
                  int rows, exact_sink sink, void *context);

/* Rows of addends, times Q15 weights or 1, on top of the rows of the stream of the same index. */
typedef struct {
  int16_t *stream;
  size_t stride;
  const int32_t *index;
  const int32_t *weights;
} exact_sum;

#define add_rows AT_LEVEL(add_rows)
void add_rows(void *context, int row, int tile, const int32_t *values, int outputs);

#endif
