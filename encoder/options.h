/* The command line of av1part-enc. */
#ifndef AV1PART_OPTIONS_H_
#define AV1PART_OPTIONS_H_

#include "frame_input.h"
#include "predictor.h"

typedef struct {
    const char *input, *output, *reconstruction, *map, *model;
    PredictorOptions predictor; /* its bundle is NULL if no process predicts; keep and threshold are the model's too */
    FrameFormat raw;
    int is_raw, has_raw_details;                     /* --size was given; options that only raw input has */
    int cq, speed, threads, tile_rows, tile_columns; /* tiles: log2, as libaom counts */
    int limit;                                       /* frames at most, 0 for all */
    int whole_split;                                 /* of restricted nodes (libaom_hook.h) */
    int as_json;
} Options;

/* Fills in *options. Returns 0 if the program is to go on, else its exit status plus one: everything has been said. */
int options_parse(Options *options, int argc, char **argv);

#endif /* AV1PART_OPTIONS_H_ */
