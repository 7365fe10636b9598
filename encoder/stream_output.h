/* AV1 temporal units into a file: IVF, or bare OBUs (the low-overhead format, section 5). */
#ifndef AV1PART_STREAM_OUTPUT_H_
#define AV1PART_STREAM_OUTPUT_H_

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct {
    FILE *file; /* the caller's */
    int is_ivf;
    uint32_t width, height, rate, scale, frames;
} StreamOutput;

/* Each returns 0 if the file could not be written. A file name that ends in .obu makes bare OBUs, any other IVF. */
int stream_output_start(StreamOutput *output, FILE *file, const char *name, uint32_t width, uint32_t height,
                        uint32_t rate, uint32_t scale);
int stream_output_write(StreamOutput *output, const void *unit, size_t size, int64_t time);

/* Writes what is known in the end alone, the number of frames, into a file that begins with this stream. Others keep
 * the 0 that players take for unknown. */
int stream_output_finish(StreamOutput *output);

#endif /* AV1PART_STREAM_OUTPUT_H_ */
