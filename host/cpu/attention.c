/* Attention of all heads, a frame at a time. */
#include "level.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  int32_t *rows;
  size_t stride;
} values_to;

static void keep(void *context, int row, int from, const int32_t *values, int outputs) {
  const values_to *to = context;
  int32_t *at = to->rows + row * to->stride + from;
  for (int j = 0; j < outputs; j++) at[j] = values[j];
}

/* semantics.rotate of a head's query or key, in place. */
static void rotate(int32_t *x, int pairs, const int16_t *cosine, const int16_t *sine, int wide) {
  for (int j = 0; j < pairs; j++) {
    int64_t first = x[j], second = x[pairs + j];
    int32_t a = (int32_t)(round_shift(first * cosine[j], ANGLE_BITS) +
                          round_shift(second * -sine[j], ANGLE_BITS));
    int32_t b = (int32_t)(round_shift(first * sine[j], ANGLE_BITS) +
                          round_shift(second * cosine[j], ANGLE_BITS));
    x[j] = wide ? saturate16(a) : saturate8((a + 128) >> 8);
    x[pairs + j] = wide ? saturate16(b) : saturate8((b + 128) >> 8);
  }
}

/* Numerators of a row of scores, int16, and their sum. */
static int64_t softmax(const exact_attention *a, const int32_t *scores, int16_t *numerators) {
  int32_t largest = scores[0];
  for (int j = 1; j < a->tokens; j++) largest = scores[j] > largest ? scores[j] : largest;
  int32_t sum = 0;
  for (int j = 0; j < a->tokens; j++) {
    double steps = floor(((double)largest - scores[j]) * a->softmax + 0.5);
    int32_t exponent = (int32_t)(steps > EXPONENT_LAST ? EXPONENT_LAST : steps);
    int32_t value = (a->numerators[exponent] + a->dither[j]) >> DITHER_BITS;
    numerators[j] = (int16_t)value;
    sum += value;
  }
  return sum;
}

/* What the attention of one head needs. */
typedef struct {
  int16_t *query;      /* [tokens][dim, even] */
  int16_t *keys;       /* as weights: inputs are dimensions, outputs tokens */
  int16_t *values;     /* as weights: inputs are tokens, outputs dimensions */
  int32_t *scores;     /* [MOST_ROWS][tokens in tiles] */
  int16_t *numerators; /* [MOST_ROWS][tokens, even] */
} room;

/* A frame's. */
typedef struct {
  int32_t *projected; /* [tokens][query, key, value] */
  int16_t *attended;  /* [tokens][heads * value_dim] */
} rows_of_frame;

static size_t tiles_of(int outputs) { return (size_t)(outputs + TILE - 1) / TILE; }

/* A head's query, key and value from `projected`; rests of pairs and tiles stay zeros. */
static void unpack(const exact_attention *a, int head, int32_t *projected, room *m) {
  int dim = a->dim, width = a->heads * dim, value_dim = a->value_dim;
  size_t stride = (size_t)(2 * width + a->heads * value_dim);
  size_t key_pairs = (size_t)(dim + 1) / 2, value_pairs = (size_t)(a->tokens + 1) / 2;
  for (int token = 0; token < a->tokens; token++) {
    int32_t *query = projected + token * stride + head * dim, *key = query + width;
    const int32_t *value = projected + token * stride + 2 * width + head * value_dim;
    if (a->cosine) {
      const int16_t *cosine = a->cosine + (size_t)token * (dim / 2);
      const int16_t *sine = a->sine + (size_t)token * (dim / 2);
      rotate(query, dim / 2, cosine, sine, a->wide_query);
      rotate(key, dim / 2, cosine, sine, 0);
    }
    int16_t *to = m->query + token * 2 * key_pairs;
    for (int j = 0; j < dim; j++) to[j] = (int16_t)query[j];
    to = m->keys + ((size_t)(token / TILE) * key_pairs * TILE + token % TILE) * 2;
    for (int j = 0; j < dim; j++) to[(size_t)(j / 2) * TILE * 2 + j % 2] = (int16_t)key[j];
    for (int j = 0; j < value_dim; j++) {
      size_t pair = (size_t)(j / TILE) * value_pairs + (size_t)token / 2;
      m->values[(pair * TILE + j % TILE) * 2 + token % 2] = (int16_t)value[j];
    }
  }
}

/* Attended codes of `count` tokens from `token` on. */
static void attend(const exact_attention *a, int head, int token, int count, room *m,
                   int16_t *attended) {
  int key_pairs = (a->dim + 1) / 2, value_pairs = (a->tokens + 1) / 2;
  size_t columns = tiles_of(a->tokens) * TILE;
  const int16_t *rows[MOST_ROWS];
  int32_t sums[MOST_ROWS][TILE];
  double scale[MOST_ROWS];
  for (int r = 0; r < count; r++) rows[r] = m->query + (size_t)(token + r) * 2 * key_pairs;
  for (size_t tile = 0; tile < tiles_of(a->tokens); tile++) {
    multiply(m->keys + tile * key_pairs * TILE * 2, key_pairs, rows, count, sums);
    for (int r = 0; r < count; r++)
      memcpy(m->scores + r * columns + tile * TILE, sums[r], sizeof sums[r]);
  }
  for (int r = 0; r < count; r++) {
    int16_t *numerators = m->numerators + (size_t)r * 2 * value_pairs;
    int64_t sum = softmax(a, m->scores + r * columns, numerators);
    int t;
    int64_t reciprocal = reciprocal_of(sum, a->reciprocal, &t);
    scale[r] = ldexp((double)round_shift(reciprocal * a->multiplier, 16), -(t + a->shift));
    rows[r] = numerators;
  }
  double low = -a->attended, high = a->attended - 1;
  for (size_t tile = 0; tile < tiles_of(a->value_dim); tile++) {
    multiply(m->values + tile * value_pairs * TILE * 2, value_pairs, rows, count, sums);
    int from = (int)tile * TILE, rest = a->value_dim - from, outputs = rest < TILE ? rest : TILE;
    for (int r = 0; r < count; r++) {
      int16_t *to = attended + ((size_t)(token + r) * a->heads + head) * a->value_dim + from;
      for (int j = 0; j < outputs; j++) {
        double value = floor(sums[r][j] * scale[r] + 0.5);
        value = value < low ? low : value;
        to[j] = (int16_t)(value > high ? high : value);
      }
    }
  }
}

typedef struct {
  const exact_attention *a;
  const int16_t *x;
  int16_t *stream;
  exact_pool *pool;
  const rows_of_frame *frame;
  int failed;
} job;

static void head_piece(void *context, int head) {
  job *j = context;
  const exact_attention *a = j->a;
  size_t tokens = (size_t)a->tokens, dims = (size_t)(a->dim + 1) / 2 * 2;
  size_t even = (tokens + 1) / 2 * 2;
  room m = {
      calloc(tokens * dims, sizeof(int16_t)),
      calloc(tiles_of(a->tokens) * dims * TILE, sizeof(int16_t)),
      calloc(tiles_of(a->value_dim) * even * TILE, sizeof(int16_t)),
      malloc(MOST_ROWS * tiles_of(a->tokens) * TILE * sizeof(int32_t)),
      calloc(MOST_ROWS * even, sizeof(int16_t)),
  };
  if (m.query && m.keys && m.values && m.scores && m.numerators) {
    unpack(a, head, j->frame->projected, &m);
    for (int token = 0; token < a->tokens; token += MOST_ROWS) {
      int rest = a->tokens - token;
      attend(a, head, token, rest < MOST_ROWS ? rest : MOST_ROWS, &m, j->frame->attended);
    }
  } else {
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
  }
  free(m.query);
  free(m.keys);
  free(m.values);
  free(m.scores);
  free(m.numerators);
}

static void frame_piece(void *context, int number) {
  job mine = *(job *)context;
  const exact_attention *a = mine.a;
  size_t tokens = (size_t)a->tokens, channels = (size_t)a->project.inputs;
  size_t attended = (size_t)a->heads * a->value_dim, projected = (size_t)a->project.outputs;
  rows_of_frame frame = {
      malloc(tokens * projected * sizeof(int32_t)),
      calloc(tokens * attended + 1, sizeof(int16_t)),
  };
  mine.frame = &frame;
  mine.failed = !frame.projected || !frame.attended;
  if (!mine.failed) {
    values_to to = {frame.projected, projected};
    const int16_t *x = mine.x + number * tokens * channels;
    share_linear(mine.pool, &a->project, x, channels, a->tokens, keep, &to);
    exact_share(mine.pool, head_piece, &mine, a->heads);
  }
  if (!mine.failed) {
    exact_sum sum = {mine.stream + number * tokens * channels, channels, NULL, NULL};
    share_linear(mine.pool, &a->output, frame.attended, attended, a->tokens, add_rows, &sum);
  }
  free(frame.projected);
  free(frame.attended);
  if (mine.failed) __atomic_store_n(&((job *)context)->failed, 1, __ATOMIC_RELAXED);
}

/* Adds to the stream [frames][tokens][channels] what attention makes of the rows x. Threads take
 * whole frames where there are enough, and share each of them where there are not. */
int AT_LEVEL(attention)(exact_pool *pool, const exact_attention *a, const int16_t *x,
                        int32_t frames, int16_t *stream) {
  int enough = frames >= exact_threads(pool);
  job j = {a, x, stream, enough ? NULL : pool, NULL, 0};
  exact_share(enough ? pool : NULL, frame_piece, &j, frames);
  return j.failed;
}
