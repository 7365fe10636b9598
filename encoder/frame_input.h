/* Frames of a Y4M or raw planar file, one by one: 4:2:0 or monochrome, 8 or 10 bit. */
#ifndef AV1PART_FRAME_INPUT_H_
#define AV1PART_FRAME_INPUT_H_

#include <stdint.h>
#include <stdio.h>

#define MIN_FRAME_SIDE 16u
#define MAX_FRAME_SIDE 65536u

typedef struct {
    uint32_t width, height; /* 16-65536 luma samples */
    int bit_depth;          /* 8 or 10; samples above 8 bit are little-endian words of 16 bit */
    int monochrome;         /* a raw or Y4M file without chroma planes */
    int rate, scale;        /* frames a second = rate / scale, both positive */
    int full_range;
} FrameFormat;

typedef struct {
    FILE *file;
    int is_y4m;
    FrameFormat format;
    uint8_t *samples; /* of the frame read last: Y, U, V without gaps; grey chroma if the file holds none */
    size_t file_bytes, frame_bytes; /* of a frame in the file, and in `samples` */
    uint8_t head[10];               /* of a raw file, read when it was opened */
    size_t head_bytes;
    uint64_t frames;
} FrameInput;

/* Opens a file, "-" for stdin. `raw` is the format of files that are no Y4M, NULL if the user gave none. Returns NULL,
 * or what is wrong, for people; then nothing is left open. */
const char *frame_input_open(FrameInput *input, const char *path, const FrameFormat *raw);

/* Reads the next frame into `samples`. Returns 1, 0 at the end, or -1 if the file ends within a frame, holds something
 * else, or a sample does not fit the bit depth. */
int frame_input_read(FrameInput *input);

void frame_input_close(FrameInput *input);

#endif /* AV1PART_FRAME_INPUT_H_ */
