/* A file that appears under its name whole, or not at all: it is written beside it and takes its place in the end.
 *
 * Only regular files are treated so. A FIFO, a device and whatever stands for an open descriptor (/dev/stdout) is
 * written as it is, and neither removed nor replaced. Of a link, what it names is written; the link stays. */
#ifndef AV1PART_OUTPUT_FILE_H_
#define AV1PART_OUTPUT_FILE_H_

#include <stdio.h>

typedef struct {
    FILE *file;      /* NULL if none is open */
    char *target;    /* the file that it will be; NULL: written as it is */
    char *temporary; /* beside it */
    int has_name;    /* there is a file called `temporary` */
} OutputFile;

/* Starts one; OutputFile must be zeros. Returns NULL, or what is wrong, for people. */
const char *output_file_open(OutputFile *output, const char *path);

/* Ends the writing: all of it is on the disk. Returns 0 if it is not. */
int output_file_finish(OutputFile *output);

/* Gives a finished file its name. Returns 0 if it cannot have it. */
int output_file_place(OutputFile *output);

/* Forgets a file; what was not placed is gone, and an earlier file is as it was. */
void output_file_discard(OutputFile *output);

/* Whether two files would be one, by device and inode or, of those that are not there yet, by folder and name. The same
 * device, such as /dev/null, may be written twice. */
int output_file_is(const char *path, const char *other);

/* Whether it is an open descriptor's file; devices aside. */
int output_file_is_open_as(const char *path, int descriptor);

#endif /* AV1PART_OUTPUT_FILE_H_ */
