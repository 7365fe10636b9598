/* The masks of every frame, wherever they come from: a partition map, a process that predicts one, or a model here. */
#ifndef AV1PART_NODE_MASKS_H_
#define AV1PART_NODE_MASKS_H_

#include "frame_input.h"
#include "frame_model.h"
#include "options.h"
#include "partition_map.h"
#include "predictor.h"

typedef struct {
    const char *name; /* of where they come from, for errors */
    int failed;       /* exit status of an error there */
    Predictor predictor;
    av1part_map *map;
    FrameModel own;
    int whole_split;
    uint32_t rows, columns; /* of nodes; 0 if nothing restricts */
    uint8_t *met;           /* by node of the current frame */
    uint64_t nodes, restricted, nodes_met;
    double predict_seconds;
} NodeMasks;

/* Starts, for frames of that format at that qindex; NodeMasks must be zeros. Each returns an exit status, 0 for none,
 * and has said then what is wrong. node_masks_close ends it either way. */
int node_masks_open(NodeMasks *masks, const Options *options, const FrameFormat *format, int qindex);

/* Restricts libaom to the masks of the next frame, whose samples these are; until node_masks_clear. */
int node_masks_set(NodeMasks *masks, const uint8_t *samples);
void node_masks_clear(NodeMasks *masks);

/* After the last frame. `all_frames`: of the input, which --limit did not end; then no mask may be left. */
int node_masks_finish(NodeMasks *masks, int all_frames);

void node_masks_close(NodeMasks *masks);

#endif /* AV1PART_NODE_MASKS_H_ */
