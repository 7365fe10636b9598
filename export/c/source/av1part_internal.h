/* What the library's own files share: the model as its blob describes it, and the ways to compute.
 *
 *     av1part_blob.c       opens a blob: checks every word that a call would follow
 *     av1part_kernels.c    computes blocks, by each set of instructions (av1part_kernel.h)
 *     av1part.c            the interface; av1part_plane.h, av1part_task.h: what stands around the network
 */
#ifndef AV1PART_INTERNAL_H
#define AV1PART_INTERNAL_H

#include "av1part_task.h"

#define NOWHERE 0xFFFFFFFFu
#define TOGETHER 8u /* outputs whose weights lie side by side */
#define HEADER 256u /* bytes of a blob before its operations */
#define BATCH 96u   /* blocks computed at a time: a multiple of each way's lanes */

enum { PRODUCT, APPLY, LOOKUP, MAXIMUM, BYTES, KINDS };
enum { LINEAR, RELU, SIGMOID, ACTS };

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
    struct task task;
    const char *text; /* the task as JSON */
    const struct kernel *kernel;
    void *owned; /* to be freed or unmapped; null if the caller's */
    size_t owned_size;
};

/* Open a blob into a model of zeros: 0 or a return code. */
int av1part_open_blob(struct av1part_model *model, const void *blob, size_t size);

/* FIPS 180-4. */
void av1part_sha256(const void *content, size_t size, unsigned char hash[32]);

/* The best way to compute on this machine, or that of a name; null if there is none here. */
const struct kernel *av1part_kernel(const char *name);

#endif
