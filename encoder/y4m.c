#include "y4m.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "numbers.h"

#define MAGIC "YUV4MPEG2"
#define NO_Y4M "it is no Y4M; give --size WIDTHxHEIGHT if it is raw"

/* The last tag of each kind, without its letter; NULL where there is none. */
typedef struct {
    const char *width, *height, *rate, *chroma, *fields, *range;
} Tags;

static void note(Tags *tags, const char *tag)
{
    static const char range[] = "COLORRANGE=";
    switch (tag[0]) {
    case 'W': tags->width = tag + 1; break;
    case 'H': tags->height = tag + 1; break;
    case 'F': tags->rate = tag + 1; break;
    case 'C': tags->chroma = tag + 1; break;
    case 'I': tags->fields = tag + 1; break;
    case 'X':
        if (!strncmp(tag + 1, range, sizeof(range) - 1))
            tags->range = tag + sizeof(range);
        break;
    default: break; /* the format asks readers to pass over what they do not know */
    }
}

static const char *read_chroma(const char *tag, FrameFormat *format)
{
    static const struct {
        const char *name;
        int bit_depth, monochrome;
    } known[] = {
        {"420", 8, 0},     {"420jpeg", 8, 0}, {"420mpeg2", 8, 0}, {"420paldv", 8, 0}, {"420p8", 8, 0},
        {"420p10", 10, 0}, {"mono", 8, 1},    {"mono8", 8, 1},    {"mono10", 10, 1},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        if (strcmp(tag, known[i].name))
            continue;
        format->bit_depth = known[i].bit_depth;
        format->monochrome = known[i].monochrome;
        return NULL;
    }
    return "its chroma is neither 4:2:0 nor mono, 8 or 10 bit";
}

/* A rate of 0 is none: F0:0 is the format's default, F0:1 is written for rates that vary. */
static const char *read_rate(const char *text, FrameFormat *format)
{
    uint32_t rate, scale;
    if (!read_pair(text, ':', INT_MAX, &rate, &scale) || (rate && !scale))
        return "its frame rate is malformed";
    if (rate) {
        format->rate = (int)rate;
        format->scale = (int)scale;
    }
    return NULL;
}

static const char *read_fields(const char *text)
{
    if (!strcmp(text, "p") || !strcmp(text, "?"))
        return NULL;
    return "it is interlaced\nhint: make whole frames of its fields first: ffmpeg -i IN -vf bwdif OUT.y4m";
}

static const char *read_tags(const Tags *tags, FrameFormat *format)
{
    const char *wrong = NULL;
    if (!tags->width || !read_whole(tags->width, MIN_FRAME_SIDE, MAX_FRAME_SIDE, &format->width))
        return "its Y4M header states no width from 16 to 65536";
    if (!tags->height || !read_whole(tags->height, MIN_FRAME_SIDE, MAX_FRAME_SIDE, &format->height))
        return "its Y4M header states no height from 16 to 65536";
    if (tags->fields)
        wrong = read_fields(tags->fields);
    if (!wrong && tags->rate)
        wrong = read_rate(tags->rate, format);
    if (!wrong && tags->chroma)
        wrong = read_chroma(tags->chroma, format);
    format->full_range = tags->range && !strcmp(tags->range, "FULL");
    return wrong;
}

/* Reads a line without its newline, of which `length` bytes are there; returns 0 if it is too long, has no end, or
 * holds a byte of 0. */
static int read_line(FILE *file, char *line, size_t length)
{
    for (size_t i = length; i <= Y4M_LONGEST_LINE; i++) {
        const int byte = getc(file);
        if (byte == EOF || byte == 0)
            return 0;
        line[i] = byte == '\n' ? '\0' : (char)byte;
        if (byte == '\n')
            return 1;
    }
    return 0;
}

const char *y4m_read_header(FILE *file, FrameFormat *format)
{
    char magic[sizeof(MAGIC) - 1];
    Tags tags = {NULL, NULL, NULL, NULL, NULL, NULL};
    if (fread(magic, 1, sizeof(magic), file) != sizeof(magic) || memcmp(magic, MAGIC, sizeof(magic)))
        return NO_Y4M;
    char *line = malloc(Y4M_LONGEST_LINE + 1);
    if (!line)
        return "there is not enough memory for its header";
    const char *wrong = NULL;
    memcpy(line, magic, sizeof(magic));
    if (!read_line(file, line, sizeof(magic)))
        wrong = "its Y4M header is damaged, or longer than 65,535 bytes";
    else if (line[sizeof(magic)] && line[sizeof(magic)] != ' ')
        wrong = NO_Y4M;
    if (!wrong) {
        for (char *tag = strtok(line + sizeof(magic), " "); tag; tag = strtok(NULL, " "))
            note(&tags, tag);
        wrong = read_tags(&tags, format);
    }
    free(line);
    return wrong;
}

int y4m_read_frame_line(FILE *file)
{
    static const char word[] = "FRAME";
    for (size_t i = 0; i <= Y4M_LONGEST_LINE; i++) {
        const int byte = getc(file);
        if (byte == EOF)
            return i ? -1 : 0;
        if (i < sizeof(word) - 1 ? byte != word[i] : i == sizeof(word) - 1 && byte != ' ' && byte != '\n')
            return -1;
        if (byte == '\n')
            return 1;
    }
    return -1;
}
