#include "failure.h"

#include <stdio.h>

int fail(int status, const char *subject, const char *message)
{
    fprintf(stderr, "error: %s: %s\n", subject, message);
    return status;
}
