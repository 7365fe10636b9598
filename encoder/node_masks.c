#include "node_masks.h"

#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "libaom_hook.h"
#include "seconds.h"

static int restrict_nodes(NodeMasks *masks, uint32_t rows, uint32_t columns)
{
    masks->rows = rows;
    masks->columns = columns;
    masks->met = malloc((size_t)rows * columns);
    return masks->met ? 0 : fail(LIBAOM_FAILED, masks->name, "not enough memory");
}

/* The map's header must be of these frames at this qindex. */
static int check_map(NodeMasks *masks, const FrameFormat *format, int qindex)
{
    const av1part_map_info info = av1part_map_describe(masks->map);
    char message[160];
    if (info.width == format->width && info.height == format->height && info.qindex == qindex)
        return restrict_nodes(masks, info.rows, info.columns);
    snprintf(message, sizeof(message), "it is for %ux%u at qindex %d, and this is %ux%u at %d", (unsigned)info.width,
             (unsigned)info.height, info.qindex, (unsigned)format->width, (unsigned)format->height, qindex);
    return fail(BAD_INPUT, masks->name, message);
}

int node_masks_open(NodeMasks *masks, const Options *options, const FrameFormat *format, int qindex)
{
    av1part_status status;
    masks->whole_split = options->whole_split;
    masks->failed = BAD_INPUT;
    if (options->predictor.bundle) {
        const FrameFormat *raw = options->is_raw ? &options->raw : NULL;
        masks->name = "prediction";
        masks->failed = CANNOT_PREDICT;
        if (!predictor_start(&masks->predictor, options->input, raw, qindex, &options->predictor))
            return fail(CANNOT_PREDICT, masks->name,
                        "its process cannot be started; AV1PART_PYTHON and AV1PART_CLI say where it is");
        status = av1part_map_open_stream(masks->predictor.stream, &masks->map);
        /* It has said itself what was wrong. */
        return status ? fail(CANNOT_PREDICT, masks->name, "the predicting process gave no map")
                      : check_map(masks, format, qindex);
    }
    if (options->model) {
        masks->name = options->model;
        const char *wrong = frame_model_open(&masks->own, options->model, format, qindex, &options->predictor);
        return wrong ? fail(BAD_INPUT, masks->name, wrong) : restrict_nodes(masks, masks->own.rows, masks->own.columns);
    }
    if (options->map) {
        masks->name = options->map;
        status = av1part_map_open_file(options->map, &masks->map);
        return status ? fail(BAD_INPUT, masks->name, av1part_status_text(status)) : check_map(masks, format, qindex);
    }
    return 0;
}

/* The next frame's, by whichever way; NULL if there are none, and *status says why. */
static const av1part_mask *next_masks(NodeMasks *masks, const uint8_t *samples, int *status)
{
    if (masks->own.model) {
        const double before = cpu_seconds();
        const char *wrong = frame_model_predict(&masks->own, samples);
        masks->predict_seconds += cpu_seconds() - before;
        if (wrong)
            *status = fail(masks->failed, masks->name, wrong);
        return wrong ? NULL : masks->own.masks;
    }
    av1part_map_frame frame;
    const av1part_status read = av1part_map_next(masks->map, &frame);
    if (!read)
        return frame.masks;
    *status = fail(masks->failed, masks->name,
                   read == AV1PART_END ? "it has fewer frames than the input" : av1part_status_text(read));
    return NULL;
}

int node_masks_set(NodeMasks *masks, const uint8_t *samples)
{
    int status = 0;
    if (!masks->rows)
        return 0;
    const av1part_mask *next = next_masks(masks, samples, &status);
    if (!next)
        return status;
    const size_t nodes = (size_t)masks->rows * masks->columns;
    masks->nodes += nodes;
    for (size_t i = 0; i < nodes; i++)
        masks->restricted += next[i] != AV1PART_UNDECIDED;
    memset(masks->met, 0, nodes);
    av1part_hook_set(next, masks->rows, masks->columns, masks->met, masks->whole_split);
    return 0;
}

void node_masks_clear(NodeMasks *masks)
{
    if (!masks->rows)
        return;
    av1part_hook_clear();
    for (size_t i = 0; i < (size_t)masks->rows * masks->columns; i++)
        masks->nodes_met += masks->met[i];
}

int node_masks_finish(NodeMasks *masks, int all_frames)
{
    av1part_map_frame rest;
    const int all_read = masks->map && all_frames && av1part_map_next(masks->map, &rest) == AV1PART_END;
    if (masks->map && all_frames && !all_read)
        return fail(BAD_INPUT, masks->name, "it has more frames than the input, or is damaged");
    if (predictor_finish(&masks->predictor, all_read, &masks->predict_seconds))
        return fail(CANNOT_PREDICT, masks->name, "the predicting process failed");
    return 0;
}

void node_masks_close(NodeMasks *masks)
{
    av1part_map_close(masks->map);
    predictor_finish(&masks->predictor, 0, &masks->predict_seconds);
    frame_model_close(&masks->own);
    free(masks->met);
}
