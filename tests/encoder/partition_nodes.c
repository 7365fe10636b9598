/* Prints every partition node of an AV1 temporal unit as libaom's own decoder sees it, to compare with what the
 * toolkit derives from the block-size map alone. One line per node:
 *
 *     superblock size, node size, mi row, mi column, get_partition(), parsed partition
 *
 * Sizes in luma samples. "parsed" is the `partition` field that the decoder noted in the node's blocks as it read
 * them from the stream, 99 where they contradict each other. The blocks of a SPLIT node belong to its quarters: it
 * repeats get_partition(), and for 4x4 quarters, which the decoder notes as NONE, that is checked as well. Build with
 * -DNDEBUG, as libaom was. */
#include <stdio.h>
#include <stdlib.h>

#include "aom/aom_decoder.h"
#include "aom/aomdx.h"
#include "av1/common/av1_common_int.h"
#include "av1/decoder/decoder.h"

static int noted_partition(const CommonModeInfoParams *mi, int row, int col, int side)
{
    const int rows = AOMMIN(row + side, mi->mi_rows), cols = AOMMIN(col + side, mi->mi_cols);
    const int first = mi->mi_grid_base[row * mi->mi_stride + col]->partition;
    for (int r = row; r < rows; r++)
        for (int c = col; c < cols; c++)
            if (mi->mi_grid_base[r * mi->mi_stride + c]->partition != first)
                return 99;
    return first;
}

static void print_node(const AV1_COMMON *cm, int row, int col, BLOCK_SIZE size)
{
    const CommonModeInfoParams *mi = &cm->mi_params;
    if (row >= mi->mi_rows || col >= mi->mi_cols)
        return;
    const PARTITION_TYPE partition = get_partition(cm, row, col, size);
    const int side = mi_size_wide[size];
    const int nodes_below = partition == PARTITION_SPLIT && size > BLOCK_8X8;
    int parsed = nodes_below ? partition : noted_partition(mi, row, col, side);
    if (size == BLOCK_8X8 && partition == PARTITION_SPLIT)
        parsed = parsed == PARTITION_NONE ? PARTITION_SPLIT : 99;
    printf("%d %d %d %d %d %d\n", block_size_wide[cm->seq_params->sb_size], block_size_wide[size], row, col, partition,
           parsed);
    if (!nodes_below)
        return;
    const BLOCK_SIZE quarter = get_partition_subsize(size, PARTITION_SPLIT);
    for (int i = 0; i < 4; i++)
        print_node(cm, row + (i >> 1) * side / 2, col + (i & 1) * side / 2, quarter);
}

static void on_frame(void *decoder, void *unused)
{
    (void)unused;
    const AV1_COMMON *cm = &((AV1Decoder *)decoder)->common;
    const BLOCK_SIZE root = cm->seq_params->sb_size;
    for (int row = 0; row < cm->mi_params.mi_rows; row += mi_size_high[root])
        for (int col = 0; col < cm->mi_params.mi_cols; col += mi_size_wide[root])
            print_node(cm, row, col, root);
}

int main(int argc, char **argv)
{
    static unsigned char data[1 << 24];
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (!file)
        return 2;
    const size_t size = fread(data, 1, sizeof(data), file);
    fclose(file);
    aom_codec_ctx_t codec;
    if (aom_codec_dec_init(&codec, aom_codec_av1_dx(), NULL, 0))
        return 3;
    aom_inspect_init callback = {on_frame, NULL};
    if (aom_codec_control(&codec, AV1_SET_INSPECTION_CALLBACK, &callback))
        return 4;
    Av1DecodeReturn result = {0};
    const int code = aom_codec_decode(&codec, data, size, &result);
    aom_codec_destroy(&codec);
    return code ? 5 : 0;
}
