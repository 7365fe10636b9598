/* Restricts libaom's partition search at 16x16 nodes, without a patch: libaom_hook.c replaces three of its functions at
 * link time (ld --wrap), see README.md.
 *
 * One encoder of a process may be restricted at a time; other encoders must not encode while a frame of it is set.
 * Tiles and any number of threads are fine: what a node's search needs is kept by thread. */
#ifndef AV1PART_LIBAOM_HOOK_H_
#define AV1PART_LIBAOM_HOOK_H_

#include <stdint.h>

#include "av1part_types.h"

/* The masks that the frame encoded next must keep to. They stay the caller's, and must stay as they
 * are until av1part_hook_clear.
 *
 *     masks: [rows * columns], of a frame of that many nodes; a frame of another size is not restricted.
 *     met:   [rows * columns], set to 1 where the search came to a restricted node; the caller zeroes it. May be NULL.
 *     whole_split: search the 8x8 nodes of a restricted node's SPLIT too; 0: they are NONE alone, which is faster. */
void av1part_hook_set(const av1part_mask *masks, uint32_t rows, uint32_t columns, uint8_t *met, int whole_split);

/* From here on nothing is restricted. */
void av1part_hook_clear(void);

#endif /* AV1PART_LIBAOM_HOOK_H_ */
