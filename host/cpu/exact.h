/* The integer semantics of moesaic.spec.semantics for this machine's processor: what the device
 * `cpu` computes with. Same codes in, same codes out, bit for bit.
 *
 * Every function is compiled once per level of instructions (see level.h) and named NAME_LEVEL.
 * Rows are int16 whatever their codes are (int8, uint8 or int16); one code behind the last of a
 * buffer is read, and its value does not matter. Functions that need memory return 0, or 1
 * where there is none.
 *
 * Requantisation is floor(sum * factor + offset) in doubles, which is exact: spec/kernels.py says
 * why. Sums of products are int32; who fills the structures has shown that they fit.
 */
#ifndef EXACT_H
#define EXACT_H

#include <stddef.h>
#include <stdint.h>

enum { TILE = 64 };  /* outputs whose weights lie together */

typedef struct {
  int32_t inputs, outputs;
  const int16_t *weights;  /* [tiles][pairs of inputs][TILE][2], zeros behind both ends */
  const double *factor, *offset, *low, *high;  /* [tiles * TILE] */
} exact_linear;

typedef struct {
  int32_t channels, plain;
  int64_t epsilon;
  int32_t multiplier, shift;
  const int32_t *rsqrt;  /* RSQRT_TABLE */
} exact_norm;

typedef struct {
  exact_linear up, down;
  int32_t wide, paired;    /* hidden codes of 16 bits, which come first; pairs of columns */
  int32_t first, last;     /* narrow codes are codes[z - first], z clamped to first .. last */
  const uint8_t *codes;
  const int32_t *fine;     /* [1 << 18] by z, the lowest first: of wide and of paired */
  double factor;           /* of `fine` to codes */
  int32_t offset;          /* code of zero among narrow ones of pairs */
} exact_mlp;

typedef struct {
  exact_linear project, output;  /* query, key and value behind each other */
  int32_t heads, dim, value_dim, tokens;
  double softmax;                /* steps of 2**-7 octave per score */
  const int32_t *numerators;     /* with 8 fraction bits, by exponent */
  const int32_t *dither;         /* [tokens] */
  int32_t multiplier, shift;     /* times 1 / row sum: attended codes */
  const int32_t *reciprocal;     /* RECIPROCAL_TABLE */
  int32_t attended;              /* codes are -attended .. attended - 1 */
  int32_t wide_query;
  const int16_t *cosine, *sine;  /* [tokens][dim / 2], or NULL */
} exact_attention;

typedef struct {
  exact_linear gate;
  int32_t experts, top_k, renormalise, sigmoid;
  int32_t multiplier, shift;
  const int32_t *corrections;    /* [experts] */
  const int32_t *exp2, *reciprocal;
  const exact_mlp *mlps;
} exact_moe;

/* What formats.py and tables.py must agree with. */
enum {
  GUARD_BITS = 8,
  GATE_BITS = 15,
  ANGLE_BITS = 14,
  Z_BITS = 18,
  SIGMOID_BITS = 16,
  EXP2_BITS = 7,
  EXPONENT_LAST = 4095,
  DITHER_BITS = 8,
  RECIPROCAL_BITS = 8,
};

/* round_shift of semantics.py: value / 2**shift, rounded half up. */
static inline int64_t round_shift(int64_t value, int shift) {
  if (shift <= 0) return value;
  return ((value >> (shift > 64 ? 63 : shift - 1)) + 1) >> 1;
}

static inline int bit_length(int64_t value) {
  return value ? 64 - __builtin_clzll((unsigned long long)value) : 0;
}

/* 1 / value is the result times 2**(-16 - *t); 1 <= value < 2**32. */
static inline int64_t reciprocal_of(int64_t value, const int32_t *table, int *t) {
  *t = bit_length(value) - 1;
  int64_t f = (value << 16) >> *t;
  int64_t r0 = table[(f >> (16 - RECIPROCAL_BITS)) & ((1 << RECIPROCAL_BITS) - 1)];
  int64_t r = (r0 * ((1 << 17) - ((f * r0) >> 16))) >> 16;
  return r > 65535 ? 65535 : r;
}

static inline int32_t saturate16(int32_t value) {
  value = value < -32768 ? -32768 : value;
  return value > 32767 ? 32767 : value;
}

static inline int32_t saturate8(int32_t value) {
  value = value < -128 ? -128 : value;
  return value > 127 ? 127 : value;
}

#endif
