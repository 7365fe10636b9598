/* Prints partition maps as encoder/partition_map.c reads them, one line a file: the status it ended with, then
 * "width height rows columns qindex", each frame's masks and, where there are some, its probabilities. */
#include <stdio.h>

#include "partition_map.h"

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        av1part_map *map;
        av1part_map_frame frame;
        av1part_status status = av1part_map_open_file(argv[i], &map);
        if (status) {
            printf("%d\n", (int)status);
            continue;
        }
        const av1part_map_info info = av1part_map_describe(map);
        printf("%u %u %u %u %u", (unsigned)info.width, (unsigned)info.height, (unsigned)info.rows,
               (unsigned)info.columns, (unsigned)info.qindex);
        while (!(status = av1part_map_next(map, &frame))) {
            const size_t nodes = (size_t)frame.rows * frame.columns;
            for (size_t k = 0; k < nodes; k++)
                printf(" %u", (unsigned)frame.masks[k]);
            if (frame.probability)
                for (size_t k = 0; k < AV1PART_TYPES * nodes; k++)
                    printf(" %u", (unsigned)frame.probability[k]);
        }
        /* Asking again must not read on. */
        if (av1part_map_next(map, &frame) != status || !av1part_status_text(status)[0])
            return 1;
        printf(" %d\n", (int)status);
        av1part_map_close(map);
    }
    av1part_map_close(NULL);
    return 0;
}
