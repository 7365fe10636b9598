/* Reads partition maps; partition_map.h is the documentation. */
#include "partition_map.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_BYTES 32
#define VERSION 1
#define FLAG_PROBABILITY 1u
#define MAX_SIDE 65536u

struct av1part_map {
    FILE *file;
    int owns_file;
    av1part_map_info info;
    uint32_t frames_read;
    av1part_status ended; /* AV1PART_OK while frames may come */
    uint8_t *bytes;       /* of one frame, as in the file */
    size_t frame_bytes, mask_bytes;
    av1part_mask *masks;
};

static uint32_t read_number(const uint8_t *bytes, int count)
{
    uint32_t value = 0;
    while (count--)
        value = value << 8 | bytes[count];
    return value;
}

static av1part_status parse_header(const uint8_t *header, av1part_map_info *info)
{
    static const uint8_t magic[8] = {'A', 'V', '1', 'P', 'M', 'A', 'P', 0};
    if (memcmp(header, magic, sizeof(magic)) != 0)
        return AV1PART_NOT_A_MAP;
    if (read_number(header + 8, 2) != VERSION)
        return AV1PART_OTHER_VERSION;
    const uint32_t flags = read_number(header + 26, 2);
    info->width = read_number(header + 12, 4);
    info->height = read_number(header + 16, 4);
    info->frames = read_number(header + 20, 4);
    info->qindex = header[24];
    info->has_probability = (uint8_t)(flags & FLAG_PROBABILITY);
    if (read_number(header + 10, 2) != HEADER_BYTES || header[25] != AV1PART_NODE_SIZE || (flags & ~FLAG_PROBABILITY) ||
        read_number(header + 28, 4) != 0)
        return AV1PART_BAD_HEADER;
    if (info->width < AV1PART_NODE_SIZE || info->height < AV1PART_NODE_SIZE || info->width > MAX_SIDE ||
        info->height > MAX_SIDE)
        return AV1PART_BAD_HEADER;
    info->rows = (info->height + AV1PART_NODE_SIZE - 1) / AV1PART_NODE_SIZE;
    info->columns = (info->width + AV1PART_NODE_SIZE - 1) / AV1PART_NODE_SIZE;
    return AV1PART_OK;
}

av1part_status av1part_map_open_stream(FILE *stream, av1part_map **map)
{
    uint8_t header[HEADER_BYTES];
    av1part_map_info info = {0};
    *map = NULL;
    if (fread(header, 1, sizeof(header), stream) != sizeof(header))
        return AV1PART_NOT_A_MAP;
    const av1part_status status = parse_header(header, &info);
    if (status)
        return status;
    av1part_map *made = calloc(1, sizeof(*made));
    if (!made)
        return AV1PART_NO_MEMORY;
    /* At most 4096 x 4096 nodes of 12 bytes: no product here can overflow. */
    const size_t nodes = (size_t)info.rows * info.columns;
    made->file = stream;
    made->info = info;
    made->mask_bytes = 2 * nodes;
    made->frame_bytes = made->mask_bytes + (info.has_probability ? AV1PART_TYPES * nodes : 0);
    made->bytes = malloc(made->frame_bytes);
    made->masks = malloc(nodes * sizeof(*made->masks));
    if (!made->bytes || !made->masks) {
        av1part_map_close(made);
        return AV1PART_NO_MEMORY;
    }
    *map = made;
    return AV1PART_OK;
}

av1part_status av1part_map_open_file(const char *path, av1part_map **map)
{
    *map = NULL;
    FILE *file = fopen(path, "rb");
    if (!file)
        return AV1PART_CANNOT_OPEN;
    const av1part_status status = av1part_map_open_stream(file, map);
    if (status)
        fclose(file);
    else
        (*map)->owns_file = 1;
    return status;
}

av1part_map_info av1part_map_describe(const av1part_map *map)
{
    return map->info;
}

static int masks_are_sound(const av1part_map *map)
{
    const uint32_t whole_rows = map->info.height / AV1PART_NODE_SIZE,
                   whole_columns = map->info.width / AV1PART_NODE_SIZE;
    const av1part_mask *mask = map->masks;
    for (uint32_t row = 0; row < map->info.rows; row++) {
        for (uint32_t column = 0; column < map->info.columns; column++, mask++) {
            const int straddles = row >= whole_rows || column >= whole_columns;
            if (*mask > AV1PART_UNDECIDED || !(*mask & AV1PART_BIT(AV1PART_NONE)) ||
                (straddles && *mask != AV1PART_UNDECIDED))
                return 0;
        }
    }
    return 1;
}

static av1part_status read_frame(av1part_map *map)
{
    const int all_read = map->info.frames && map->frames_read == map->info.frames;
    const size_t count = fread(map->bytes, 1, all_read ? 1 : map->frame_bytes, map->file);
    if (all_read)
        return count ? AV1PART_TOO_LONG : AV1PART_END;
    if (count == 0 && !map->info.frames && map->frames_read)
        return AV1PART_END;
    if (count != map->frame_bytes)
        return AV1PART_TRUNCATED;
    for (size_t i = 0; i < map->mask_bytes / 2; i++)
        map->masks[i] = (av1part_mask)read_number(map->bytes + 2 * i, 2);
    map->frames_read++;
    return masks_are_sound(map) ? AV1PART_OK : AV1PART_BAD_MASK;
}

av1part_status av1part_map_next(av1part_map *map, av1part_map_frame *frame)
{
    if (!map->ended)
        map->ended = read_frame(map);
    if (map->ended)
        return map->ended;
    frame->rows = map->info.rows;
    frame->columns = map->info.columns;
    frame->masks = map->masks;
    frame->probability = map->info.has_probability ? map->bytes + map->mask_bytes : NULL;
    return AV1PART_OK;
}

void av1part_map_close(av1part_map *map)
{
    if (!map)
        return;
    if (map->owns_file)
        fclose(map->file);
    free(map->bytes);
    free(map->masks);
    free(map);
}

const char *av1part_status_text(av1part_status status)
{
    switch (status) {
    case AV1PART_OK: return "no error";
    case AV1PART_END: return "no frame is left";
    case AV1PART_CANNOT_OPEN: return "the file cannot be opened";
    case AV1PART_NO_MEMORY: return "not enough memory";
    case AV1PART_NOT_A_MAP: return "it is no partition map";
    case AV1PART_OTHER_VERSION: return "it is a partition map of a version that this program does not know";
    case AV1PART_BAD_HEADER: return "its header is malformed";
    case AV1PART_BAD_MASK: return "it holds an impossible mask";
    case AV1PART_TRUNCATED: return "it ends within a frame";
    case AV1PART_TOO_LONG: return "something follows its last frame";
    }
    return "unknown status";
}
