#include "numbers.h"

#include <stddef.h>

const char *read_digits(const char *text, uint32_t most, uint32_t *value)
{
    uint64_t number = 0;
    if (*text < '0' || *text > '9')
        return NULL;
    for (; *text >= '0' && *text <= '9'; text++) {
        number = 10 * number + (uint64_t)(*text - '0');
        if (number > most)
            return NULL;
    }
    *value = (uint32_t)number;
    return text;
}

int read_whole(const char *text, uint32_t least, uint32_t most, uint32_t *value)
{
    const char *rest = read_digits(text, most, value);
    return rest && !*rest && *value >= least;
}

int read_pair(const char *text, char between, uint32_t most, uint32_t *first, uint32_t *second)
{
    const char *rest = read_digits(text, most, first);
    if (!rest || *rest != between)
        return 0;
    rest = read_digits(rest + 1, most, second);
    return rest && !*rest;
}
