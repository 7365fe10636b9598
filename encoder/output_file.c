#define _GNU_SOURCE /* O_TMPFILE */
#include "output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "interrupt.h"

#define CANNOT_WRITE "it cannot be written"
enum { MOST_LINKS = 40, MOST_NAMES = 100 };

static int begins_with(const char *text, const char *start)
{
    return !strncmp(text, start, strlen(start));
}

/* Whether a name stands for an open descriptor, as /dev/stdout does, which is a link to such a one. */
static int is_descriptor(const char *path)
{
    return begins_with(path, "/dev/fd/") || begins_with(path, "/proc/");
}

/* Length of a path's folder with its last slash; 0 if it names none. */
static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* A folder and a name in it, joined. */
static char *joined(const char *path, size_t folder, const char *name)
{
    char *made = malloc(folder + strlen(name) + 1);
    if (made) {
        memcpy(made, path, folder);
        strcpy(made + folder, name);
    }
    return made;
}

/* What a path names in the end, links followed, be it there or not (the caller's to free), or NULL. */
static char *follow(const char *path)
{
    char *at = joined("", 0, path);
    for (int i = 0; at && !is_descriptor(at) && i < MOST_LINKS; i++) {
        char named[PATH_MAX];
        const ssize_t length = readlink(at, named, sizeof(named) - 1);
        if (length < 0)
            return at;
        named[length] = '\0';
        char *next = joined(at, named[0] == '/' ? 0 : folder_length(at), named);
        free(at);
        at = next;
    }
    if (at && is_descriptor(at))
        return at;
    free(at);
    return NULL;
}

/* Another name in the target's folder, short so that it fits beside a long one. */
static char *name_beside(const char *target, int number)
{
    char name[64];
    snprintf(name, sizeof(name), ".av1part-enc-%ld-%d.tmp", (long)getpid(), number);
    return joined(target, folder_length(target), name);
}

/* A file without a name, which is gone with this process whatever ends it; -1 where the system has no such thing. */
static int open_nameless(const char *target)
{
    int descriptor = -1;
#if defined(O_TMPFILE)
    char place[64];
    char *folder = folder_length(target) ? joined(target, folder_length(target), "") : joined("", 0, ".");
    if (folder)
        descriptor = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
    free(folder);
    if (descriptor < 0)
        return -1;
    /* By this it will get its name. */
    snprintf(place, sizeof(place), "/proc/self/fd/%d", descriptor);
    if (access(place, F_OK)) {
        close(descriptor);
        return -1;
    }
#else
    (void)target;
#endif
    return descriptor;
}

/* Gives an open file the first free name beside the target, or opens a new one there (descriptor -1). Returns the
 * descriptor, -1 if there is none. */
static int give_name(OutputFile *output, int descriptor)
{
    char place[64];
    snprintf(place, sizeof(place), "/proc/self/fd/%d", descriptor);
    for (int number = 0; number < MOST_NAMES; number++) {
        output->temporary = name_beside(output->target, number);
        if (!output->temporary)
            return -1;
        interrupt_hold();
        const int made = descriptor < 0 ? open(output->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666)
                         : linkat(AT_FDCWD, place, AT_FDCWD, output->temporary, AT_SYMLINK_FOLLOW) ? -1
                                                                                                   : descriptor;
        output->has_name = made >= 0;
        if (output->has_name)
            interrupt_removes(output->temporary);
        interrupt_release();
        if (output->has_name)
            return made;
        free(output->temporary);
        output->temporary = NULL;
        if (errno != EEXIST)
            return -1;
    }
    return -1;
}

static int open_beside(OutputFile *output)
{
    struct stat about;
    int descriptor = open_nameless(output->target);
    if (descriptor < 0)
        descriptor = give_name(output, -1);
    /* Who may read and write an earlier file stays so, where the file system knows of such things. */
    if (descriptor >= 0 && !stat(output->target, &about) && fchmod(descriptor, about.st_mode & 0777))
        errno = 0;
    return descriptor;
}

/* Whether a path is to be written as it is: no regular file, or one that is this program's stdout or stderr. */
static int is_written_through(const char *path, const char *target, const struct stat *about)
{
    return is_descriptor(target) || !S_ISREG(about->st_mode) || output_file_is_open_as(path, STDOUT_FILENO) ||
           output_file_is_open_as(path, STDERR_FILENO);
}

const char *output_file_open(OutputFile *output, const char *path)
{
    struct stat about;
    int descriptor;
    const int is_there = !stat(path, &about);
    if (is_there && S_ISDIR(about.st_mode))
        return "it is a folder";
    output->target = follow(path);
    if (!output->target)
        return CANNOT_WRITE;
    if (is_there && is_written_through(path, output->target, &about)) {
        free(output->target);
        output->target = NULL;
        descriptor = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    } else if (is_there && access(path, W_OK)) {
        return CANNOT_WRITE; /* a file that is protected stays, though its folder would let it be replaced */
    } else {
        descriptor = open_beside(output);
    }
    output->file = descriptor < 0 ? NULL : fdopen(descriptor, "wb");
    if (descriptor >= 0 && !output->file)
        close(descriptor);
    return output->file ? NULL : CANNOT_WRITE;
}

int output_file_finish(OutputFile *output)
{
    if (!output->file)
        return 1;
    int done = !fflush(output->file) && !ferror(output->file);
    if (done && output->target) {
        const int descriptor = fileno(output->file);
        /* Some file systems know no fsync. */
        done = (!fsync(descriptor) || errno == EINVAL) && (output->has_name || give_name(output, descriptor) >= 0);
    }
    if (fclose(output->file))
        done = 0;
    output->file = NULL;
    return done;
}

int output_file_place(OutputFile *output)
{
    if (!output->has_name)
        return 1;
    if (rename(output->temporary, output->target))
        return 0;
    interrupt_spares(output->temporary);
    output->has_name = 0;
    return 1;
}

void output_file_discard(OutputFile *output)
{
    if (output->file)
        fclose(output->file);
    if (output->has_name) {
        unlink(output->temporary);
        interrupt_spares(output->temporary);
    }
    free(output->temporary);
    free(output->target);
    memset(output, 0, sizeof(*output));
}

static int is_same(const struct stat *one, const struct stat *other)
{
    return one->st_dev == other->st_dev && one->st_ino == other->st_ino && !S_ISCHR(one->st_mode);
}

/* Of two files that are not there yet. */
static int will_be_same(const char *one, const char *other)
{
    struct stat folders[2];
    const char *const paths[2] = {one, other};
    for (int i = 0; i < 2; i++) {
        char *folder = folder_length(paths[i]) ? joined(paths[i], folder_length(paths[i]), "") : joined("", 0, ".");
        const int is_there = folder && !stat(folder, &folders[i]);
        free(folder);
        if (!is_there)
            return 0;
    }
    return is_same(&folders[0], &folders[1]) && !strcmp(one + folder_length(one), other + folder_length(other));
}

int output_file_is(const char *path, const char *other)
{
    struct stat one, two;
    const int there = !stat(path, &one), also = !stat(other, &two);
    if (there || also)
        return there && also && is_same(&one, &two);
    char *target = follow(path), *second = follow(other);
    const int same = target && second && will_be_same(target, second);
    free(target);
    free(second);
    return same;
}

int output_file_is_open_as(const char *path, int descriptor)
{
    struct stat one, two;
    return !stat(path, &one) && !fstat(descriptor, &two) && is_same(&one, &two);
}
