#include "frame_input.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "y4m.h"

#define CUT_OFF "it ends within a frame"

/* Sizes of a frame, and memory for one. */
static const char *lay_out(FrameInput *input)
{
    const FrameFormat *format = &input->format;
    struct stat about;
    const size_t bytes = format->bit_depth > 8 ? 2 : 1;
    const size_t luma = bytes * format->width * format->height;
    const size_t chroma = bytes * 2 * ((format->width + 1) / 2) * ((format->height + 1) / 2);
    input->frame_bytes = luma + chroma;
    input->file_bytes = format->monochrome ? luma : luma + chroma;
    /* What a header claims is not asked of the machine if the file cannot hold it. */
    if (!fstat(fileno(input->file), &about) && S_ISREG(about.st_mode) && about.st_size > 0 &&
        (uint64_t)about.st_size < input->file_bytes)
        return CUT_OFF;
    input->samples = malloc(input->frame_bytes);
    return input->samples ? NULL : "there is not enough memory for a frame of it";
}

static void fill_grey_chroma(FrameInput *input)
{
    const int deep = input->format.bit_depth > 8, grey = 1 << (input->format.bit_depth - 1);
    for (size_t i = input->file_bytes; i < input->frame_bytes; i++)
        input->samples[i] = (uint8_t)(!deep ? grey : i % 2 ? grey >> 8 : grey & 0xFF);
}

static const char *open_raw(FrameInput *input, const FrameFormat *raw)
{
    input->format = *raw;
    input->head_bytes = fread(input->head, 1, sizeof(input->head), input->file);
    if (input->head_bytes == sizeof(input->head) && !memcmp(input->head, "YUV4MPEG2 ", sizeof(input->head)))
        return "it is a Y4M, which says its size itself\nhint: leave --size out, or cut its header off";
    return lay_out(input);
}

static const char *open_y4m(FrameInput *input)
{
    input->is_y4m = 1;
    input->format = (FrameFormat){.bit_depth = 8, .rate = 30, .scale = 1};
    const char *wrong = y4m_read_header(input->file, &input->format);
    return wrong ? wrong : lay_out(input);
}

const char *frame_input_open(FrameInput *input, const char *path, const FrameFormat *raw)
{
    struct stat about;
    memset(input, 0, sizeof(*input));
    input->file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    if (!input->file)
        return "it cannot be opened";
    const char *wrong;
    if (!fstat(fileno(input->file), &about) && S_ISDIR(about.st_mode))
        wrong = "it is a folder";
    else
        wrong = raw ? open_raw(input, raw) : open_y4m(input);
    if (wrong)
        frame_input_close(input);
    return wrong;
}

static int samples_fit(const FrameInput *input)
{
    if (input->format.bit_depth == 8)
        return 1;
    for (size_t i = 1; i < input->file_bytes; i += 2)
        if (input->samples[i] >> (input->format.bit_depth - 8))
            return 0;
    return 1;
}

int frame_input_read(FrameInput *input)
{
    if (input->is_y4m) {
        const int found = y4m_read_frame_line(input->file);
        if (found <= 0)
            return found;
    }
    const size_t held = input->head_bytes;
    memcpy(input->samples, input->head, held);
    input->head_bytes = 0;
    const size_t count = held + fread(input->samples + held, 1, input->file_bytes - held, input->file);
    if (count == 0 && !input->is_y4m)
        return ferror(input->file) ? -1 : 0;
    if (count != input->file_bytes || !samples_fit(input))
        return -1;
    if (!input->frames++)
        fill_grey_chroma(input);
    return 1;
}

void frame_input_close(FrameInput *input)
{
    if (input->file && input->file != stdin)
        fclose(input->file);
    free(input->samples);
    memset(input, 0, sizeof(*input));
}
