#include "stream_output.h"

#include <string.h>

static void put(uint8_t *bytes, uint64_t value, int count)
{
    for (int i = 0; i < count; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
}

static int write_ivf_header(StreamOutput *output)
{
    uint8_t header[32] = {'D', 'K', 'I', 'F', 0, 0, 32, 0, 'A', 'V', '0', '1'};
    put(header + 12, output->width, 2);
    put(header + 14, output->height, 2);
    put(header + 16, output->rate, 4);
    put(header + 20, output->scale, 4);
    put(header + 24, output->frames, 4);
    return fwrite(header, 1, sizeof(header), output->file) == sizeof(header);
}

int stream_output_start(StreamOutput *output, FILE *file, const char *name, uint32_t width, uint32_t height,
                        uint32_t rate, uint32_t scale)
{
    const size_t length = strlen(name);
    *output = (StreamOutput){.file = file, .width = width, .height = height, .rate = rate, .scale = scale};
    output->is_ivf = length < 4 || strcmp(name + length - 4, ".obu");
    return !output->is_ivf || write_ivf_header(output);
}

int stream_output_write(StreamOutput *output, const void *unit, size_t size, int64_t time)
{
    uint8_t header[12];
    put(header, size, 4);
    put(header + 4, (uint64_t)time, 8);
    output->frames++;
    if (output->is_ivf && fwrite(header, 1, sizeof(header), output->file) != sizeof(header))
        return 0;
    return fwrite(unit, 1, size, output->file) == size;
}

int stream_output_finish(StreamOutput *output)
{
    return !output->is_ivf || (!fseek(output->file, 0, SEEK_SET) && write_ivf_header(output));
}
