/* av1part: which partitions an AV1 encoder should try for each node of a frame.
 *
 *     av1part_open_file ─► av1part_predict_plane, from any number of threads ─► av1part_close
 *
 * What a model reads and answers is written in its file, not here: av1part_side, av1part_types and av1part_logits say
 * it in numbers, av1part_task in full. Models of blocks have nodes of 16x16 samples, 10 types and 14 logits.
 *
 * C99, no dependency but the C library. Nothing is allocated after opening, nothing is global: a model is never written
 * to while it predicts, so any number of threads may share it, each with scratch memory of its own. The caller owns
 * every buffer that it hands over; none is kept after a call, but for the blob of av1part_open_memory.
 *
 * Partition types, their ids and masks of them: av1part_types.h.
 */
#ifndef AV1PART_H
#define AV1PART_H

#include "av1part_types.h"

#include <stddef.h>
#include <stdint.h>

/* Of this header; av1part_version tells the library's. Another major version: other functions, or other model files. */
#define AV1PART_VERSION_MAJOR 2
#define AV1PART_VERSION_MINOR 0
#define AV1PART_VERSION_PATCH 0

#if defined(__GNUC__)
#define AV1PART_API __attribute__((visibility("default")))
#else
#define AV1PART_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define AV1PART_SCRATCH_ALIGN 64 /* bytes */

/* What functions return: 0 when all is well, or one of these. */
enum {
    AV1PART_E_INVALID = -1, /* an argument is out of range or a pointer that is needed is null */
    AV1PART_E_IO = -2,      /* the file cannot be read */
    AV1PART_E_CORRUPT = -3, /* no blob, or its contents are not those that were written */
    AV1PART_E_FOREIGN = -4, /* a blob of another version, or for another machine: blobs are little-endian */
    AV1PART_E_MEMORY = -5,  /* no memory left, or too little scratch */
    AV1PART_E_SAMPLE = -6,  /* a sample is above the bit depth */
    AV1PART_E_MISSING = -7, /* no such threshold in the model, or not these instructions or this bit depth here */
    AV1PART_E_TASK = -8     /* a sound model of a task that these functions do not serve: of several nodes a block, or
                               with a border around it */
};

typedef struct av1part_model av1part_model;

/* A plane of luma samples. */
typedef struct av1part_plane {
    const void *samples;  /* the top left sample */
    ptrdiff_t stride;     /* bytes from one row to the next; negative if rows go upwards in memory */
    int width, height;    /* samples, 1 to 65536; need not be multiples of a node: edges are replicated */
    int bit_depth;        /* 8, 10 or 12 */
    int bytes_per_sample; /* 1, for 8 bit alone, or 2, in the machine's byte order */
} av1part_plane;

/* The library's version, such as "2.0.0", in static memory. */
AV1PART_API const char *av1part_version(void);

/* One line about a return code, in static memory. */
AV1PART_API const char *av1part_message(int code);

/* Open a model from a file, which is mapped where the system can, and must not be changed while it is open. */
AV1PART_API int av1part_open_file(av1part_model **model, const char *path);

/* Open a model from memory, such as an array linked into the program: at a multiple of 4 bytes, unchanged and alive
 * until av1part_close. */
AV1PART_API int av1part_open_memory(av1part_model **model, const void *blob, size_t size);

/* Free a model; null is allowed. No call may still be using it. */
AV1PART_API void av1part_close(av1part_model *model);

/* Bytes of scratch memory that one call needs at a time, whatever the size of a plane; some MB. */
AV1PART_API size_t av1part_scratch_size(const av1part_model *model);

/* The instructions in use: "avx512vnni", "avx512", "avx2" or "base"; "cuda" or "aotinductor" by av1part_torch.cpp. */
AV1PART_API const char *av1part_instructions(const av1part_model *model);

/* Use less than this machine has, by the names above; for tests. Not while a call is using the model. */
AV1PART_API int av1part_use(av1part_model *model, const char *instructions);

/* Side of a model's blocks in samples, which is that of its nodes; 0 for null, as the next two. */
AV1PART_API int av1part_side(const av1part_model *model);

/* Partition types that a node may have: the columns of `probability`, by id ascending, NONE first. */
AV1PART_API int av1part_types(const av1part_model *model);

/* Logits of a node. */
AV1PART_API int av1part_logits(const av1part_model *model);

/* What a model reads and answers, as JSON: input form, levels, types, heads (description.py of the toolkit). It ends
 * with 0 and is the model's. */
AV1PART_API const char *av1part_task(const av1part_model *model);

/* The precision of a blob: 0 for float32, 1 for int8. */
AV1PART_API int av1part_precision(const av1part_model *model);

/* The threshold that keeps a share of true types, such as 0.98, as the bundle's manifest names it. */
AV1PART_API int av1part_threshold(const av1part_model *model, double keep, float *threshold);

/* Predict blocks.
 *   blocks            count blocks of side x side samples, row by row, one after another
 *   qindex            count values
 *   logits            count x av1part_logits floats, or null: those of each head, one head after another
 *   probability       count x av1part_types floats that sum to 1, or null
 *   scratch           of av1part_scratch_size bytes, at a multiple of 64 */
AV1PART_API int av1part_predict_blocks(const av1part_model *model, const void *blocks, size_t count, int bit_depth,
                                       int bytes_per_sample, const uint8_t *qindex, float *logits, float *probability,
                                       void *scratch, size_t scratch_size);

/* Predict all nodes of a plane: ceil(height / side) rows of ceil(width / side), row by row.
 *   qindex            the frame's, 0-255
 *   threshold         0 to 1: a type is a candidate if its probability is at least that; NONE always is
 *   probability       nodes x av1part_types floats, or null; nodes across the frame's edge are predicted too
 *   masks             nodes values, or null; AV1PART_UNDECIDED for nodes across the edge
 * Threads share a frame by giving each a band of whole rows of nodes as a plane of its own. */
AV1PART_API int av1part_predict_plane(const av1part_model *model, const av1part_plane *plane, int qindex,
                                      float threshold, float *probability, av1part_mask *masks, void *scratch,
                                      size_t scratch_size);

#ifdef __cplusplus
}
#endif
#endif
