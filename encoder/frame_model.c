#include "frame_model.h"

#include <stdlib.h>

#define DEFAULT_KEEP "0.98"

const char *frame_model_open(FrameModel *own, const char *path, const FrameFormat *format, int qindex,
                             const PredictorOptions *options)
{
    double share;
    int code = av1part_open_file(&own->model, path);
    if (code)
        return av1part_message(code);
    share = strtod(options->threshold ? options->threshold : options->keep ? options->keep : DEFAULT_KEEP, NULL);
    own->threshold = (float)share;
    if (!options->threshold && (code = av1part_threshold(own->model, share, &own->threshold)))
        return "it has no threshold for this share of true types";
    if (av1part_side(own->model) != AV1PART_NODE_SIZE)
        return "its nodes are not of 16x16 samples";
    const int bytes = format->bit_depth > 8 ? 2 : 1;
    own->plane.stride = (ptrdiff_t)bytes * (ptrdiff_t)format->width;
    own->plane.width = (int)format->width;
    own->plane.height = (int)format->height;
    own->plane.bit_depth = format->bit_depth;
    own->plane.bytes_per_sample = bytes;
    own->qindex = qindex;
    own->rows = (format->height + AV1PART_NODE_SIZE - 1) / AV1PART_NODE_SIZE;
    own->columns = (format->width + AV1PART_NODE_SIZE - 1) / AV1PART_NODE_SIZE;
    own->masks = malloc(sizeof(*own->masks) * own->rows * own->columns);
    own->scratch_size = av1part_scratch_size(own->model);
    own->memory = malloc(own->scratch_size + AV1PART_SCRATCH_ALIGN);
    if (!own->masks || !own->memory)
        return "not enough memory";
    own->scratch = (char *)own->memory + AV1PART_SCRATCH_ALIGN - (uintptr_t)own->memory % AV1PART_SCRATCH_ALIGN;
    return NULL;
}

const char *frame_model_predict(FrameModel *own, const uint8_t *samples)
{
    own->plane.samples = samples;
    const int code = av1part_predict_plane(own->model, &own->plane, own->qindex, own->threshold, NULL, own->masks,
                                           own->scratch, own->scratch_size);
    return code ? av1part_message(code) : NULL;
}

void frame_model_close(FrameModel *own)
{
    av1part_close(own->model);
    own->model = NULL;
    free(own->memory);
    free(own->masks);
}
