/* Opens a blob (export/c/blob.py writes it): its version, its hash, then every word that a call would follow. */
#include "av1part_internal.h"

#include <string.h>

#define VERSION 2u
#define MOST_SLOTS 65536u
#define MOST_OPS 4096u
#define MOST_BYTE_STEPS 16384u /* more sums of four bytes could overflow 32 bits */
#define MOST_KEEP 8u

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

void av1part_sha256(const void *content, size_t size, unsigned char hash[32])
{
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const unsigned char *bytes = content;
    unsigned char last[128] = {0};
    const size_t rest = size % 64, padded = rest < 56 ? 64 : 128;
    for (size_t at = 0; at + 64 <= size; at += 64)
        sha256_block(state, bytes + at);
    memcpy(last, bytes + size - rest, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        last[padded - 1 - (size_t)i] = (unsigned char)((uint64_t)size * 8 >> 8 * i);
    for (size_t at = 0; at < padded; at += 64)
        sha256_block(state, last + at);
    for (int i = 0; i < 32; i++)
        hash[i] = (unsigned char)(state[i / 4] >> (24 - 8 * (i % 4)));
}

/* ------------------------------------------------------------------------------------------------------ operations */

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

/* ---------------------------------------------------------------------------------------------------------- header */

/* What the header says of the model, behind its first 64 bytes. */
struct known {
    uint32_t precision, ops, ops_at, slots, luma, logits, keeps;
    uint32_t task_at, task_size, text_at, text_size; /* the table, in words, and the text, in bytes with its final 0 */
    unsigned char run[32];
    float keep[2 * MOST_KEEP];
};

static int open_task(struct av1part_model *model, const struct known *known)
{
    if (!within(known->task_at, known->task_size, model->word_count) || !known->text_size ||
        !within((uint64_t)known->text_at * 4, known->text_size, (uint64_t)model->word_count * 4))
        return AV1PART_E_CORRUPT;
    model->text = (const char *)(model->words + known->text_at);
    if (memchr(model->text, 0, known->text_size) != model->text + known->text_size - 1)
        return AV1PART_E_CORRUPT;
    if (read_task(&model->task, model->words + known->task_at, known->task_size))
        return AV1PART_E_CORRUPT;
    return is_served(&model->task) ? 0 : AV1PART_E_TASK;
}

static int open_program(struct av1part_model *model, const struct known *known)
{
    const uint32_t side = model->task.unit;
    if (known->precision > 1 || known->ops > MOST_OPS || known->slots > MOST_SLOTS || known->keeps > MOST_KEEP ||
        !within(known->ops_at, (uint64_t)known->ops * (sizeof(struct op) / 4), model->word_count) ||
        !within(known->luma, side * side, known->slots) ||
        !within(known->logits, model->task.level.logits, known->slots))
        return AV1PART_E_CORRUPT;
    model->precision = known->precision;
    model->count = known->ops;
    model->slots = known->slots;
    model->luma = known->luma;
    model->logits = known->logits;
    model->keeps = known->keeps;
    model->keep = known->keep;
    model->ops = (const struct op *)(const void *)(model->words + known->ops_at);
    for (uint32_t i = 0; i < model->count; i++)
        if (!is_op(model, &model->ops[i]))
            return AV1PART_E_CORRUPT;
    return 0;
}

int av1part_open_blob(struct av1part_model *model, const void *blob, size_t size)
{
    static const uint32_t one = 1;
    const unsigned char *bytes = blob;
    unsigned char hash[32];
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
    if (written != size)
        return AV1PART_E_CORRUPT;
    av1part_sha256(bytes + 64, size - 64, hash);
    if (memcmp(hash, bytes + 24, sizeof hash))
        return AV1PART_E_CORRUPT;
    const struct known *known = (const struct known *)(const void *)(model->words + 16);
    const int code = open_task(model, known);
    return code ? code : open_program(model, known);
}
