/* Restricts libaom's partition search at 16x16 nodes (libaom_hook.h).
 *
 * Linked with --wrap, each __wrap_ function here is what libaom calls in place of its own, and __real_ is its own.
 * For each node, av1_rd_pick_partition calls, in this order:
 *
 *     av1_prune_partitions_before_search       1  we look the node's mask up; libaom's own pruning is skipped
 *     av1_prune_partitions_by_max_min_bsize    2  what may be tried is set from the mask; also on libaom's redo
 *     NONE, SPLIT (nodes of 8x8: from 1 on), HORZ, VERT
 *     av1_prune_ab_partitions                  3  A/B types and 4-way types are set from the mask
 *     A/B types, 4-way types
 *
 * Left alone, being results of the search and not guesses before it: a type is not tried if what was tried before
 * shows that it cannot win, and the all-intra rule against ringing, which may replace NONE by SPLIT. What libaom infers
 * in (3) from HORZ it may infer only if HORZ was tried, and so with VERT. That NONE is in every mask is relied on: it
 * always gives a node a cost, without which libaom tries 4-way types whatever (3) says.
 *
 * Most of what SPLIT costs is the search of its four 8x8 nodes, and nearly nothing is lost if they are not split in
 * turn: below a node that the map decides they are NONE alone, unless the caller wants them searched. */
#include "libaom_hook.h"

#include <stddef.h>

#include "config/aom_config.h"
#include "config/aom_version.h"

#include "av1/common/blockd.h"
#include "av1/encoder/encodeframe_utils.h"
#include "av1/encoder/encoder.h"
#include "av1/encoder/partition_strategy.h"

#define BIT AV1PART_BIT
/* From this preset on libaom never tries other than the basic types at 16x16, and is not fit to. */
#define FIRST_BASIC_SPEED 5
#define NODE_MI (AV1PART_NODE_SIZE / MI_SIZE)

static struct {
    const av1part_mask *masks;
    uint32_t rows, columns;
    uint8_t *met;
    int whole_split;
    unsigned count; /* of frames set, so that a thread knows when what it remembers is of another frame */
} frame;

/* The 16x16 node that this thread searches, or searched last. */
static __thread struct {
    unsigned frame_count;
    unsigned mask;
    MACROBLOCK *forced; /* its must_find_valid_partition was set by us */
} node;

void av1part_hook_set(const av1part_mask *masks, uint32_t rows, uint32_t columns, uint8_t *met, int whole_split)
{
    frame.masks = masks;
    frame.rows = rows;
    frame.columns = columns;
    frame.met = met;
    frame.whole_split = whole_split;
    frame.count++;
}

void av1part_hook_clear(void)
{
    frame.masks = NULL;
}

static int is_restricted(void)
{
    return frame.masks && node.frame_count == frame.count && node.mask != AV1PART_UNDECIDED;
}

static int is_node(const PartitionSearchState *state)
{
    return state->part_blk_params.bsize == BLOCK_16X16;
}

/* One of the 8x8 nodes of a restricted node's SPLIT. No other 8x8 node follows a restricted one: each comes from a
 * 16x16 node, and node.mask is that one's. */
static int is_below(const PartitionSearchState *state)
{
    return state->part_blk_params.bsize == BLOCK_8X8 && is_restricted() && !frame.whole_split;
}

static int is_codable(const PartitionSearchState *state, PARTITION_TYPE type)
{
    const BLOCK_SIZE size = get_partition_subsize(BLOCK_16X16, type);
    return get_plane_block_size(size, state->ss_x, state->ss_y) != BLOCK_INVALID;
}

/* The node's mask without what this encoder cannot code there. */
static unsigned look_up(const AV1_COMP *cpi, const PartitionSearchState *state)
{
    const uint32_t row = (uint32_t)state->part_blk_params.mi_row / NODE_MI;
    const uint32_t column = (uint32_t)state->part_blk_params.mi_col / NODE_MI;
    const uint32_t rows = (uint32_t)(cpi->common.mi_params.mi_rows + NODE_MI - 1) / NODE_MI;
    const uint32_t columns = (uint32_t)(cpi->common.mi_params.mi_cols + NODE_MI - 1) / NODE_MI;
    if (!frame.masks || rows != frame.rows || columns != frame.columns || !frame_is_intra_only(&cpi->common))
        return AV1PART_UNDECIDED;
    unsigned mask = frame.masks[row * columns + column];
    if (mask == AV1PART_UNDECIDED)
        return mask;
    if (frame.met)
        frame.met[row * columns + column] = 1;
    const PartitionCfg *allowed = &cpi->oxcf.part_cfg;
    if (cpi->oxcf.speed >= FIRST_BASIC_SPEED)
        mask &= AV1PART_BASIC_TYPES;
    if (!allowed->enable_rect_partitions)
        mask &= BIT(PARTITION_NONE) | BIT(PARTITION_SPLIT);
    if (!allowed->enable_ab_partitions)
        mask &= ~AV1PART_AB_TYPES;
    if (!allowed->enable_1to4_partitions)
        mask &= ~AV1PART_FOUR_WAY_TYPES;
    for (PARTITION_TYPE type = PARTITION_HORZ; type < EXT_PARTITION_TYPES; type++)
        if (!is_codable(state, type))
            mask &= ~BIT(type);
    return mask;
}

static void stop_forcing(void)
{
    if (node.forced)
        node.forced->must_find_valid_partition = 0;
    node.forced = NULL;
}

void __real_av1_prune_partitions_before_search(AV1_COMP *const cpi, MACROBLOCK *const x,
                                               SIMPLE_MOTION_DATA_TREE *const sms_tree, PartitionSearchState *state);
void __wrap_av1_prune_partitions_before_search(AV1_COMP *const cpi, MACROBLOCK *const x,
                                               SIMPLE_MOTION_DATA_TREE *const sms_tree, PartitionSearchState *state)
{
    if (node.frame_count != frame.count) {
        node.forced = NULL; /* of a frame that was given up: it may be gone */
        node.frame_count = frame.count;
        node.mask = AV1PART_UNDECIDED;
    }
    stop_forcing(); /* it is of the 16x16 node, not of the 8x8 nodes of its SPLIT */
    if (is_node(state)) {
        node.mask = look_up(cpi, state);
        if (is_restricted()) {
#if VERSION_MAJOR > 3 || VERSION_MINOR > 6
            /* From preset 4 on libaom stops a search if neither NONE nor SPLIT is good enough: right where both were
             * tried, wrong where SPLIT is no candidate. This is what keeps it from that; 3.6 undoes (2) in turn. */
            if (!x->must_find_valid_partition) {
                x->must_find_valid_partition = 1;
                node.forced = x;
            }
#endif
            return;
        }
    }
    if (is_below(state))
        return;
    __real_av1_prune_partitions_before_search(cpi, x, sms_tree, state);
}

void __real_av1_prune_partitions_by_max_min_bsize(SuperBlockEnc *sb_enc, PartitionSearchState *state);
void __wrap_av1_prune_partitions_by_max_min_bsize(SuperBlockEnc *sb_enc, PartitionSearchState *state)
{
    __real_av1_prune_partitions_by_max_min_bsize(sb_enc, state);
    if (is_below(state)) {
        state->partition_none_allowed = 1;
        state->do_square_split = state->do_rectangular_split = 0;
        state->partition_rect_allowed[HORZ] = state->partition_rect_allowed[VERT] = 0;
        return;
    }
    if (!is_node(state) || !is_restricted())
        return;
    if (sb_enc->max_partition_size < BLOCK_16X16 || sb_enc->min_partition_size >= BLOCK_16X16) {
        stop_forcing();
        node.mask = AV1PART_UNDECIDED; /* the size limits leave one type alone, whatever the map says */
        return;
    }
    const unsigned mask = node.mask;
    state->partition_none_allowed = 1;
    state->do_square_split = (mask & BIT(PARTITION_SPLIT)) != 0;
    state->do_rectangular_split = (mask & ~(BIT(PARTITION_NONE) | BIT(PARTITION_SPLIT))) != 0;
    state->partition_rect_allowed[HORZ] = (mask & BIT(PARTITION_HORZ)) != 0;
    state->partition_rect_allowed[VERT] = (mask & BIT(PARTITION_VERT)) != 0;
    state->prune_rect_part[HORZ] = state->prune_rect_part[VERT] = 0;
}

void __real_av1_prune_ab_partitions(AV1_COMP *cpi, const MACROBLOCK *x, const PC_TREE *pc_tree, int pb_source_variance,
                                    int64_t best_rdcost, const RD_RECT_PART_WIN_INFO *rect_part_win_info,
                                    bool ext_partition_allowed, PartitionSearchState *state,
                                    int *ab_partitions_allowed);
void __wrap_av1_prune_ab_partitions(AV1_COMP *cpi, const MACROBLOCK *x, const PC_TREE *pc_tree, int pb_source_variance,
                                    int64_t best_rdcost, const RD_RECT_PART_WIN_INFO *rect_part_win_info,
                                    bool ext_partition_allowed, PartitionSearchState *state, int *ab_partitions_allowed)
{
    const int searches_rest =
        state->do_rectangular_split; /* libaom clears it if SPLIT was tried and is worse than NONE */
    __real_av1_prune_ab_partitions(cpi, x, pc_tree, pb_source_variance, best_rdcost, rect_part_win_info,
                                   ext_partition_allowed, state, ab_partitions_allowed);
    if (!is_node(state) || !is_restricted())
        return;
    for (int i = 0; i < NUM_AB_PARTS; i++) {
        const PARTITION_TYPE type = (PARTITION_TYPE)(PARTITION_HORZ_A + i);
        const PARTITION_TYPE basis = type < PARTITION_VERT_A ? PARTITION_HORZ : PARTITION_VERT;
        const int may_win = ab_partitions_allowed[i] || !(node.mask & BIT(basis));
        ab_partitions_allowed[i] = searches_rest && may_win && (node.mask & BIT(type));
    }
    /* HORZ and VERT are over: from here on these two say whether HORZ_4 and VERT_4 may be tried. */
    state->partition_rect_allowed[HORZ] = searches_rest && (node.mask & BIT(PARTITION_HORZ_4));
    state->partition_rect_allowed[VERT] = searches_rest && (node.mask & BIT(PARTITION_VERT_4));
    state->do_rectangular_split = searches_rest;
    stop_forcing();
}
