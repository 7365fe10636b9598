/* What every part that speaks of AV1 partitions shares: the types by id, sets of them, and the node that maps are of.
 *
 *      0 NONE    1 HORZ    2 VERT    3 SPLIT   4 HORZ_A  5 HORZ_B  6 VERT_A  7 VERT_B  8 HORZ_4  9 VERT_4
 *     ┌───────┐ ┌───────┐ ┌───┬───┐ ┌───┬───┐ ┌───┬───┐ ┌───────┐ ┌───┬───┐ ┌───┬───┐ ┌───────┐ ┌─┬─┬─┬─┐
 *     │       │ │       │ │   │   │ │   │   │ │   │   │ │       │ │   │   │ │   │   │ ├───────┤ │ │ │ │ │
 *     │       │ ├───────┤ │   │   │ ├───┼───┤ ├───┴───┤ ├───┬───┤ ├───┤   │ │   ├───┤ ├───────┤ │ │ │ │ │
 *     │       │ │       │ │   │   │ │   │   │ │       │ │   │   │ │   │   │ │   │   │ ├───────┤ │ │ │ │ │
 *     └───────┘ └───────┘ └───┴───┘ └───┴───┘ └───────┘ └───┴───┘ └───┴───┘ └───┴───┘ └───────┘ └─┴─┴─┴─┘
 */
#ifndef AV1PART_TYPES_H
#define AV1PART_TYPES_H

#include <stdint.h>

enum {
    AV1PART_NONE,
    AV1PART_HORZ,
    AV1PART_VERT,
    AV1PART_SPLIT,
    AV1PART_HORZ_A,
    AV1PART_HORZ_B,
    AV1PART_VERT_A,
    AV1PART_VERT_B,
    AV1PART_HORZ_4,
    AV1PART_VERT_4,
    AV1PART_TYPES /* how many there are */
};

/* A set of types: bit i for id i. */
typedef uint16_t av1part_mask;

#define AV1PART_BIT(type) (1u << (type))
#define AV1PART_BASIC_TYPES 0x00Fu    /* NONE, HORZ, VERT, SPLIT: all that a node of 8x8 can have */
#define AV1PART_AB_TYPES 0x0F0u       /* HORZ_A, HORZ_B, VERT_A, VERT_B */
#define AV1PART_FOUR_WAY_TYPES 0x300u /* HORZ_4, VERT_4 */
#define AV1PART_UNDECIDED 0x3FFu      /* all of them: an encoder decides the node as if nobody had said anything */

#define AV1PART_NODE_SIZE 16 /* side of the nodes of a partition map, in luma samples */

#endif
