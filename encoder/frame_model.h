/* Masks of a frame, predicted within this process by a blob of the C library (export/c/source/av1part.h). */
#ifndef AV1PART_FRAME_MODEL_H_
#define AV1PART_FRAME_MODEL_H_

#include "av1part.h"
#include "frame_input.h"
#include "predictor.h"

typedef struct {
    av1part_model *model; /* NULL: there is none */
    av1part_plane plane;
    int qindex;
    float threshold;
    void *memory, *scratch; /* the latter within the former */
    size_t scratch_size;
    av1part_mask *masks; /* [rows * columns] of the frame predicted last */
    uint32_t rows, columns;
} FrameModel;

/* Opens a blob for frames of that format, with the threshold that `options` name. Returns NULL, or what is wrong, for
 * people; frame_model_close frees it either way. */
const char *frame_model_open(FrameModel *own, const char *path, const FrameFormat *format, int qindex,
                             const PredictorOptions *options);

/* Predicts a frame's luma, rows without gaps, 16-bit words above 8 bit. Returns NULL, or what is wrong. */
const char *frame_model_predict(FrameModel *own, const uint8_t *samples);

void frame_model_close(FrameModel *own);

#endif /* AV1PART_FRAME_MODEL_H_ */
