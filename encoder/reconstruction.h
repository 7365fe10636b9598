/* What the encoder reconstructed: how far it is from the source, and a file of it. */
#ifndef AV1PART_RECONSTRUCTION_H_
#define AV1PART_RECONSTRUCTION_H_

#include <stdio.h>

#include "aom/aom_image.h"

#include "frame_input.h"

typedef struct {
    FILE *file; /* the caller's; NULL if none is written */
    double squared_error[3], samples[3];
} Reconstruction; /* starts as zeros */

/* Compares a frame with the input's current one, and appends it to the file: raw planar, words of 16 bit above 8 bit.
 * Returns 0 if it cannot be written. */
int reconstruction_add(Reconstruction *reconstruction, const FrameInput *input, const aom_image_t *image);

/* Of a plane over all frames, in dB; 100 for no error at all and for planes that are not there. */
double reconstruction_psnr(const Reconstruction *reconstruction, int plane, int bit_depth);

#endif /* AV1PART_RECONSTRUCTION_H_ */
