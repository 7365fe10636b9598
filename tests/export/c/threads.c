/* Four threads share one model, each with scratch of its own, and must say what one thread says: threads BLOB. */
#define _POSIX_C_SOURCE 200112L
#include "av1part.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 160, NODES = 100, THREADS = 4 };

static unsigned char luma[SIDE * SIDE];
static const av1part_model *model;

static void *predict(void *probability)
{
    const av1part_plane plane = {luma, SIDE, SIDE, SIDE, 8, 1};
    av1part_mask masks[NODES];
    void *scratch;
    const size_t size = av1part_scratch_size(model);
    if (posix_memalign(&scratch, AV1PART_SCRATCH_ALIGN, size))
        return "no memory";
    int code = 0;
    for (int i = 0; i < 3 && !code; i++)
        code = av1part_predict_plane(model, &plane, 120, 0.1f, probability, masks, scratch, size);
    free(scratch);
    return code ? "failed" : NULL;
}

int main(int argc, char **argv)
{
    static float answers[THREADS + 1][NODES * AV1PART_TYPES];
    pthread_t thread[THREADS];
    av1part_model *opened;
    if (argc != 2 || av1part_open_file(&opened, argv[1]))
        return 2;
    model = opened;
    for (int i = 0; i < SIDE * SIDE; i++)
        luma[i] = (unsigned char)((i * i) >> 7);
    int wrong = predict(answers[THREADS]) != NULL;
    for (int i = 0; i < THREADS; i++)
        wrong += pthread_create(&thread[i], NULL, predict, answers[i]) != 0;
    for (int i = 0; i < THREADS; i++) {
        void *problem;
        pthread_join(thread[i], &problem);
        wrong += problem != NULL || memcmp(answers[i], answers[THREADS], sizeof *answers) != 0;
    }
    av1part_close(opened);
    puts(wrong ? "threads differ" : "all the same");
    return wrong;
}
