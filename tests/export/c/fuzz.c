/* Opens damaged copies of a blob, with the hash set right again, and predicts with those that open: fuzz BLOB COUNT.
 * Built with sanitizers by test_hardening.py; knows the library's inside for its SHA-256. */
#define _POSIX_C_SOURCE 200112L
#include "av1part_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MANY = 30 };
static const size_t counts[] = {2, 7, MANY}; /* for every way in which a kernel computes */
static unsigned char block[MANY * LARGEST_UNIT * LARGEST_UNIT], qindex[MANY] = {0, 255};

static uint64_t state = 88172645463325252u;

static uint32_t draw(uint32_t below)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)((state >> 20) % below);
}

/* Write the true size and SHA-256 into a blob's header. */
static void sign(unsigned char *blob, size_t size)
{
    const uint64_t written = size;
    av1part_sha256(blob + 64, size - 64, blob + 24);
    memcpy(blob + 16, &written, sizeof written);
}

/* A place to damage: most where the structure is, in the header and operations, and in the task at the end. */
static size_t place(size_t length)
{
    const size_t operations = HEADER + 128 * 7, task = 1024;
    switch (draw(4)) {
    case 0: return draw((uint32_t)length);
    case 1: return length > task ? length - 1 - draw((uint32_t)task) : draw((uint32_t)length);
    default: return 64 * (draw(4) != 0) + draw((uint32_t)(operations < length ? operations - 64 : length - 64));
    }
}

/* Predict with an opened model by each set of instructions. */
static void use(av1part_model *model)
{
    static const char *const names[] = {"base", "avx2", "avx512", "avx512vnni"};
    static float logits[MANY * MOST_LOGITS], probability[MANY * AV1PART_TYPES];
    const size_t need = av1part_scratch_size(model);
    void *scratch = NULL;
    if (strlen(av1part_task(model)) > 1u << 20 || av1part_side(model) > 64 || av1part_logits(model) > MOST_LOGITS ||
        av1part_types(model) > AV1PART_TYPES)
        abort();
    if (need > 1u << 26 || posix_memalign(&scratch, AV1PART_SCRATCH_ALIGN, need ? need : 1))
        return;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        if (av1part_use(model, names[k]))
            continue;
        memset(scratch, 0, need);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            av1part_predict_blocks(model, block, counts[i], 8, 1, qindex, logits, probability, scratch, need);
    }
    free(scratch);
}

int main(int argc, char **argv)
{
    static const uint32_t odd[] = {0,   1,   2,     3,     7,          8,          9,          255,
                                   256, 257, 65535, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF};
    FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
    if (!file)
        return 2;
    fseek(file, 0, SEEK_END);
    const size_t size = (size_t)ftell(file);
    unsigned char *blob = malloc(size), *copy = NULL;
    rewind(file);
    if (!blob || fread(blob, 1, size, file) != size)
        return 2;
    fclose(file);
    long opened = 0, refused = 0;
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (unsigned char)draw(256);
    for (long n = 0; n < atol(argv[2]); n++) {
        size_t length = size;
        if (!draw(8))
            length = draw((uint32_t)size + 1) & ~(size_t)(draw(2) ? 3 : 0);
        copy = malloc(length ? length : 1); /* exactly as long, so that reading past it is seen */
        memcpy(copy, blob, length);
        for (uint32_t changes = 1 + draw(3); changes && length >= HEADER; changes--) {
            const size_t at = place(length) & ~(size_t)3;
            uint32_t word;
            if (at + 4 > length)
                continue;
            memcpy(&word, copy + at, 4);
            word = draw(2) ? odd[draw(sizeof odd / sizeof *odd)] : draw(2) ? word ^ 1u << draw(32) : word + draw(9) - 4;
            memcpy(copy + at, &word, 4);
        }
        if (length >= HEADER && draw(16))
            sign(copy, length);
        av1part_model *model;
        if (av1part_open_memory(&model, copy, length)) {
            refused++;
        } else {
            opened++;
            use(model);
            av1part_close(model);
        }
        free(copy);
    }
    free(blob);
    printf("%ld opened, %ld refused\n", opened, refused);
    return 0;
}
