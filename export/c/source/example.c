/* Prints the candidate mask of every node of every frame of a Y4M, in hexadecimal, one row of nodes a line:
 *     example model.fp32.av1part 128 0.98 < frames.y4m */
#include "av1part.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what)
{
    fprintf(stderr, "example: %s\n", what);
    return 1;
}

int main(int argc, char **argv)
{
    char header[256], line[256];
    av1part_model *model = NULL;
    float threshold = 0;
    if (argc != 4)
        return fail("usage: example MODEL QINDEX KEEP < FRAMES.y4m");
    int code = av1part_open_file(&model, argv[1]);
    if (code || (code = av1part_threshold(model, atof(argv[3]), &threshold)))
        return fail(av1part_message(code));
    if (!fgets(header, sizeof header, stdin) || strncmp(header, "YUV4MPEG2 ", 10))
        return fail("the input is no Y4M");
    const char *w = strstr(header, " W"), *h = strstr(header, " H"), *c = strstr(header, " C");
    const int width = w ? atoi(w + 2) : 0, height = h ? atoi(h + 2) : 0;
    if (width < 1 || width > 65536 || height < 1 || height > 65536)
        return fail("the Y4M states no size from 1 to 65536");
    const char *p = c ? strchr(c, 'p') : NULL; /* C420, C420jpeg, C422p10, C444p12, Cmono */
    const int depth = p && atoi(p + 1) > 8 ? atoi(p + 1) : 8, bytes = depth > 8 ? 2 : 1;
    const int wide = c && (!strncmp(c, " C422", 5) || !strncmp(c, " C444", 5));
    const int tall = c && !strncmp(c, " C444", 5), mono = c && !strncmp(c, " Cmono", 6);
    const size_t half = ((size_t)width + 1) / 2, luma = (size_t)width * (size_t)height * (size_t)bytes;
    const size_t chroma =
        mono ? 0 : 2 * (tall ? (size_t)width : half) * (wide ? (size_t)height : ((size_t)height + 1) / 2);
    const size_t frame = luma + chroma * (size_t)bytes, scratch_size = av1part_scratch_size(model);
    const size_t side = (size_t)av1part_side(model), columns = ((size_t)width + side - 1) / side;
    const size_t nodes = columns * (((size_t)height + side - 1) / side);
    char *samples = malloc(frame), *memory = malloc(scratch_size + AV1PART_SCRATCH_ALIGN);
    av1part_mask *masks = malloc(nodes * sizeof *masks);
    if (!samples || !memory || !masks)
        return fail("no memory left");
    void *scratch = memory + (AV1PART_SCRATCH_ALIGN - (uintptr_t)memory % AV1PART_SCRATCH_ALIGN);
    const av1part_plane plane = {samples, (ptrdiff_t)width * bytes, width, height, depth, bytes};
    for (int n = 0; fgets(line, sizeof line, stdin) && !strncmp(line, "FRAME", 5); n++) {
        if (fread(samples, 1, frame, stdin) != frame)
            return fail("the last frame is cut off");
        code = av1part_predict_plane(model, &plane, atoi(argv[2]), threshold, NULL, masks, scratch, scratch_size);
        if (code)
            return fail(av1part_message(code));
        printf("frame %d\n", n);
        for (size_t i = 0; i < nodes; i++)
            printf("%03x%c", masks[i], (i + 1) % columns ? ' ' : '\n');
    }
    free(samples), free(memory), free(masks);
    av1part_close(model);
    return 0;
}
