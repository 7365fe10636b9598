#include "reconstruction.h"

#include <math.h>

#define BEST_PSNR 100

static int64_t sample_at(const uint8_t *row, size_t column, int is_deep)
{
    return is_deep ? row[2 * column] | row[2 * column + 1] << 8 : row[column];
}

int reconstruction_add(Reconstruction *reconstruction, const FrameInput *input, const aom_image_t *image)
{
    const FrameFormat *format = &input->format;
    const size_t bytes = format->bit_depth > 8 ? 2 : 1;
    const uint8_t *source = input->samples;
    /* libaom keeps 8-bit frames in bytes unless it was told otherwise, which this program never does. */
    const int is_deep = (image->fmt & AOM_IMG_FMT_HIGHBITDEPTH) != 0;
    for (int plane = 0; plane < (format->monochrome ? 1 : 3); plane++) {
        const size_t width = plane ? (format->width + 1) / 2 : format->width;
        const size_t height = plane ? (format->height + 1) / 2 : format->height;
        uint64_t error = 0;
        for (size_t y = 0; y < height; y++, source += bytes * width) {
            const uint8_t *row = image->planes[plane] + (ptrdiff_t)y * image->stride[plane];
            for (size_t x = 0; x < width; x++) {
                const int64_t difference = sample_at(source, x, bytes == 2) - sample_at(row, x, is_deep);
                error += (uint64_t)(difference * difference);
            }
            if (reconstruction->file && fwrite(row, bytes, width, reconstruction->file) != width)
                return 0;
        }
        reconstruction->squared_error[plane] += (double)error;
        reconstruction->samples[plane] += (double)width * (double)height;
    }
    return 1;
}

double reconstruction_psnr(const Reconstruction *reconstruction, int plane, int bit_depth)
{
    const double peak = (double)((1 << bit_depth) - 1);
    const double error = reconstruction->squared_error[plane];
    return error > 0 ? fmin(10 * log10(reconstruction->samples[plane] * peak * peak / error), BEST_PSNR) : BEST_PSNR;
}
