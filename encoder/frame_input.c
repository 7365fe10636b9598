#include "frame_input.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HEADER 1024

/* Reads up to a newline, which is dropped; returns 0 if there is none within the buffer. */
static int read_line(FILE *file, char *line, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        const int byte = getc(file);
        if (byte == EOF)
            return 0;
        line[i] = byte == '\n' ? '\0' : (char)byte;
        if (byte == '\n')
            return 1;
    }
    return 0;
}

static int read_positive(const char *text, uint32_t limit, uint32_t *value)
{
    char *end;
    const unsigned long number = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || number < 1 || number > limit)
        return 0;
    *value = (uint32_t)number;
    return 1;
}

static const char *read_chroma(const char *tag, FrameFormat *format)
{
    format->monochrome = !strcmp(tag, "mono") || !strcmp(tag, "mono10");
    format->bit_depth = !strcmp(tag, "420p10") || !strcmp(tag, "mono10") ? 10 : 8;
    const int plain = !strcmp(tag, "420") || !strcmp(tag, "420jpeg") || !strcmp(tag, "420mpeg2");
    return plain || format->monochrome || format->bit_depth == 10 ? NULL
                                                                  : "its chroma is neither 4:2:0 nor mono, 8 or 10 bit";
}

static const char *read_rate(const char *text, FrameFormat *format)
{
    char tail;
    if (sscanf(text, "%d:%d%c", &format->rate, &format->scale, &tail) != 2 || format->rate < 1 || format->scale < 1)
        return "its frame rate is malformed";
    return NULL;
}

static const char *read_y4m_header(FrameInput *input)
{
    char line[MAX_HEADER];
    if (!read_line(input->file, line, sizeof(line)))
        return "its Y4M header does not end";
    const char *wrong = NULL;
    FrameFormat *format = &input->format;
    for (char *tag = strtok(line, " "); tag && !wrong; tag = strtok(NULL, " ")) {
        switch (tag[0]) {
        case 'W':
            wrong = read_positive(tag + 1, MAX_FRAME_SIDE, &format->width) ? NULL : "its width is out of range";
            break;
        case 'H':
            wrong = read_positive(tag + 1, MAX_FRAME_SIDE, &format->height) ? NULL : "its height is out of range";
            break;
        case 'F': wrong = read_rate(tag + 1, format); break;
        case 'C': wrong = read_chroma(tag + 1, format); break;
        case 'I': wrong = tag[1] == 'p' || tag[1] == '?' ? NULL : "it is interlaced"; break;
        case 'X':
            if (!strcmp(tag, "XCOLORRANGE=FULL"))
                format->full_range = 1;
            break;
        default: break;
        }
    }
    return wrong;
}

static const char *lay_out(FrameInput *input)
{
    const FrameFormat *format = &input->format;
    if (format->width < 16 || format->height < 16 || format->width > MAX_FRAME_SIDE || format->height > MAX_FRAME_SIDE)
        return "a side of its frames is not 16-65536";
    const size_t bytes = format->bit_depth > 8 ? 2 : 1;
    const size_t luma = bytes * format->width * format->height;
    const size_t chroma = bytes * 2 * ((format->width + 1) / 2) * ((format->height + 1) / 2);
    input->frame_bytes = luma + chroma;
    input->file_bytes = format->monochrome ? luma : luma + chroma;
    input->samples = malloc(input->frame_bytes);
    if (!input->samples)
        return "there is not enough memory for a frame of it";
    for (size_t i = luma; i < input->frame_bytes; i += bytes) {
        const int grey = 1 << (format->bit_depth - 1);
        input->samples[i] = (uint8_t)(bytes == 2 ? grey & 0xFF : grey);
        if (bytes == 2)
            input->samples[i + 1] = (uint8_t)(grey >> 8);
    }
    return NULL;
}

const char *frame_input_open(FrameInput *input, const char *path, const FrameFormat *raw)
{
    static const char magic[] = "YUV4MPEG2";
    memset(input, 0, sizeof(*input));
    input->file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    if (!input->file)
        return "it cannot be opened";
    const char *wrong;
    if (raw) {
        input->format = *raw;
        wrong = lay_out(input);
    } else {
        char head[sizeof(magic)];
        input->is_y4m = 1;
        input->format = (FrameFormat){.bit_depth = 8, .rate = 30, .scale = 1};
        if (fread(head, 1, sizeof(magic) - 1, input->file) != sizeof(magic) - 1 ||
            memcmp(head, magic, sizeof(magic) - 1))
            wrong = "it is no Y4M; give --size WIDTHxHEIGHT if it is raw";
        else
            wrong = read_y4m_header(input);
        if (!wrong)
            wrong = lay_out(input);
    }
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
        char line[MAX_HEADER];
        const int byte = getc(input->file);
        if (byte == EOF)
            return 0;
        ungetc(byte, input->file);
        if (!read_line(input->file, line, sizeof(line)) || strncmp(line, "FRAME", 5) || (line[5] && line[5] != ' '))
            return -1;
    }
    const size_t count = fread(input->samples, 1, input->file_bytes, input->file);
    if (count == 0 && !input->is_y4m)
        return 0;
    if (count != input->file_bytes || !samples_fit(input))
        return -1;
    input->frames++;
    return 1;
}

void frame_input_close(FrameInput *input)
{
    if (input->file && input->file != stdin)
        fclose(input->file);
    free(input->samples);
    memset(input, 0, sizeof(*input));
}
