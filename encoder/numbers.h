/* Numbers in text that anyone may have written: digits alone, no sign, no space, no overflow. */
#ifndef AV1PART_NUMBERS_H_
#define AV1PART_NUMBERS_H_

#include <stdint.h>

/* Reads the digits that a text begins with. Returns what follows them, or NULL if there is none or they say more than
 * `most`. */
const char *read_digits(const char *text, uint32_t most, uint32_t *value);

/* Whether a text is one number from `least` to `most`, which is put into *value. */
int read_whole(const char *text, uint32_t least, uint32_t most, uint32_t *value);

/* Whether a text is two such numbers, 0 to `most`, with that character between them. */
int read_pair(const char *text, char between, uint32_t most, uint32_t *first, uint32_t *second);

#endif /* AV1PART_NUMBERS_H_ */
