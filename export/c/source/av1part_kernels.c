/* Computes blocks, by each set of instructions that a machine may have: av1part_kernel.h once or twice for each. */
#include "av1part_internal.h"

#include <string.h>

static inline const float *beside(const struct beside *row, const float *slots, uint32_t i, int lanes,
                                  const float *otherwise)
{
    return row->at == NOWHERE ? otherwise : slots + (size_t)(row->at + i / row->div % row->mod) * (size_t)lanes;
}

/* Words of weights that a group of outputs with these runs has. */
static size_t weights_of(const uint32_t *runs)
{
    size_t steps = 0;
    for (uint32_t i = 0; i < runs[0]; i++)
        steps += runs[2 + 2 * i];
    return steps * TOGETHER;
}

static inline int same_runs(const uint32_t *runs, const uint32_t *others)
{
    return runs[0] == others[0] && !memcmp(runs, others, (1 + 2 * (size_t)runs[0]) * sizeof *runs);
}

#if defined(__GNUC__)
typedef float float4 __attribute__((vector_size(16), may_alias));
typedef int32_t int4 __attribute__((vector_size(16), may_alias));
#define V float4
#define I int4
#define BASE 4
/* Inlined, the loops that matter would share registers with what stands around them, and spill. */
#define ALONE __attribute__((noinline))
#define ALL(w) ((V){w, w, w, w})
#else /* the same text with single numbers for vectors */
#define V float
#define I int32_t
#define BASE 1
#define ALONE
#define ALL(w) (w)
#endif
#define W BASE
#define NAME(x) x##_base
#define TARGET
#if defined(__aarch64__)
#define OUTS 8
#else
#define OUTS 4
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
#include <arm_neon.h>
#define DOT(a, x, w) (int4) vusdotq_s32((int32x4_t)(a), (uint8x16_t)(x), vreinterpretq_s8_s32(vdupq_n_s32(w)))
#else
#define DOT(a, x, w)                                                                                                   \
    ((a) + (255 & (x)) * (int8_t)(w) + (((x) >> 8) & 255) * (int8_t)((w) >> 8) +                                       \
     (((x) >> 16) & 255) * (int8_t)((w) >> 16) + (((x) >> 24) & 255) * (int8_t)((w) >> 24))
#endif
#include "av1part_kernel.h"

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
/* No C expression becomes the one instruction that multiplies bytes: each set gets its intrinsic. */
#include <immintrin.h>
#define X86 1

typedef float float8 __attribute__((vector_size(32), may_alias));
typedef int32_t int8 __attribute__((vector_size(32), may_alias));
typedef int32_t word __attribute__((may_alias));
#define WITH_AVX2 __attribute__((target("avx2,fma")))
#define ALL_8(w) ((V){w, w, w, w, w, w, w, w})
#define DOT_AVX2(a, x, w) ((a) + (int8)_mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)))

#define NAME(x) x##_avx2
#define TARGET WITH_AVX2
#define V float8
#define I int8
#define W 8
#define ALL ALL_8
#define OUTS 4
#define DOT(a, x, w) DOT_AVX2(a, (__m256i)(x), _mm256_set1_epi32(w))
#include "av1part_kernel.h"

#define FEW
#define NAME(x) x##_few_avx2
#define TARGET WITH_AVX2
#define V float8
#define I int8
#define W 8
#define ALL ALL_8
#define OUTS 4
#define DOT(a, x, w) DOT_AVX2(a, _mm256_set1_epi32(x), (__m256i)(w))
#include "av1part_kernel.h"

typedef float float16 __attribute__((vector_size(64), may_alias));
typedef int32_t int16 __attribute__((vector_size(64), may_alias));
#define WITH_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")))
#define WITH_VNNI __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define ALL_16(w) ((V){w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w})
#define BOTH(v, w)                                                                                                     \
    _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)(v))),                 \
                       _mm256_loadu_si256((const __m256i *)(const void *)(w)), 1)
#define DOT_AVX512(a, x, w) ((a) + (int16)_mm512_madd_epi16(_mm512_maddubs_epi16(x, w), _mm512_set1_epi16(1)))

#define NAME(x) x##_avx512
#define TARGET WITH_AVX512
#define V float16
#define I int16
#define W 16
#define ALL ALL_16
#define OUTS 8
#define DOT(a, x, w) DOT_AVX512(a, (__m512i)(x), _mm512_set1_epi32(w))
#include "av1part_kernel.h"

#define FEW
#define NAME(x) x##_few_avx512
#define TARGET WITH_AVX512
#define V float16
#define I int16
#define W 16
#define ALL ALL_16
#define OUTS 8
#define DOT(a, x, w) DOT_AVX512(a, _mm512_set1_epi32(x), (__m512i)(w))
#include "av1part_kernel.h"

#define NAME(x) x##_avx512vnni
#define TARGET WITH_VNNI
#define V float16
#define I int16
#define W 16
#define ALL ALL_16
#define OUTS 8
#define DOT(a, x, w) (int16) _mm512_dpbusd_epi32((__m512i)(a), (__m512i)(x), _mm512_set1_epi32(w))
#include "av1part_kernel.h"

#define FEW
#define NAME(x) x##_few_avx512vnni
#define TARGET WITH_VNNI
#define V float16
#define I int16
#define W 16
#define ALL ALL_16
#define OUTS 8
#define DOT(a, x, w) (int16) _mm512_dpbusd_epi32((__m512i)(a), _mm512_set1_epi32(x), (__m512i)(w))
#include "av1part_kernel.h"
#endif

#define ANY SIZE_MAX, SIZE_MAX
static const struct kernel KERNELS[] = {
#if defined(X86)
    {"avx512vnni", {{4, run_few_avx2, {4, 0}}, {8, run_few_avx512vnni, {24, 16}}, {48, run_avx512vnni, {ANY}}}},
    {"avx512", {{4, run_few_avx2, {4, 4}}, {8, run_few_avx512, {24, 24}}, {48, run_avx512, {ANY}}}},
    {"avx2", {{4, run_few_avx2, {16, 16}}, {24, run_avx2, {ANY}}}},
#endif
    {"base", {{3 * BASE, run_base, {ANY}}}},
};

static int runs_here(const char *name)
{
#if defined(X86)
    if (!strcmp(name, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strcmp(name, "base"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && runs_here("avx2") &&
               (!strcmp(name, "avx512") || __builtin_cpu_supports("avx512vnni"));
#endif
    return !strcmp(name, "base");
}

const struct kernel *av1part_kernel(const char *name)
{
    for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++)
        if ((!name || !strcmp(KERNELS[i].name, name)) && runs_here(KERNELS[i].name))
            return &KERNELS[i];
    return NULL;
}
