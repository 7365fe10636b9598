/* What stands around the network, whatever computes it: a plane's samples become blocks, logits become probabilities
 * and candidate masks. Included by av1part.c, and by av1part_torch.cpp, which gives the same interface on a GPU. */
#ifndef AV1PART_PLANE_H
#define AV1PART_PLANE_H

#include "av1part_task.h"

#define MOST_SAMPLES (LARGEST_UNIT * LARGEST_UNIT) /* of a block */

/* A plane as av1part_plane, checked; blocks in memory are a plane one block wide. */
struct source {
    const unsigned char *samples;
    ptrdiff_t stride;
    size_t width, height, columns, count;
    size_t side; /* of a block */
    int bytes;
    unsigned depth;
    const uint8_t *qindex;
    size_t qindex_step;
};

struct answer {
    float *logits, *probability;
    av1part_mask *masks;
    float threshold;
};

static int is_depth(int bit_depth, int bytes_per_sample)
{
    return (bit_depth == 8 && bytes_per_sample == 1) ||
           ((bit_depth == 8 || bit_depth == 10 || bit_depth == 12) && bytes_per_sample == 2);
}

/* Blocks one after another as a source; `from` is not to be used if this returns no 0. */
static int blocks_source(struct source *from, uint32_t side, const void *blocks, size_t count, int bit_depth,
                         int bytes_per_sample, const uint8_t *qindex)
{
    if (!is_depth(bit_depth, bytes_per_sample) || (count && (!blocks || !qindex)) ||
        count > SIZE_MAX / 2 / MOST_SAMPLES / sizeof(float))
        return AV1PART_E_INVALID;
    from->samples = (const unsigned char *)blocks;
    from->side = side;
    from->stride = (ptrdiff_t)side * bytes_per_sample;
    from->width = side;
    from->height = count * side;
    from->columns = 1;
    from->count = count;
    from->bytes = bytes_per_sample;
    from->depth = (unsigned)bit_depth;
    from->qindex = qindex;
    from->qindex_step = 1;
    return 0;
}

/* A plane's nodes as a source; *level, where its qindex is put, must live as long. */
static int plane_source(struct source *from, uint32_t side, const av1part_plane *plane, int qindex, float threshold,
                        uint8_t *level)
{
    if (!plane || !plane->samples || !is_depth(plane->bit_depth, plane->bytes_per_sample) || plane->width < 1 ||
        plane->width > 65536 || plane->height < 1 || plane->height > 65536 || qindex < 0 || qindex > 255 ||
        !(threshold >= 0 && threshold <= 1))
        return AV1PART_E_INVALID;
    *level = (uint8_t)qindex;
    from->samples = (const unsigned char *)plane->samples;
    from->side = side;
    from->stride = plane->stride;
    from->width = (size_t)plane->width;
    from->height = (size_t)plane->height;
    from->columns = (from->width + side - 1) / side;
    from->count = (from->height + side - 1) / side * from->columns;
    from->bytes = plane->bytes_per_sample;
    from->depth = (unsigned)plane->bit_depth;
    from->qindex = level;
    from->qindex_step = 0;
    return 0;
}

/* Put a block's samples into its lane, in units of 8-bit samples; returns the samples or'ed together. */
static unsigned fill(const struct source *from, size_t block, float *lane, size_t lanes)
{
    const size_t top = block / from->columns * from->side, left = block % from->columns * from->side;
    const float scale = (float)(255.0 / ((1u << from->depth) - 1));
    unsigned seen = 0;
    for (size_t y = 0; y < from->side; y++) {
        const size_t line = top + y < from->height ? top + y : from->height - 1;
        const unsigned char *row = from->samples + (ptrdiff_t)line * from->stride;
        for (size_t x = 0; x < from->side; x++, lane += lanes) {
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

static unsigned mask_of(const struct level *level, const float *probability, float threshold)
{
    unsigned mask = AV1PART_BIT(AV1PART_NONE);
    for (uint32_t i = 1; i < level->types; i++)
        mask |= (unsigned)(probability[i] >= threshold) << level->ids[i];
    return mask;
}

/* Whether a block reaches over the frame's edge. */
static int straddles(const struct source *from, size_t block)
{
    return (block / from->columns + 1) * from->side > from->height ||
           (block % from->columns + 1) * from->side > from->width;
}

/* Write what is said of a block; its logits lie `lanes` floats apart. */
static void answer_block(const struct answer *to, const struct source *from, const struct level *level, size_t block,
                         const float *lane, size_t lanes)
{
    float logit[MOST_LOGITS], probability[AV1PART_TYPES];
    for (size_t i = 0; i < level->logits; i++)
        logit[i] = lane[i * lanes];
    if (to->logits)
        memcpy(to->logits + block * level->logits, logit, level->logits * sizeof *logit);
    if (!to->probability && !to->masks)
        return;
    chain(level, logit, probability);
    if (to->probability)
        memcpy(to->probability + block * level->types, probability, level->types * sizeof *probability);
    if (to->masks)
        to->masks[block] =
            (av1part_mask)(straddles(from, block) ? AV1PART_UNDECIDED : mask_of(level, probability, to->threshold));
}

#define TEXT_OF(number) #number
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

static const char *message_of(int code)
{
    switch (code) {
    case 0: return "done";
    case AV1PART_E_INVALID: return "an argument is out of range, or a pointer that is needed is null or not aligned";
    case AV1PART_E_IO: return "the file cannot be read";
    case AV1PART_E_CORRUPT: return "no blob of av1part, or not as it was written";
    case AV1PART_E_FOREIGN: return "a model of another version or for another machine";
    case AV1PART_E_MEMORY: return "no memory left, or too little scratch";
    case AV1PART_E_SAMPLE: return "a sample is above the bit depth";
    case AV1PART_E_MISSING: return "no such threshold in the model, or not these instructions or this bit depth here";
    case AV1PART_E_TASK: return "a model of another task: these functions serve one node a block, without a border";
    default: return "no return code of av1part";
    }
}

#endif
