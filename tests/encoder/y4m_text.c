/* Prints files as encoder/frame_input.c reads them, one line each: "width height bit_depth monochrome frames", then -1
 * if they end otherwise than a file should; "-" for what is not opened or holds no whole frame. */
#include <stdio.h>

#include "frame_input.h"

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FrameInput input;
        int more;
        const char *wrong = frame_input_open(&input, argv[i], NULL);
        if (wrong) {
            puts("-");
            continue;
        }
        do {
            more = frame_input_read(&input);
        } while (more > 0);
        const FrameFormat *format = &input.format;
        if (format->rate < 1 || format->scale < 1)
            return 1;
        if (!input.frames)
            puts("-");
        else
            printf("%u %u %d %d %u%s\n", (unsigned)format->width, (unsigned)format->height, format->bit_depth,
                   format->monochrome, (unsigned)input.frames, more ? " -1" : "");
        frame_input_close(&input);
    }
    return 0;
}
