/* Opens damaged copies of a blob, with the hash set right again, and predicts with those that open: fuzz BLOB COUNT.
 * Built with sanitizers by test_hardening.py; includes the library for its own SHA-256. */
#include "av1part.c"

enum { MANY = 30 };
static const size_t counts[] = {2, 7, MANY}; /* for every way in which a kernel computes */

static uint64_t state = 88172645463325252u;

static uint32_t draw(uint32_t below)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)((state >> 20) % below);
}

/* Write the true size and SHA-256 into a blob's header. */
static void sign(unsigned char *blob, size_t size)
{
    uint32_t hash[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const uint64_t written = size, bits = (size - 64) * 8;
    unsigned char last[128] = {0};
    size_t at = 64, rest = (size - 64) % 64, padded = rest < 56 ? 64 : 128;
    for (; at + 64 <= size; at += 64)
        sha256_block(hash, blob + at);
    memcpy(last, blob + at, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        last[padded - 1 - (size_t)i] = (unsigned char)(bits >> 8 * i);
    for (size_t i = 0; i < padded; i += 64)
        sha256_block(hash, last + i);
    for (int i = 0; i < 32; i++)
        blob[24 + i] = (unsigned char)(hash[i / 4] >> (24 - 8 * (i % 4)));
    memcpy(blob + 16, &written, sizeof written);
}

int main(int argc, char **argv)
{
    static const uint32_t odd[] = {0, 1, 2, 3, 7, 8, 9, 255, 256, 257, 65535, 65536, 0x7FFFFFFF,
                                   0x80000000, 0xFFFFFFFE, 0xFFFFFFFF};
    static unsigned char block[MANY * SAMPLES], qindex[MANY] = {0, 255};
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
        const uint32_t ops = length > HEADER + 128 ? HEADER + 128 * 7 : 0; /* most damage where the structure is */
        for (uint32_t changes = 1 + draw(3); changes && length >= HEADER; changes--) {
            const size_t end = draw(2) && ops && ops < length ? ops : length;
            const size_t at = (draw(4) ? 64 : 0) + draw((uint32_t)(end - 64)) / 4 * 4;
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
            for (size_t k = 0; k < KERNEL_COUNT; k++) {
                float logits[MANY * AV1PART_LOGITS], probability[MANY * AV1PART_PARTITIONS];
                if (av1part_use(model, KERNELS[k].name))
                    continue;
                const size_t need = av1part_scratch_size(model);
                void *scratch = NULL;
                if (need > 1u << 26 || posix_memalign(&scratch, AV1PART_SCRATCH_ALIGN, need ? need : 1))
                    continue;
                memset(scratch, 0, need);
                for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
                    av1part_predict_blocks(model, block, counts[i], 8, 1, qindex, logits, probability, scratch, need);
                free(scratch);
            }
            av1part_close(model);
        }
        free(copy);
    }
    free(blob);
    printf("%ld opened, %ld refused\n", opened, refused);
    return 0;
}
