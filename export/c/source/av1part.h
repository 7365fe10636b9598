/* av1part: which partitions an AV1 encoder should try for each 16x16 luma block.
 *
 *     av1part_open_file ─► av1part_predict_plane, from any number of threads ─► av1part_close
 *
 * C99, no dependency but the C library. Nothing is allocated after opening, nothing is global: a model is never written
 * to while it predicts, so any number of threads may share it, each with scratch memory of its own. The caller owns
 * every buffer that it hands over; none is kept after a call, but for the blob of av1part_open_memory.
 *
 * Partition ids: 0 NONE, 1 HORZ, 2 VERT, 3 SPLIT, 4 HORZ_A, 5 HORZ_B, 6 VERT_A, 7 VERT_B, 8 HORZ_4, 9 VERT_4.
 */
#ifndef AV1PART_H
#define AV1PART_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define AV1PART_API __attribute__((visibility("default")))
#else
#define AV1PART_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define AV1PART_PARTITIONS 10
#define AV1PART_LOGITS 14
#define AV1PART_BLOCK 16         /* side of a block in samples */
#define AV1PART_UNDECIDED 0x3FFu /* candidate mask that leaves an encoder all ten types */
#define AV1PART_SCRATCH_ALIGN 64 /* bytes */

/* What functions return: 0 when all is well, or one of these. */
enum {
    AV1PART_E_INVALID = -1, /* an argument is out of range or a pointer that is needed is null */
    AV1PART_E_IO = -2,      /* the file cannot be read */
    AV1PART_E_CORRUPT = -3, /* no blob, or its contents are not those that were written */
    AV1PART_E_FOREIGN = -4, /* a blob of another version, or for another machine: blobs are little-endian */
    AV1PART_E_MEMORY = -5,  /* no memory left, or too little scratch */
    AV1PART_E_SAMPLE = -6,  /* a sample is above the bit depth */
    AV1PART_E_MISSING = -7  /* no such threshold in the model, or not these instructions or this bit depth here */
};

typedef struct av1part_model av1part_model;

/* A plane of luma samples. */
typedef struct av1part_plane {
    const void *samples;  /* the top left sample */
    ptrdiff_t stride;     /* bytes from one row to the next; negative if rows go upwards in memory */
    int width, height;    /* samples, 1 to 65536; need not be multiples of 16: edges are replicated */
    int bit_depth;        /* 8, 10 or 12 */
    int bytes_per_sample; /* 1, for 8 bit alone, or 2, in the machine's byte order */
} av1part_plane;

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

/* The precision of a blob: 0 for float32, 1 for int8. */
AV1PART_API int av1part_precision(const av1part_model *model);

/* The threshold that keeps a share of true types, such as 0.98, as the bundle's manifest names it. */
AV1PART_API int av1part_threshold(const av1part_model *model, double keep, float *threshold);

/* Predict blocks.
 *   blocks            count blocks of 16x16 samples, row by row, one after another
 *   qindex            count values
 *   logits            count x 14 floats, or null: stage 1, macro-class, RECT, AB, FOUR
 *   probability       count x 10 floats that sum to 1, by partition id, or null
 *   scratch           of av1part_scratch_size bytes, at a multiple of 64 */
AV1PART_API int av1part_predict_blocks(const av1part_model *model, const void *blocks, size_t count, int bit_depth,
                                       int bytes_per_sample, const uint8_t *qindex, float *logits, float *probability,
                                       void *scratch, size_t scratch_size);

/* Predict all nodes of a plane: ceil(height / 16) rows of ceil(width / 16), row by row.
 *   qindex            the frame's, 0-255
 *   threshold         0 to 1: a type is a candidate if its probability is at least that; NONE always is
 *   probability       nodes x 10 floats, or null; nodes across the frame's edge are predicted too
 *   masks             nodes values, bit i for partition id i, or null; AV1PART_UNDECIDED for nodes across the edge
 * Threads share a frame by giving each a band of whole rows of nodes as a plane of its own. */
AV1PART_API int av1part_predict_plane(const av1part_model *model, const av1part_plane *plane, int qindex, float threshold,
                                      float *probability, uint16_t *masks, void *scratch, size_t scratch_size);

#ifdef __cplusplus
}
#endif
#endif
