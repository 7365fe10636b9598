#include "predictor.h"

#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "interrupt.h"

/* Where `make encoder` was run; the environment may say otherwise. */
#ifndef AV1PART_PYTHON
#define AV1PART_PYTHON "python3"
#endif
#ifndef AV1PART_CLI
#define AV1PART_CLI "cli.py"
#endif

extern char **environ;

static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value && value[0] ? value : otherwise;
}

/* A file's name as an argument that is not taken for an option. */
static const char *argument(const char *name, char *place, size_t size)
{
    if (name[0] != '-')
        return name;
    return snprintf(place, size, "./%s", name) < (int)size ? place : NULL;
}

int predictor_start(Predictor *predictor, const char *input, const FrameFormat *raw, int qindex,
                    const PredictorOptions *options)
{
    const char *words[24];
    char q[16], size[32], depth[16], names[2][PATH_MAX];
    int count = 0, ends[2];
    input = argument(input, names[0], sizeof(names[0]));
    const char *bundle = argument(options->bundle, names[1], sizeof(names[1]));
    if (!input || !bundle)
        return 0;
    words[count++] = setting("AV1PART_PYTHON", AV1PART_PYTHON);
    words[count++] = setting("AV1PART_CLI", AV1PART_CLI);
    words[count++] = "predict";
    words[count++] = input;
    words[count++] = "--bundle";
    words[count++] = bundle;
    snprintf(q, sizeof(q), "%d", qindex);
    words[count++] = "--qindex";
    words[count++] = q;
    words[count++] = "--output";
    words[count++] = "-";
    if (options->keep || options->threshold) {
        words[count++] = options->threshold ? "--threshold" : "--keep";
        words[count++] = options->threshold ? options->threshold : options->keep;
    }
    if (raw) {
        snprintf(size, sizeof(size), "%ux%u", (unsigned)raw->width, (unsigned)raw->height);
        snprintf(depth, sizeof(depth), "%d", raw->bit_depth);
        words[count++] = "--size";
        words[count++] = size;
        words[count++] = "--bit-depth";
        words[count++] = depth;
        words[count++] = "--chroma";
        words[count++] = raw->monochrome ? "mono" : "420";
    }
    words[count] = NULL;

    if (pipe(ends))
        return 0;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    interrupt_hold();
    /* posix_spawn takes the words as not const, and does not change them. */
    const int failed = posix_spawnp(&predictor->process, words[0], &actions, NULL, (char *const *)words, environ);
    if (!failed)
        interrupt_ends(predictor->process);
    interrupt_release();
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    predictor->stream = failed ? NULL : fdopen(ends[0], "rb");
    if (!predictor->stream)
        close(ends[0]);
    return predictor->stream != NULL;
}

int predictor_finish(Predictor *predictor, int all_read, double *cpu_seconds)
{
    struct rusage used;
    int status = 0;
    if (!predictor->stream)
        return 0;
    fclose(predictor->stream);
    predictor->stream = NULL;
    if (!all_read)
        kill(predictor->process, SIGTERM);
    const pid_t ended = waitpid(predictor->process, &status, 0);
    interrupt_ends(0);
    if (ended < 0)
        return 1;
    if (!getrusage(RUSAGE_CHILDREN, &used))
        *cpu_seconds = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                       1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    if (!all_read)
        return 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
