/* What the program prints when it is done. */
#ifndef AV1PART_REPORT_H_
#define AV1PART_REPORT_H_

#include <stdint.h>
#include <stdio.h>

typedef struct {
    uint64_t frames, bytes;
    double encode_seconds, predict_seconds, wall_seconds;
    double psnr[3]; /* Y, U, V */
    int has_masks;
    uint64_t nodes, restricted, met;
} Report;

/* Prints it for people, or as one JSON object. Returns 0 if it did not get where it goes. */
int report_print(const Report *report, FILE *file, int as_json);

#endif /* AV1PART_REPORT_H_ */
