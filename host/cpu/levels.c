/* Which levels this processor has, and what the formats are that the code was written for. */
#include "exact.h"

const int32_t exact_formats[] = {GUARD_BITS, GATE_BITS,     ANGLE_BITS,  Z_BITS,
                                 SIGMOID_BITS, EXP2_BITS,     EXPONENT_LAST, DITHER_BITS,
                                 RECIPROCAL_BITS};

/* Sizes of the structures, so that another definition of them is noticed. */
const int32_t exact_sizes[] = {sizeof(exact_linear), sizeof(exact_norm), sizeof(exact_mlp),
                               sizeof(exact_attention), sizeof(exact_moe)};

/* The best one first, with spaces between. */
const char *exact_levels(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    return "avx512 avx2 plain";
  if (has_avx2) return "avx2 plain";
#endif
  return "plain";
}
