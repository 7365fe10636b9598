/* Partition maps: which partitions an encoder may try at each 16x16 node of each frame.
 *
 * C99, no dependency but av1part_types.h, no globals; a map may be used by one thread at a time, different maps by any
 * number.
 *
 *     av1part_map *map;
 *     av1part_status status = av1part_map_open_file("clip.apm", &map);
 *     if (status) fprintf(stderr, "%s\n", av1part_status_text(status));
 *     while (!(status = av1part_map_next(map, &frame)))
 *         use(frame.masks[row * frame.columns + column]);
 *     if (status != AV1PART_END) ...
 *     av1part_map_close(map);
 *
 * The file, all numbers little-endian:
 *
 *     byte   0  8  "AV1PMAP\0"
 *            8  2  version, 1
 *           10  2  bytes of this header, 32
 *           12  4  width of the frames in luma samples, 16-65536
 *           16  4  height
 *           20  4  number of frames; 0: as many as come until the end
 *           24  1  qindex that the masks are for, 0-255
 *           25  1  node size in luma samples, 16
 *           26  2  flags: 1: probabilities follow the masks of each frame; all others 0
 *           28  4  0
 *           32     frames: uint16 masks [rows][columns], then, with flag 1, uint8 probabilities [rows][columns][10],
 *                  255 for certain; rows = ceil(height / 16), columns = ceil(width / 16)
 *
 * A mask has bit i set if the partition type of id i (av1part_types.h) is worth trying. NONE is always set; 0x3FF
 * leaves the node to the encoder. Nodes that straddle the edge of the frame are always 0x3FF. */
#ifndef AV1PART_PARTITION_MAP_H_
#define AV1PART_PARTITION_MAP_H_

#include <stdint.h>
#include <stdio.h>

#include "av1part_types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    AV1PART_OK = 0,
    AV1PART_END,         /* no frame is left */
    AV1PART_CANNOT_OPEN, /* the file is not there, or cannot be read; errno says why */
    AV1PART_NO_MEMORY,
    AV1PART_NOT_A_MAP,     /* other magic, or shorter than a header */
    AV1PART_OTHER_VERSION, /* a map, but of a version that this reader does not know */
    AV1PART_BAD_HEADER,    /* a field is outside its range */
    AV1PART_BAD_MASK,      /* without NONE, with unknown bits, or decided at the edge of the frame */
    AV1PART_TRUNCATED,     /* the file ends within a frame, or before the last */
    AV1PART_TOO_LONG       /* something follows the last frame */
} av1part_status;

typedef struct {
    uint32_t width, height; /* of the frames, in luma samples */
    uint32_t rows, columns; /* of nodes */
    uint32_t frames;        /* 0: not known */
    uint8_t qindex;
    uint8_t has_probability; /* 0 or 1 */
} av1part_map_info;

typedef struct {
    uint32_t rows, columns;
    const av1part_mask *masks;  /* [rows * columns] */
    const uint8_t *probability; /* [rows * columns * 10], NULL if the file holds none */
} av1part_map_frame;

typedef struct av1part_map av1part_map;

/* Opens a map and checks its header. On AV1PART_OK *map is the caller's, who ends it with av1part_map_close; on any
 * other status it is NULL. */
av1part_status av1part_map_open_file(const char *path, av1part_map **map);

/* The same from a stream that stands at the header, such as a pipe: frames are read as they come. The stream stays the
 * caller's: it must outlive the map, and av1part_map_close leaves it open. */
av1part_status av1part_map_open_stream(FILE *stream, av1part_map **map);

/* What holds for every frame. Never fails. */
av1part_map_info av1part_map_describe(const av1part_map *map);

/* Reads and checks the next frame. Its arrays belong to the map and hold until the next call or the close.
 * AV1PART_END: there is none, and the file ends as it should. After any status but AV1PART_OK: no more frames. */
av1part_status av1part_map_next(av1part_map *map, av1part_map_frame *frame);

/* Frees a map and closes the file that av1part_map_open_file opened; NULL is allowed. */
void av1part_map_close(av1part_map *map);

/* One line for people, never NULL, not to be freed. */
const char *av1part_status_text(av1part_status status);

#ifdef __cplusplus
}
#endif
#endif /* AV1PART_PARTITION_MAP_H_ */
