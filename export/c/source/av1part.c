/* av1part: runs the blob that `cli.py export --c` writes; av1part.h documents what is called, av1part_internal.h the
 * library's parts. Compile all of av1part*.c with -O3 -ffp-contract=fast: without the latter GCC keeps to the word of
 * -std=c99 and multiplies and adds in two steps. */
#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200112L
#define MAPS_FILES 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif
#include "av1part_internal.h"
#include "av1part_plane.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --------------------------------------------------------------------------------------------------------- opening */

int av1part_open_memory(av1part_model **model, const void *blob, size_t size)
{
    if (!model || !blob)
        return AV1PART_E_INVALID;
    *model = calloc(1, sizeof **model);
    if (!*model)
        return AV1PART_E_MEMORY;
    const int code = av1part_open_blob(*model, blob, size);
    if (code) {
        free(*model);
        *model = NULL;
    } else {
        (*model)->kernel = av1part_kernel(NULL);
    }
    return code;
}

#if defined(MAPS_FILES)
static int load(const char *path, void **content, size_t *size)
{
    struct stat about;
    const int file = open(path, O_RDONLY);
    if (file < 0)
        return AV1PART_E_IO;
    *content = MAP_FAILED;
    if (!fstat(file, &about) && S_ISREG(about.st_mode) && about.st_size > 0 && (uint64_t)about.st_size <= SIZE_MAX) {
        *size = (size_t)about.st_size;
        *content = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, file, 0);
    }
    close(file);
    return *content == MAP_FAILED ? AV1PART_E_IO : 0;
}

static void unload(void *content, size_t size)
{
    munmap(content, size);
}
#else
static int load(const char *path, void **content, size_t *size)
{
    FILE *file = fopen(path, "rb");
    long end;
    if (!file)
        return AV1PART_E_IO;
    *content = NULL;
    if (!fseek(file, 0, SEEK_END) && (end = ftell(file)) > 0 && !fseek(file, 0, SEEK_SET)) {
        *size = (size_t)end;
        *content = malloc(*size);
        if (*content && fread(*content, 1, *size, file) != *size) {
            free(*content);
            *content = NULL;
        }
    }
    fclose(file);
    return *content ? 0 : AV1PART_E_IO;
}

static void unload(void *content, size_t size)
{
    (void)size;
    free(content);
}
#endif

int av1part_open_file(av1part_model **model, const char *path)
{
    void *content;
    size_t size = 0;
    if (!model || !path)
        return AV1PART_E_INVALID;
    *model = NULL;
    int code = load(path, &content, &size);
    if (code)
        return code;
    code = av1part_open_memory(model, content, size);
    if (code) {
        unload(content, size);
    } else {
        (*model)->owned = content;
        (*model)->owned_size = size;
    }
    return code;
}

void av1part_close(av1part_model *model)
{
    if (model && model->owned)
        unload(model->owned, model->owned_size);
    free(model);
}

/* ------------------------------------------------------------------------------------------------------ predicting */

static size_t arena_size(const av1part_model *model)
{
    return sizeof(float) * BATCH * model->slots;
}

size_t av1part_scratch_size(const av1part_model *model)
{
    return model ? arena_size(model) + BATCH : 0;
}

/* How to compute the next of `left` blocks, and how many: those over in the last group are left for a faster way. */
static const struct way *way_for(const av1part_model *model, size_t left, size_t *count)
{
    const struct way *ways = model->kernel->ways, *way = ways;
    while (left > way->most[model->precision])
        way++;
    *count = left < BATCH ? left : BATCH;
    const size_t over = *count % way->lanes;
    if (way != ways && *count > way->lanes && over <= way[-1].most[model->precision])
        *count -= over;
    return way;
}

static int predict(const av1part_model *model, const struct source *from, const struct answer *to, void *scratch,
                   size_t scratch_size)
{
    if (!scratch || (uintptr_t)scratch % AV1PART_SCRATCH_ALIGN)
        return AV1PART_E_INVALID;
    if (scratch_size < av1part_scratch_size(model))
        return AV1PART_E_MEMORY;
    const struct level *level = &model->task.level;
    float *arena = scratch;
    uint8_t *qindex = (uint8_t *)scratch + arena_size(model);
    for (size_t done = 0, count; done < from->count; done += count) {
        const struct way *way = way_for(model, from->count - done, &count);
        const size_t lanes = way->lanes, groups = (count + lanes - 1) / lanes;
        unsigned seen = 0;
        for (size_t i = 0; i < groups * lanes; i++) { /* lanes left over repeat the last block */
            const size_t block = done + (i < count ? i : count - 1);
            float *lane = arena + (i / lanes * model->slots + model->luma) * lanes + i % lanes;
            seen |= fill(from, block, lane, lanes);
            qindex[i] = from->qindex[block * from->qindex_step];
        }
        if (seen >> from->depth)
            return AV1PART_E_SAMPLE;
        way->run(model, arena, groups, qindex);
        for (size_t i = 0; i < count; i++)
            answer_block(to, from, level, done + i,
                         arena + (i / lanes * model->slots + model->logits) * lanes + i % lanes, lanes);
    }
    return 0;
}

int av1part_predict_blocks(const av1part_model *model, const void *blocks, size_t count, int bit_depth,
                           int bytes_per_sample, const uint8_t *qindex, float *logits, float *probability,
                           void *scratch, size_t scratch_size)
{
    struct source from;
    const struct answer to = {logits, probability, NULL, 0};
    if (!model || blocks_source(&from, model->task.unit, blocks, count, bit_depth, bytes_per_sample, qindex))
        return AV1PART_E_INVALID;
    return predict(model, &from, &to, scratch, scratch_size);
}

int av1part_predict_plane(const av1part_model *model, const av1part_plane *plane, int qindex, float threshold,
                          float *probability, av1part_mask *masks, void *scratch, size_t scratch_size)
{
    struct source from;
    uint8_t level;
    const struct answer to = {NULL, probability, masks, threshold};
    if (!model || plane_source(&from, model->task.unit, plane, qindex, threshold, &level))
        return AV1PART_E_INVALID;
    return predict(model, &from, &to, scratch, scratch_size);
}

/* --------------------------------------------------------------------------------------------------------- telling */

const char *av1part_version(void)
{
    return VERSION_TEXT(AV1PART_VERSION_MAJOR, AV1PART_VERSION_MINOR, AV1PART_VERSION_PATCH);
}

int av1part_side(const av1part_model *model)
{
    return model ? (int)model->task.unit : 0;
}

int av1part_types(const av1part_model *model)
{
    return model ? (int)model->task.level.types : 0;
}

int av1part_logits(const av1part_model *model)
{
    return model ? (int)model->task.level.logits : 0;
}

const char *av1part_task(const av1part_model *model)
{
    return model ? model->text : "";
}

int av1part_use(av1part_model *model, const char *instructions)
{
    if (!model || !instructions)
        return AV1PART_E_INVALID;
    const struct kernel *kernel = av1part_kernel(instructions);
    if (!kernel)
        return AV1PART_E_MISSING;
    model->kernel = kernel;
    return 0;
}

const char *av1part_instructions(const av1part_model *model)
{
    return model ? model->kernel->name : "";
}

int av1part_precision(const av1part_model *model)
{
    return model ? (int)model->precision : AV1PART_E_INVALID;
}

int av1part_threshold(const av1part_model *model, double keep, float *threshold)
{
    if (!model || !threshold)
        return AV1PART_E_INVALID;
    for (uint32_t i = 0; i < model->keeps; i++)
        if (model->keep[2 * i] > keep - 1e-4 && model->keep[2 * i] < keep + 1e-4) {
            *threshold = model->keep[2 * i + 1];
            return 0;
        }
    return AV1PART_E_MISSING;
}

const char *av1part_message(int code)
{
    return message_of(code);
}
