/* av1part: runs the blob that `cli.py export --c` writes; av1part.h documents what is called, av1part_kernel.h how a
 * batch of blocks is computed, av1part_plane.h what stands around it. Compile with -O3 -ffp-contract=fast: without the
 * latter GCC keeps to -std=c99's word and multiplies and adds in two steps. */
#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200112L
#define MAPS_FILES 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif
#include "av1part.h"
#include "av1part_plane.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOWHERE 0xFFFFFFFFu
#define TOGETHER 8u /* outputs whose weights lie side by side */
#define VERSION 1u
#define HEADER 256u
#define MOST_SLOTS 65536u
#define MOST_OPS 4096u
#define MOST_BYTE_STEPS 16384u /* more sums of four bytes could overflow 32 bits */
#define MOST_KEEP 8u
#define BATCH 96u /* blocks computed at a time: a multiple of each way's lanes */

enum { PRODUCT, APPLY, LOOKUP, MAXIMUM, BYTES, KINDS };
enum { NONE, RELU, SIGMOID, ACTS };

/* A row that is read beside the main one: output i meets value i / div % mod of the row at slot `at`, or nothing. */
struct beside {
    uint32_t at, div, mod;
};

/* An operation, as the blob holds it; offsets in words of 4 bytes. A step is a slot: one value, or four bytes. */
struct op {
    uint32_t kind, act;
    uint32_t in, out, patches;   /* steps read and outputs made, for each of so many rows side by side */
    uint32_t from, to, to_bytes; /* slots */
    struct beside pre, scale, shift;
    uint32_t weights, weights_size, runs, runs_size;
    uint32_t bias, unit; /* of each output */
    uint32_t rows;       /* of a lookup's table */
    float inverse, zero; /* of the row of bytes: q = value inverse + zero */
    uint32_t reserved[6];
};

typedef void run_fn(const struct av1part_model *, float *, size_t, const uint8_t *);

/* One way to compute: so many blocks to a slot, BATCH of them at a time. */
struct way {
    uint32_t lanes;
    run_fn *run;
    size_t most[2]; /* blocks for which it is the fastest: measured, in float32 and in int8 */
};

struct kernel {
    const char *name;
    struct way ways[3]; /* for the fewest blocks first; the one that any number may take comes last */
};

struct av1part_model {
    const uint32_t *words;
    const struct op *ops;
    uint32_t count, slots, luma, logits, precision, keeps;
    size_t word_count;
    const float *keep; /* pairs of share and threshold */
    const struct kernel *kernel;
    void *owned; /* to be freed or unmapped; null if the caller's */
    size_t owned_size;
};

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

/* ------------------------------------------------------------------------------------------------ instructions --- */

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
    ((a) + ((x) & 255) * (int8_t)(w) + (((x) >> 8) & 255) * (int8_t)((w) >> 8) +                                       \
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

#define ANY {SIZE_MAX, SIZE_MAX}
static const struct kernel KERNELS[] = {
#if defined(X86)
    {"avx512vnni", {{4, run_few_avx2, {4, 0}}, {8, run_few_avx512vnni, {24, 16}}, {48, run_avx512vnni, ANY}}},
    {"avx512", {{4, run_few_avx2, {4, 4}}, {8, run_few_avx512, {24, 24}}, {48, run_avx512, ANY}}},
    {"avx2", {{4, run_few_avx2, {16, 16}}, {24, run_avx2, ANY}}},
#endif
    {"base", {{3 * BASE, run_base, ANY}}},
};
#define KERNEL_COUNT (sizeof KERNELS / sizeof *KERNELS)

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

int av1part_use(av1part_model *model, const char *instructions)
{
    if (!model || !instructions)
        return AV1PART_E_INVALID;
    for (size_t i = 0; i < KERNEL_COUNT; i++)
        if (!strcmp(KERNELS[i].name, instructions) && runs_here(KERNELS[i].name)) {
            model->kernel = &KERNELS[i];
            return 0;
        }
    return AV1PART_E_MISSING;
}

/* -------------------------------------------------------------------------------------------- SHA-256 (FIPS 180-4) */

static uint32_t rotated(uint32_t x, int by)
{
    return x >> by | x << (32 - by);
}

static void sha256_block(uint32_t state[8], const unsigned char *at)
{
    static const uint32_t K[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++, at += 4)
        w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + (rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        const uint32_t a = s[7] + (rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25)) +
                           ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
        const uint32_t b = (rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22)) +
                           ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += a;
        s[0] = a + b;
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

static int sha256_is(const unsigned char *content, size_t size, const unsigned char expected[32])
{
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    unsigned char last[128] = {0};
    const size_t rest = size % 64, padded = rest < 56 ? 64 : 128;
    for (size_t at = 0; at + 64 <= size; at += 64)
        sha256_block(state, content + at);
    memcpy(last, content + size - rest, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        last[padded - 1 - (size_t)i] = (unsigned char)((uint64_t)size * 8 >> 8 * i);
    for (size_t at = 0; at < padded; at += 64)
        sha256_block(state, last + at);
    for (int i = 0; i < 32; i++)
        if (expected[i] != (unsigned char)(state[i / 4] >> (24 - 8 * (i % 4))))
            return 0;
    return 1;
}

/* --------------------------------------------------------------------------------------------------------- opening */

/* Whether `count` values from `start` lie within `size`. */
static int within(uint64_t start, uint64_t count, uint64_t size)
{
    return start <= size && count <= size - start;
}

static int is_beside(const struct beside *row, uint32_t slots)
{
    return row->at == NOWHERE || (row->div && row->mod && within(row->at, row->mod, slots));
}

/* The runs of a product's groups: each within what is read, and together as many weights as there are. */
static int are_runs(const struct av1part_model *model, const struct op *op)
{
    const uint32_t *runs = model->words + op->runs, *end = runs + op->runs_size;
    uint64_t steps = 0;
    for (uint32_t first = 0; first < op->out; first += TOGETHER) {
        if (runs == end)
            return 0;
        for (uint32_t left = *runs++; left; left--, runs += 2) {
            if (end - runs < 2 || !within(runs[0], runs[1], op->in))
                return 0;
            steps += runs[1];
        }
    }
    return runs == end && steps * TOGETHER == op->weights_size;
}

static int are_lists(const struct av1part_model *model, const struct op *op)
{
    const uint32_t *listed = model->words + op->runs, *end = listed + op->runs_size;
    for (uint32_t i = 0; i < op->out; i++) {
        if (listed == end || !*listed || *listed >= (uint64_t)(end - listed))
            return 0;
        for (uint32_t left = *listed++; left; left--)
            if (*listed++ >= op->in)
                return 0;
    }
    return listed == end;
}

static int is_op(const struct av1part_model *model, const struct op *op)
{
    const uint32_t slots = model->slots;
    const uint64_t made = (uint64_t)op->out * op->patches, read = (uint64_t)op->in * op->patches;
    const int is_product = op->kind == PRODUCT || op->kind == BYTES;
    if (op->kind >= KINDS || op->act >= ACTS || !op->out || !op->patches || (!is_product && op->patches > 1))
        return 0;
    if (!within(op->weights, op->weights_size, model->word_count) ||
        !within(op->runs, op->runs_size, model->word_count))
        return 0;
    if (op->to != NOWHERE ? !within(op->to, made, slots) : op->kind == LOOKUP || op->kind == MAXIMUM)
        return 0;
    if (op->to_bytes != NOWHERE && (op->out % 4 || !within(op->to_bytes, made / 4, slots)))
        return 0;
    if (!is_beside(&op->pre, slots) || !is_beside(&op->scale, slots) || !is_beside(&op->shift, slots))
        return 0;
    if (op->bias != NOWHERE && !within(op->bias, op->out, model->word_count))
        return 0;
    if (op->kind == BYTES ? op->in > MOST_BYTE_STEPS || !within(op->unit, op->out, model->word_count)
                          : op->unit != NOWHERE)
        return 0;
    if (op->kind == LOOKUP)
        return (op->rows == 1 || op->rows == 256) && (uint64_t)op->rows * op->out == op->weights_size;
    if (op->kind == APPLY)
        return within(op->from, made, slots);
    return within(op->from, read, slots) && (is_product ? are_runs(model, op) : are_lists(model, op));
}

static int open_blob(struct av1part_model *model, const void *blob, size_t size)
{
    static const uint32_t one = 1;
    const unsigned char *bytes = blob;
    uint64_t written;
    if (!*(const unsigned char *)&one)
        return AV1PART_E_FOREIGN;
    if ((uintptr_t)blob % 4)
        return AV1PART_E_INVALID;
    if (size < HEADER || size % 4 || size / 4 > NOWHERE || memcmp(bytes, "AV1PART", 8))
        return AV1PART_E_CORRUPT;
    model->words = blob;
    model->word_count = size / 4;
    if (model->words[2] != VERSION || model->words[3] != HEADER)
        return AV1PART_E_FOREIGN;
    memcpy(&written, bytes + 16, sizeof written);
    if (written != size || !sha256_is(bytes + 64, size - 64, bytes + 24))
        return AV1PART_E_CORRUPT;
    const uint32_t *known = model->words + 16;
    model->precision = known[0];
    model->count = known[1];
    model->slots = known[3];
    model->luma = known[4];
    model->logits = known[5];
    model->keeps = known[6];
    model->keep = (const float *)(const void *)(known + 18);
    if (known[7] != SAMPLES || known[8] != AV1PART_LOGITS || known[9] != AV1PART_PARTITIONS)
        return AV1PART_E_FOREIGN;
    if (model->precision > 1 || model->count > MOST_OPS || model->slots > MOST_SLOTS || model->keeps > MOST_KEEP ||
        !within(known[2], (uint64_t)model->count * (sizeof(struct op) / 4), model->word_count) ||
        !within(model->luma, SAMPLES, model->slots) || !within(model->logits, AV1PART_LOGITS, model->slots))
        return AV1PART_E_CORRUPT;
    model->ops = (const struct op *)(const void *)(model->words + known[2]);
    for (uint32_t i = 0; i < model->count; i++)
        if (!is_op(model, &model->ops[i]))
            return AV1PART_E_CORRUPT;
    for (size_t i = 0; i < KERNEL_COUNT && !model->kernel; i++)
        if (runs_here(KERNELS[i].name))
            model->kernel = &KERNELS[i];
    return 0;
}

int av1part_open_memory(av1part_model **model, const void *blob, size_t size)
{
    if (!model || !blob)
        return AV1PART_E_INVALID;
    *model = calloc(1, sizeof **model);
    if (!*model)
        return AV1PART_E_MEMORY;
    const int code = open_blob(*model, blob, size);
    if (code) {
        free(*model);
        *model = NULL;
    }
    return code;
}

#if defined(MAPS_FILES)
static int load(const char *path, void **content, size_t *size)
{
    struct stat about;
    const int file = open(path, O_RDONLY);
    if (file < 0)
        return AV1PART_E_IO;
    *content = MAP_FAILED;
    if (!fstat(file, &about) && S_ISREG(about.st_mode) && about.st_size > 0 && (uint64_t)about.st_size <= SIZE_MAX) {
        *size = (size_t)about.st_size;
        *content = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, file, 0);
    }
    close(file);
    return *content == MAP_FAILED ? AV1PART_E_IO : 0;
}

static void unload(void *content, size_t size)
{
    munmap(content, size);
}
#else
static int load(const char *path, void **content, size_t *size)
{
    FILE *file = fopen(path, "rb");
    long end;
    if (!file)
        return AV1PART_E_IO;
    *content = NULL;
    if (!fseek(file, 0, SEEK_END) && (end = ftell(file)) > 0 && !fseek(file, 0, SEEK_SET)) {
        *size = (size_t)end;
        *content = malloc(*size);
        if (*content && fread(*content, 1, *size, file) != *size) {
            free(*content);
            *content = NULL;
        }
    }
    fclose(file);
    return *content ? 0 : AV1PART_E_IO;
}

static void unload(void *content, size_t size)
{
    (void)size;
    free(content);
}
#endif

int av1part_open_file(av1part_model **model, const char *path)
{
    void *content;
    size_t size = 0;
    if (!model || !path)
        return AV1PART_E_INVALID;
    *model = NULL;
    int code = load(path, &content, &size);
    if (code)
        return code;
    code = av1part_open_memory(model, content, size);
    if (code) {
        unload(content, size);
    } else {
        (*model)->owned = content;
        (*model)->owned_size = size;
    }
    return code;
}

void av1part_close(av1part_model *model)
{
    if (model && model->owned)
        unload(model->owned, model->owned_size);
    free(model);
}

/* ------------------------------------------------------------------------------------------------------ predicting */

static size_t arena_size(const av1part_model *model)
{
    return sizeof(float) * BATCH * model->slots;
}

size_t av1part_scratch_size(const av1part_model *model)
{
    return model ? arena_size(model) + BATCH : 0;
}

/* How to compute the next of `left` blocks, and how many: those over in the last group are left for a faster way. */
static const struct way *way_for(const av1part_model *model, size_t left, size_t *count)
{
    const struct way *ways = model->kernel->ways, *way = ways;
    while (left > way->most[model->precision])
        way++;
    *count = left < BATCH ? left : BATCH;
    const size_t over = *count % way->lanes;
    if (way != ways && *count > way->lanes && over <= way[-1].most[model->precision])
        *count -= over;
    return way;
}

static int predict(const av1part_model *model, const struct source *from, const struct answer *to, void *scratch,
                   size_t scratch_size)
{
    if (!scratch || (uintptr_t)scratch % AV1PART_SCRATCH_ALIGN)
        return AV1PART_E_INVALID;
    if (scratch_size < av1part_scratch_size(model))
        return AV1PART_E_MEMORY;
    float *arena = scratch;
    uint8_t *qindex = (uint8_t *)scratch + arena_size(model);
    for (size_t done = 0, count; done < from->count; done += count) {
        const struct way *way = way_for(model, from->count - done, &count);
        const size_t lanes = way->lanes, groups = (count + lanes - 1) / lanes;
        unsigned seen = 0;
        for (size_t i = 0; i < groups * lanes; i++) { /* lanes left over repeat the last block */
            const size_t block = done + (i < count ? i : count - 1);
            float *lane = arena + (i / lanes * model->slots + model->luma) * lanes + i % lanes;
            seen |= fill(from, block, lane, lanes);
            qindex[i] = from->qindex[block * from->qindex_step];
        }
        if (seen >> from->depth)
            return AV1PART_E_SAMPLE;
        way->run(model, arena, groups, qindex);
        for (size_t i = 0; i < count; i++)
            answer_block(to, from, done + i, arena + (i / lanes * model->slots + model->logits) * lanes + i % lanes, lanes);
    }
    return 0;
}

int av1part_predict_blocks(const av1part_model *model, const void *blocks, size_t count, int bit_depth,
                           int bytes_per_sample, const uint8_t *qindex, float *logits, float *probability,
                           void *scratch, size_t scratch_size)
{
    struct source from;
    const struct answer to = {logits, probability, NULL, 0};
    if (!model || blocks_source(&from, blocks, count, bit_depth, bytes_per_sample, qindex))
        return AV1PART_E_INVALID;
    return predict(model, &from, &to, scratch, scratch_size);
}

int av1part_predict_plane(const av1part_model *model, const av1part_plane *plane, int qindex, float threshold,
                          float *probability, uint16_t *masks, void *scratch, size_t scratch_size)
{
    struct source from;
    uint8_t level;
    const struct answer to = {NULL, probability, masks, threshold};
    if (!model || plane_source(&from, plane, qindex, threshold, &level))
        return AV1PART_E_INVALID;
    return predict(model, &from, &to, scratch, scratch_size);
}

/* --------------------------------------------------------------------------------------------------------- telling */

const char *av1part_instructions(const av1part_model *model)
{
    return model ? model->kernel->name : "";
}

int av1part_precision(const av1part_model *model)
{
    return model ? (int)model->precision : AV1PART_E_INVALID;
}

int av1part_threshold(const av1part_model *model, double keep, float *threshold)
{
    if (!model || !threshold)
        return AV1PART_E_INVALID;
    for (uint32_t i = 0; i < model->keeps; i++)
        if (model->keep[2 * i] > keep - 1e-4 && model->keep[2 * i] < keep + 1e-4) {
            *threshold = model->keep[2 * i + 1];
            return 0;
        }
    return AV1PART_E_MISSING;
}

const char *av1part_message(int code)
{
    return message_of(code);
}
