/* Up, activation, down; and which tokens go to which of several of them. */
#include "level.h"

#include <math.h>
#include <stdlib.h>

enum { BLOCK = 48 };  /* rows whose hidden codes are there at a time */

typedef struct {
  const exact_mlp *mlp;
  int16_t *hidden;
  size_t stride;
} narrow_to;

static void look_up(void *context, int row, int from, const int32_t *z, int outputs) {
  const narrow_to *to = context;
  const uint8_t *codes = to->mlp->codes;
  int first = to->mlp->first;
  int16_t *at = to->hidden + row * to->stride + from;
  for (int j = 0; j < outputs; j++) at[j] = codes[z[j] - first];
}

typedef struct {
  int32_t *rows;
  size_t stride;
} values_to;

static void keep(void *context, int row, int from, const int32_t *values, int outputs) {
  const values_to *to = context;
  int32_t *at = to->rows + row * to->stride + from;
  for (int j = 0; j < outputs; j++) at[j] = values[j];
}

static inline int16_t scaled(double value, double factor, double offset, double low, double high) {
  value = floor(value * factor + offset);
  value = value < low ? low : value;
  return (int16_t)(value > high ? high : value);
}

/* Hidden codes of one row of z, where not all are narrow and single. */
static void activate(const exact_mlp *m, const int32_t *z, int16_t *hidden) {
  int count = m->down.inputs;
  const int32_t *fine = m->fine + (1 << (Z_BITS - 1));
  for (int j = 0; j < count; j++) {
    double value = j < m->wide || m->paired ? fine[z[j]] : 0;
    if (m->paired) value *= z[count + j];
    if (j < m->wide) {
      hidden[j] = scaled(value, m->factor, 0.5, -32768, 32767);
    } else if (m->paired) {
      hidden[j] = scaled(value, m->factor, m->offset + 0.5, 0, 255);
    } else {
      int32_t at = z[j] < m->first ? m->first : z[j];
      hidden[j] = m->codes[(at > m->last ? m->last : at) - m->first];
    }
  }
}

/* Adds to `rows` rows of the stream what a perceptron makes of those of x. */
static int mlp(const exact_mlp *m, const int16_t *x, const int32_t *index, int rows,
               const int32_t *weights, int16_t *stream) {
  int values = m->up.outputs, narrow = !m->wide && !m->paired;
  size_t width = (size_t)m->down.inputs, channels = (size_t)m->down.outputs;
  int block = rows < BLOCK ? rows : BLOCK;
  int16_t *hidden = calloc(block * width + 1, sizeof *hidden);
  int32_t *z = narrow ? NULL : malloc((size_t)block * values * sizeof *z);
  if (!hidden || (!narrow && !z)) {
    free(hidden);
    free(z);
    return 1;
  }
  for (int row = 0; row < rows; row += block) {
    int count = rows - row < block ? rows - row : block;
    const int32_t *mine = index ? index + row : NULL;
    size_t start = index ? 0 : row * channels;
    if (narrow) {
      narrow_to to = {m, hidden, width};
      linear(&m->up, x + start, channels, mine, 0, count, look_up, &to);
    } else {
      values_to to = {z, (size_t)values};
      linear(&m->up, x + start, channels, mine, 0, count, keep, &to);
      for (int r = 0; r < count; r++) activate(m, z + (size_t)r * values, hidden + r * width);
    }
    exact_sum sum = {stream + start, channels, mine, weights ? weights + row : NULL};
    linear(&m->down, hidden, width, NULL, 0, count, add_rows, &sum);
  }
  free(hidden);
  free(z);
  return 0;
}

typedef struct {
  const exact_mlp *m;
  const int16_t *x;
  const int32_t *index;
  int rows, each;
  int16_t *stream;
  int failed;
} dense_job;

static void dense_piece(void *context, int number) {
  dense_job *j = context;
  int from = number * j->each, rest = j->rows - from, rows = rest < j->each ? rest : j->each;
  size_t start = j->index ? 0 : from * (size_t)j->m->down.outputs;
  if (mlp(j->m, j->x + start, j->index ? j->index + from : NULL, rows, NULL, j->stream + start))
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
}

/* A perceptron of the rows of `index`, or of the first `rows` ones, added to the stream. */
int AT_LEVEL(dense)(exact_pool *pool, const exact_mlp *m, const int16_t *x, const int32_t *index,
                    int32_t rows, int16_t *stream) {
  dense_job j = {m, x, index, rows, rows_of_piece(pool, rows), stream, 0};
  exact_share(pool, dense_piece, &j, pieces_of(rows, j.each));
  return j.failed;
}

static int64_t power_of(int64_t steps, const int32_t *exp2) {
  int exponent = steps > EXPONENT_LAST ? EXPONENT_LAST : (int)steps;
  return round_shift(exp2[exponent & ((1 << EXP2_BITS) - 1)], exponent >> EXP2_BITS);
}

static int64_t sigmoid_of(const exact_moe *m, int64_t logit) {
  int64_t power = power_of(round_shift(llabs(logit) * m->multiplier, m->shift), m->exp2);
  int64_t one = m->exp2[0];
  int t;
  int64_t r = reciprocal_of(one + power, m->reciprocal, &t);
  int64_t value = round_shift((logit < 0 ? power : one) * r, t + 16 - SIGMOID_BITS);
  value = value < 1 ? 1 : value;
  return value > (1 << SIGMOID_BITS) - 1 ? (1 << SIGMOID_BITS) - 1 : value;
}

/* Weights [experts] of one token, Q15, 0 for those not chosen, whose chosen flag is 0. */
static void route(const exact_moe *m, const int32_t *logits, int32_t *weights, int64_t *scores,
                  int64_t *keys) {
  int64_t total = 0, largest = logits[0];
  for (int e = 1; e < m->experts; e++) largest = logits[e] > largest ? logits[e] : largest;
  for (int e = 0; e < m->experts; e++) {
    weights[e] = -1;
    if (m->sigmoid) {
      scores[e] = sigmoid_of(m, logits[e]);
      keys[e] = m->corrections ? scores[e] + m->corrections[e] : logits[e];
    } else {
      scores[e] = power_of(round_shift((largest - logits[e]) * m->multiplier, m->shift), m->exp2);
      keys[e] = logits[e];
    }
    total += scores[e];
  }
  int64_t chosen = 0;
  for (int k = 0; k < m->top_k; k++) {
    int best = -1;  /* of equals the first one */
    for (int e = 0; e < m->experts; e++)
      if (weights[e] < 0 && (best < 0 || keys[e] > keys[best])) best = e;
    weights[best] = 0;
    chosen += scores[best];
  }
  if (m->renormalise) total = chosen;
  else if (m->sigmoid) total = 1 << SIGMOID_BITS;
  int t;
  int64_t r = reciprocal_of(total, m->reciprocal, &t);
  for (int e = 0; e < m->experts; e++) {
    if (weights[e] < 0) continue;
    int64_t weight = round_shift(scores[e] * r, t + 1);
    weights[e] = weight > 1 << GATE_BITS ? 1 << GATE_BITS : (int32_t)weight;
  }
}

/* All experts in ascending order, each on its tokens among `rows`. */
static int moe(const exact_moe *m, const int16_t *wide, const int16_t *x, int rows,
               int16_t *stream) {
  size_t experts = (size_t)m->experts, channels = (size_t)m->gate.inputs;
  int32_t *values = malloc(2 * experts * rows * sizeof *values);
  int32_t *lists = malloc(2 * (size_t)rows * sizeof *lists);
  int64_t *scores = malloc(2 * experts * sizeof *scores);
  int failed = !values || !lists || !scores;
  if (!failed) {
    int32_t *weights = values + experts * rows;
    values_to to = {values, experts};
    linear(&m->gate, wide, channels, NULL, 0, rows, keep, &to);
    for (int row = 0; row < rows; row++)
      route(m, values + row * experts, weights + row * experts, scores, scores + experts);
    for (size_t e = 0; e < experts && !failed; e++) {
      int count = 0;
      for (int row = 0; row < rows; row++) {
        int32_t weight = weights[row * experts + e];
        if (weight < 0) continue;
        lists[count] = row;
        lists[rows + count++] = weight;
      }
      if (count) failed = mlp(m->mlps + e, x, lists, count, lists + rows, stream);
    }
  }
  free(values);
  free(lists);
  free(scores);
  return failed;
}

typedef struct {
  const exact_moe *m;
  const int16_t *wide, *x;
  int rows, each;
  int16_t *stream;
  int failed;
} moe_job;

static void moe_piece(void *context, int number) {
  moe_job *j = context;
  int from = number * j->each, rest = j->rows - from, rows = rest < j->each ? rest : j->each;
  size_t start = from * (size_t)j->m->gate.inputs;
  if (moe(j->m, j->wide + start, j->x + start, rows, j->stream + start))
    __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
}

/* A mixture of experts, added to the stream: the gate reads `wide`, experts read x. Every piece
 * reads all experts' weights, so there are as many as threads. */
int AT_LEVEL(moe)(exact_pool *pool, const exact_moe *m, const int16_t *wide, const int16_t *x,
                  int32_t rows, int16_t *stream) {
  int threads = exact_threads(pool);
  moe_job j = {m, wide, x, rows, (rows + threads - 1) / threads, stream, 0};
  exact_share(pool, moe_piece, &j, pieces_of(rows, j.each));
  return j.failed;
}
