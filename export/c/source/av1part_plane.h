/* What stands around the network, whatever computes it: a plane's samples become blocks, logits become probabilities and
 * candidate masks. Included by av1part.c, and by av1part_torch.cpp, which gives the same interface on a GPU. */
#ifndef AV1PART_PLANE_H
#define AV1PART_PLANE_H

#include "av1part.h"

#include <string.h>

#define SAMPLES (AV1PART_BLOCK * AV1PART_BLOCK)

#define LEAST -87.0f

/* e^x to 1e-7 of itself for LEAST <= x <= -LEAST, without a call or a branch, so that loops over it
 * become vectors: 2^n by the exponent, with n the whole number that x log2(e) is next to, and the rest by its series. */
static inline float exponential(float x)
{
    const int32_t n = (int32_t)(x * 1.44269504f + 128.5f) - 128;
    const float r = (x - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    const float series = 1.0f / 2 + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))));
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return (1.0f + r + r * r * series) * power;
}

/* A plane as av1part_plane, checked; blocks in memory are a plane one block wide. */
struct source {
    const unsigned char *samples;
    ptrdiff_t stride;
    size_t width, height, columns, count;
    int bytes;
    unsigned depth;
    const uint8_t *qindex;
    size_t qindex_step;
};

struct answer {
    float *logits, *probability;
    uint16_t *masks;
    float threshold;
};

static int is_depth(int bit_depth, int bytes_per_sample)
{
    return (bit_depth == 8 && bytes_per_sample == 1) ||
           ((bit_depth == 8 || bit_depth == 10 || bit_depth == 12) && bytes_per_sample == 2);
}

/* Blocks one after another as a source; `from` is not to be used if this returns no 0. */
static int blocks_source(struct source *from, const void *blocks, size_t count, int bit_depth, int bytes_per_sample,
                         const uint8_t *qindex)
{
    if (!is_depth(bit_depth, bytes_per_sample) || (count && (!blocks || !qindex)) ||
        count > SIZE_MAX / 2 / SAMPLES / sizeof(float))
        return AV1PART_E_INVALID;
    from->samples = (const unsigned char *)blocks;
    from->stride = AV1PART_BLOCK * bytes_per_sample;
    from->width = AV1PART_BLOCK;
    from->height = count * AV1PART_BLOCK;
    from->columns = 1;
    from->count = count;
    from->bytes = bytes_per_sample;
    from->depth = (unsigned)bit_depth;
    from->qindex = qindex;
    from->qindex_step = 1;
    return 0;
}

/* A plane's nodes as a source; *level, where its qindex is put, must live as long. */
static int plane_source(struct source *from, const av1part_plane *plane, int qindex, float threshold, uint8_t *level)
{
    if (!plane || !plane->samples || !is_depth(plane->bit_depth, plane->bytes_per_sample) || plane->width < 1 ||
        plane->width > 65536 || plane->height < 1 || plane->height > 65536 || qindex < 0 || qindex > 255 ||
        !(threshold >= 0 && threshold <= 1))
        return AV1PART_E_INVALID;
    *level = (uint8_t)qindex;
    from->samples = (const unsigned char *)plane->samples;
    from->stride = plane->stride;
    from->width = (size_t)plane->width;
    from->height = (size_t)plane->height;
    from->columns = (from->width + AV1PART_BLOCK - 1) / AV1PART_BLOCK;
    from->count = (from->height + AV1PART_BLOCK - 1) / AV1PART_BLOCK * from->columns;
    from->bytes = plane->bytes_per_sample;
    from->depth = (unsigned)plane->bit_depth;
    from->qindex = level;
    from->qindex_step = 0;
    return 0;
}

/* Put a block's samples into its lane, in units of 8-bit samples; returns the samples or'ed together. */
static unsigned fill(const struct source *from, size_t block, float *lane, size_t lanes)
{
    const size_t top = block / from->columns * AV1PART_BLOCK, left = block % from->columns * AV1PART_BLOCK;
    const float scale = (float)(255.0 / ((1u << from->depth) - 1));
    unsigned seen = 0;
    for (size_t y = 0; y < AV1PART_BLOCK; y++) {
        const size_t line = top + y < from->height ? top + y : from->height - 1;
        const unsigned char *row = from->samples + (ptrdiff_t)line * from->stride;
        for (size_t x = 0; x < AV1PART_BLOCK; x++, lane += lanes) {
            const size_t at = left + x < from->width ? left + x : from->width - 1;
            uint16_t sample = row[at * (from->bytes == 1)];
            if (from->bytes == 2)
                memcpy(&sample, row + 2 * at, sizeof sample);
            seen |= sample;
            *lane = (float)sample * scale;
        }
    }
    return seen;
}

static void softmax(const float *logit, int count, float *share)
{
    float top = logit[0], sum = 0;
    for (int i = 1; i < count; i++)
        top = logit[i] > top ? logit[i] : top;
    for (int i = 0; i < count; i++)
        sum += share[i] = exponential(logit[i] - top > LEAST ? logit[i] - top : LEAST);
    for (int i = 0; i < count; i++)
        share[i] /= sum;
}

/* The chain rule: P(HORZ) = P(partitioned) P(RECT) P(HORZ | RECT). */
static void chain(const float logit[AV1PART_LOGITS], float probability[AV1PART_PARTITIONS])
{
    float stage1[2], macro[4], inner[8];
    softmax(logit, 2, stage1);
    softmax(logit + 2, 4, macro);
    softmax(logit + 6, 2, inner);
    softmax(logit + 8, 4, inner + 2);
    softmax(logit + 12, 2, inner + 6);
    probability[0] = stage1[0];
    probability[1] = stage1[1] * macro[1] * inner[0];
    probability[2] = stage1[1] * macro[1] * inner[1];
    probability[3] = stage1[1] * macro[0];
    for (int i = 0; i < 4; i++)
        probability[4 + i] = stage1[1] * macro[2] * inner[2 + i];
    probability[8] = stage1[1] * macro[3] * inner[6];
    probability[9] = stage1[1] * macro[3] * inner[7];
}

static void answer_block(const struct answer *to, const struct source *from, size_t block, const float *lane, size_t lanes)
{
    float logit[AV1PART_LOGITS], probability[AV1PART_PARTITIONS];
    for (size_t i = 0; i < AV1PART_LOGITS; i++)
        logit[i] = lane[i * lanes];
    if (to->logits)
        memcpy(to->logits + block * AV1PART_LOGITS, logit, sizeof logit);
    if (!to->probability && !to->masks)
        return;
    chain(logit, probability);
    if (to->probability)
        memcpy(to->probability + block * AV1PART_PARTITIONS, probability, sizeof probability);
    if (to->masks) {
        unsigned mask = 1;
        for (int i = 1; i < AV1PART_PARTITIONS; i++)
            mask |= (unsigned)(probability[i] >= to->threshold) << i;
        if ((block / from->columns + 1) * AV1PART_BLOCK > from->height ||
            (block % from->columns + 1) * AV1PART_BLOCK > from->width)
            mask = AV1PART_UNDECIDED;
        to->masks[block] = (uint16_t)mask;
    }
}

static const char *message_of(int code)
{
    switch (code) {
    case 0:
        return "done";
    case AV1PART_E_INVALID:
        return "an argument is out of range, or a pointer that is needed is null or not aligned";
    case AV1PART_E_IO:
        return "the file cannot be read";
    case AV1PART_E_CORRUPT:
        return "no blob of av1part, or not as it was written";
    case AV1PART_E_FOREIGN:
        return "a model of another version or for another machine";
    case AV1PART_E_MEMORY:
        return "no memory left, or too little scratch";
    case AV1PART_E_SAMPLE:
        return "a sample is above the bit depth";
    case AV1PART_E_MISSING:
        return "no such threshold in the model, or not these instructions or this bit depth here";
    default:
        return "no return code of av1part";
    }
}

#endif
