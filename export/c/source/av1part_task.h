/* What a model answers, as the table that its file carries (export/c/task_table.py writes it), and the chain rule,
 * which is read off that table. Words of 32 bits:
 *
 *     unit, border, levels                            samples; then for each level, from the largest nodes down
 *       node size, types, heads, logits
 *       [id of each type, ascending]
 *       [logits of each head, in the order in which they lie]
 *       for each type: count, [logits whose softmaxes, each within its head, are multiplied]
 */
#ifndef AV1PART_TASK_H
#define AV1PART_TASK_H

#include "av1part.h"

#include <string.h>

#define LARGEST_UNIT 64u
#define SMALLEST_NODE 8u
/* Of a node: heads divide one class each until only types are left, so that logits are types - 1 + heads at most. */
#define MOST_LOGITS (2 * (AV1PART_TYPES - 1))

/* A level; the pointers are into the table. */
struct level {
    uint32_t node_size, types, heads, logits;
    const uint32_t *ids, *widths, *factors;
};

struct task {
    uint32_t unit, border, levels;
    struct level level; /* the first */
};

/* Read a level; returns what follows it, or null if it is none. */
static inline const uint32_t *read_level(struct level *level, const uint32_t *at, const uint32_t *end)
{
    uint32_t classes = 0;
    if (end - at < 4)
        return NULL;
    level->node_size = at[0], level->types = at[1], level->heads = at[2], level->logits = at[3];
    at += 4;
    if (level->types < 2 || level->types > AV1PART_TYPES || !level->heads || level->heads >= level->types ||
        (uint32_t)(end - at) < level->types + level->heads)
        return NULL;
    level->ids = at;
    level->widths = at + level->types;
    level->factors = at += level->types + level->heads;
    for (uint32_t i = 0; i < level->types; i++)
        if (i ? level->ids[i] <= level->ids[i - 1] || level->ids[i] >= AV1PART_TYPES : level->ids[0] != AV1PART_NONE)
            return NULL;
    for (uint32_t i = 0; i < level->heads; i++) {
        if (level->widths[i] < 2 || level->widths[i] > level->types)
            return NULL;
        classes += level->widths[i];
    }
    if (classes != level->logits || classes != level->types - 1 + level->heads)
        return NULL;
    for (uint32_t i = 0; i < level->types; i++) {
        const uint32_t *factor = at + 1;
        if (at == end || !*at || *at > level->heads || *at >= (uint32_t)(end - at))
            return NULL;
        at += 1 + *at;
        for (; factor < at; factor++)
            if (*factor >= level->logits)
                return NULL;
    }
    return at;
}

/* Read a table of so many words: 0, or AV1PART_E_CORRUPT if it describes nothing. */
static inline int read_task(struct task *task, const uint32_t *words, size_t count)
{
    const uint32_t *at = words + 3, *end = words + count;
    uint32_t largest;
    if (count < 3)
        return AV1PART_E_CORRUPT;
    task->unit = words[0], task->border = words[1], task->levels = words[2];
    if (!task->unit || task->unit & (task->unit - 1) || task->unit > LARGEST_UNIT || task->border > task->unit ||
        !task->levels)
        return AV1PART_E_CORRUPT;
    largest = task->unit;
    for (uint32_t i = 0; i < task->levels; i++) {
        struct level level;
        at = read_level(&level, at, end);
        if (!at || level.node_size < SMALLEST_NODE || level.node_size > largest || task->unit % level.node_size)
            return AV1PART_E_CORRUPT;
        largest = level.node_size / 2;
        if (!i)
            task->level = level;
    }
    return at == end ? 0 : AV1PART_E_CORRUPT;
}

/* Whether the functions for blocks serve a task: one node a block, and nothing around it. */
static inline int is_served(const struct task *task)
{
    return task->levels == 1 && task->level.node_size == task->unit && !task->border;
}

/* -------------------------------------------------------------------------------------------------- probabilities */

#define LEAST -87.0f

/* e^x to 1e-7 of itself for LEAST <= x <= -LEAST, without a call or a branch, so that loops over it become vectors: 2^n
 * by the exponent, with n the whole number that x log2(e) is next to, and the rest by its series. */
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

static inline void softmax(const float *logit, uint32_t count, float *share)
{
    float top = logit[0], sum = 0;
    for (uint32_t i = 1; i < count; i++)
        top = logit[i] > top ? logit[i] : top;
    for (uint32_t i = 0; i < count; i++)
        sum += share[i] = exponential(logit[i] - top > LEAST ? logit[i] - top : LEAST);
    for (uint32_t i = 0; i < count; i++)
        share[i] /= sum;
}

/* The chain rule: P(HORZ) = P(partitioned) P(RECT) P(HORZ | RECT), products taken from the left. */
static inline void chain(const struct level *level, const float *logit, float *probability)
{
    float share[MOST_LOGITS];
    const uint32_t *factor = level->factors;
    for (uint32_t head = 0, at = 0; head < level->heads; at += level->widths[head++])
        softmax(logit + at, level->widths[head], share + at);
    for (uint32_t type = 0; type < level->types; type++) {
        uint32_t left = *factor++;
        float product = share[*factor++];
        while (--left)
            product *= share[*factor++];
        probability[type] = product;
    }
}

#endif
