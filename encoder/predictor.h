/* Masks for an input's frames, predicted by a process of their own (cli.py predict) while this one encodes. POSIX. */
#ifndef AV1PART_PREDICTOR_H_
#define AV1PART_PREDICTOR_H_

#include <stdio.h>
#include <sys/types.h>

#include "frame_input.h"

typedef struct {
    const char *bundle;    /* folder */
    const char *keep;      /* share of true types to keep, such as "0.98"; NULL for the default */
    const char *threshold; /* in place of keep; NULL for none */
} PredictorOptions;

typedef struct {
    pid_t process;
    FILE *stream; /* partition map, frame after frame */
} Predictor;

/* Starts it. `raw` is NULL for a Y4M. Returns 0 if the process cannot be started. What it says goes to stderr. */
int predictor_start(Predictor *predictor, const char *input, const FrameFormat *raw, int qindex,
                    const PredictorOptions *options);

/* Waits for its end. `all_read`: its whole stream was read; if not, it is told to stop. Returns its exit status, and 0
 * if it was told to stop; *cpu_seconds is what it used. Does nothing if none was started. */
int predictor_finish(Predictor *predictor, int all_read, double *cpu_seconds);

#endif /* AV1PART_PREDICTOR_H_ */
