/* av1part-enc: an all-intra libaom encoder that tries only the partitions of a partition map.
 *
 *     input frame -> masks (of a file, a predicting process, or a model in this one)
 *                 -> libaom, restricted by the hook -> IVF or OBU
 *
 * libaom encodes each frame within its own call (no lag), so the masks that are set before the call are that frame's.
 * Exit status: 0 done; 1 cannot write; 2 usage; 3 bad input; 4 cannot predict; 70 libaom failed. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "aom/aom_encoder.h"
#include "aom/aomcx.h"

#include "frame_input.h"
#include "frame_model.h"
#include "libaom_hook.h"
#include "options.h"
#include "partition_map.h"
#include "predictor.h"
#include "reconstruction.h"
#include "stream_output.h"

enum { CANNOT_WRITE = 1, BAD_INPUT = 3, CANNOT_PREDICT = 4, LIBAOM_FAILED = 70 };

typedef struct {
    Options options;
    FrameInput input;
    StreamOutput output;
    Reconstruction reconstruction;
    aom_codec_ctx_t codec;
    int codec_is_open;
    Predictor predictor;
    av1part_map *map;
    FrameModel own;
    uint32_t rows, columns; /* of nodes; 0 if nothing restricts */
    uint8_t *met;           /* by node of the current frame */
    uint64_t nodes, restricted, nodes_met, bytes;
    double encode_seconds, predict_seconds;
} Encoder;

static int fail(int status, const char *subject, const char *message)
{
    fprintf(stderr, "error: %s: %s\n", subject, message);
    return status;
}

static double cpu_seconds(void)
{
    struct rusage used;
    if (getrusage(RUSAGE_SELF, &used))
        return 0;
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static double wall_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* libaom's qindex of a cq-level. */
static int qindex_of(int cq)
{
    return cq < 62 ? 4 * cq : cq == 62 ? 249 : 255;
}

static int open_codec(Encoder *encoder)
{
    const Options *options = &encoder->options;
    const FrameFormat *format = &encoder->input.format;
    aom_codec_enc_cfg_t config;
    if (aom_codec_enc_config_default(aom_codec_av1_cx(), &config, AOM_USAGE_ALL_INTRA))
        return LIBAOM_FAILED;
    config.g_w = format->width;
    config.g_h = format->height;
    config.g_bit_depth = (aom_bit_depth_t)format->bit_depth;
    config.g_input_bit_depth = (unsigned)format->bit_depth;
    config.monochrome = (unsigned)format->monochrome;
    config.g_timebase.num = format->scale;
    config.g_timebase.den = format->rate;
    config.g_limit = options->limit;
    config.g_threads = (unsigned)options->threads;
    config.g_lag_in_frames = 0;
    config.rc_end_usage = AOM_Q;
    const aom_codec_flags_t flags = format->bit_depth > 8 ? AOM_CODEC_USE_HIGHBITDEPTH : 0;
    if (aom_codec_enc_init(&encoder->codec, aom_codec_av1_cx(), &config, flags))
        return fail(LIBAOM_FAILED, "libaom", aom_codec_error(&encoder->codec));
    encoder->codec_is_open = 1;
    const aom_codec_err_t wrong =
        aom_codec_control(&encoder->codec, AOME_SET_CPUUSED, options->speed) |
        aom_codec_control(&encoder->codec, AOME_SET_CQ_LEVEL, (unsigned)options->cq) |
        aom_codec_control(&encoder->codec, AV1E_SET_TILE_COLUMNS, (unsigned)options->tile_columns) |
        aom_codec_control(&encoder->codec, AV1E_SET_TILE_ROWS, (unsigned)options->tile_rows) |
        aom_codec_control(&encoder->codec, AV1E_SET_COLOR_RANGE, format->full_range);
    return wrong ? fail(LIBAOM_FAILED, "libaom", "it refuses an option") : 0;
}

static int restrict_nodes(Encoder *encoder, const char *name, uint32_t rows, uint32_t columns)
{
    encoder->rows = rows;
    encoder->columns = columns;
    encoder->met = malloc((size_t)rows * columns);
    return encoder->met ? 0 : fail(LIBAOM_FAILED, name, "not enough memory");
}

/* The map's header must be of these frames at this qindex. */
static int check_map(Encoder *encoder, const char *name)
{
    const av1part_map_info info = av1part_map_describe(encoder->map);
    const FrameFormat *format = &encoder->input.format;
    char message[160];
    if (info.width == format->width && info.height == format->height && info.qindex == qindex_of(encoder->options.cq))
        return restrict_nodes(encoder, name, info.rows, info.columns);
    snprintf(message, sizeof(message), "it is for %ux%u at qindex %d, and this is %ux%u at %d", (unsigned)info.width,
             (unsigned)info.height, info.qindex, (unsigned)format->width, (unsigned)format->height,
             qindex_of(encoder->options.cq));
    return fail(BAD_INPUT, name, message);
}

static int open_map(Encoder *encoder)
{
    const Options *options = &encoder->options;
    const char *name = options->map ? options->map : "prediction";
    av1part_status status = AV1PART_OK;
    if (options->predictor.bundle) {
        const FrameFormat *raw = options->is_raw ? &options->raw : NULL;
        if (!predictor_start(&encoder->predictor, options->input, raw, qindex_of(options->cq), &options->predictor))
            return fail(CANNOT_PREDICT, name,
                        "its process cannot be started; AV1PART_PYTHON and AV1PART_CLI say where it is");
        status = av1part_map_open_stream(encoder->predictor.stream, &encoder->map);
        /* It has said itself what was wrong. */
        if (status)
            return fail(CANNOT_PREDICT, name, "the predicting process gave no map");
    } else if (options->model) {
        FrameModel *own = &encoder->own;
        const FrameFormat *format = &encoder->input.format;
        const char *wrong = frame_model_open(own, options->model, format, qindex_of(options->cq), &options->predictor);
        return wrong ? fail(BAD_INPUT, options->model, wrong)
                     : restrict_nodes(encoder, options->model, own->rows, own->columns);
    } else if (options->map) {
        status = av1part_map_open_file(options->map, &encoder->map);
        if (status)
            return fail(BAD_INPUT, name, av1part_status_text(status));
    }
    return encoder->map ? check_map(encoder, name) : 0;
}

/* The current frame's masks, by whichever way; NULL if there are none, and *status says why. */
static const av1part_mask *masks_of_frame(Encoder *encoder, int *status)
{
    if (encoder->own.model) {
        const double before = cpu_seconds();
        const char *wrong = frame_model_predict(&encoder->own, encoder->input.samples);
        encoder->predict_seconds += cpu_seconds() - before;
        if (wrong)
            *status = fail(BAD_INPUT, encoder->options.model, wrong);
        return wrong ? NULL : encoder->own.masks;
    }
    av1part_map_frame frame;
    const av1part_status read = av1part_map_next(encoder->map, &frame);
    if (!read)
        return frame.masks;
    const char *text = read == AV1PART_END ? "it has fewer frames than the input" : av1part_status_text(read);
    *status =
        encoder->options.map ? fail(BAD_INPUT, encoder->options.map, text) : fail(CANNOT_PREDICT, "prediction", text);
    return NULL;
}

static int set_masks(Encoder *encoder)
{
    int status = 0;
    if (!encoder->rows)
        return 0;
    const av1part_mask *masks = masks_of_frame(encoder, &status);
    if (!masks)
        return status;
    const size_t nodes = (size_t)encoder->rows * encoder->columns;
    encoder->nodes += nodes;
    for (size_t i = 0; i < nodes; i++)
        encoder->restricted += masks[i] != AV1PART_UNDECIDED;
    memset(encoder->met, 0, nodes);
    av1part_hook_set(masks, encoder->rows, encoder->columns, encoder->met, encoder->options.whole_split);
    return 0;
}

static void clear_masks(Encoder *encoder)
{
    if (!encoder->rows)
        return;
    av1part_hook_clear();
    for (size_t i = 0; i < (size_t)encoder->rows * encoder->columns; i++)
        encoder->nodes_met += encoder->met[i];
}

static void wrap_image(aom_image_t *image, const FrameInput *input)
{
    const FrameFormat *format = &input->format;
    const size_t bytes = format->bit_depth > 8 ? 2 : 1;
    const size_t luma = bytes * format->width * format->height;
    const size_t chroma_width = (format->width + 1) / 2, chroma_height = (format->height + 1) / 2;
    aom_img_wrap(image, bytes == 2 ? AOM_IMG_FMT_I42016 : AOM_IMG_FMT_I420, format->width, format->height, 1,
                 input->samples);
    image->bit_depth = (unsigned)format->bit_depth;
    image->monochrome = format->monochrome;
    image->planes[1] = input->samples + luma;
    image->planes[2] = input->samples + luma + bytes * chroma_width * chroma_height;
    image->stride[0] = (int)(bytes * format->width);
    image->stride[1] = image->stride[2] = (int)(bytes * chroma_width);
}

static int encode_frame(Encoder *encoder, int64_t time)
{
    const aom_codec_cx_pkt_t *packet;
    aom_codec_iter_t cursor = NULL;
    aom_image_t image;
    int units = 0, status = set_masks(encoder);
    if (status)
        return status;
    wrap_image(&image, &encoder->input);
    const double before = cpu_seconds();
    const aom_codec_err_t wrong = aom_codec_encode(&encoder->codec, &image, time, 1, 0);
    encoder->encode_seconds += cpu_seconds() - before;
    clear_masks(encoder);
    if (wrong)
        return fail(LIBAOM_FAILED, "libaom", aom_codec_error(&encoder->codec));
    while ((packet = aom_codec_get_cx_data(&encoder->codec, &cursor))) {
        if (packet->kind != AOM_CODEC_CX_FRAME_PKT)
            continue;
        units++;
        encoder->bytes += packet->data.frame.sz;
        if (!stream_output_write(&encoder->output, packet->data.frame.buf, packet->data.frame.sz,
                                 packet->data.frame.pts))
            return fail(CANNOT_WRITE, encoder->options.output, "it cannot be written");
    }
    if (units != 1)
        return fail(LIBAOM_FAILED, "libaom", "it did not encode the frame within its call");
    if (aom_codec_control(&encoder->codec, AV1_GET_NEW_FRAME_IMAGE, &image))
        return fail(LIBAOM_FAILED, "libaom", "it gives no reconstruction");
    return reconstruction_add(&encoder->reconstruction, &encoder->input, &image)
               ? 0
               : fail(CANNOT_WRITE, encoder->options.reconstruction, "it cannot be written");
}

static int encode(Encoder *encoder)
{
    const Options *options = &encoder->options;
    const FrameFormat *format = &encoder->input.format;
    int status = open_codec(encoder);
    if (!status)
        status = open_map(encoder);
    if (status)
        return status;
    if (!stream_output_open(&encoder->output, options->output, format->width, format->height, (uint32_t)format->rate,
                            (uint32_t)format->scale))
        return fail(CANNOT_WRITE, options->output, "it cannot be written");
    if (!reconstruction_open(&encoder->reconstruction, options->reconstruction))
        return fail(CANNOT_WRITE, options->reconstruction, "it cannot be written");
    int more = 0;
    for (int64_t time = 0; !options->limit || time < (int64_t)options->limit; time++) {
        more = frame_input_read(&encoder->input);
        if (more < 0)
            return fail(BAD_INPUT, options->input, "it is damaged, or ends within a frame");
        if (!more)
            break;
        status = encode_frame(encoder, time);
        if (status)
            return status;
    }
    if (!encoder->input.frames)
        return fail(BAD_INPUT, options->input, "it holds no frame");
    /* If --limit ended it, the map may hold more. */
    av1part_map_frame rest;
    const int all_read = encoder->map && !more && av1part_map_next(encoder->map, &rest) == AV1PART_END;
    if (encoder->map && !more && !all_read)
        return fail(BAD_INPUT, options->map ? options->map : "prediction",
                    "it has more frames than the input, or is damaged");
    if (options->predictor.bundle && predictor_finish(&encoder->predictor, all_read, &encoder->predict_seconds))
        return fail(CANNOT_PREDICT, "prediction", "the predicting process failed");
    if (!stream_output_finish(&encoder->output))
        return fail(CANNOT_WRITE, options->output, "it cannot be written");
    if (!reconstruction_close(&encoder->reconstruction))
        return fail(CANNOT_WRITE, options->reconstruction, "it cannot be written");
    return 0;
}

static void report(const Encoder *encoder, double wall)
{
    const unsigned long long frames = encoder->input.frames, bytes = encoder->bytes, nodes = encoder->nodes;
    const unsigned long long restricted = encoder->restricted, met = encoder->nodes_met;
    double psnr[3];
    for (int plane = 0; plane < 3; plane++)
        psnr[plane] = reconstruction_psnr(&encoder->reconstruction, plane, encoder->input.format.bit_depth);
    if (encoder->options.as_json) {
        printf("{\"frames\": %llu, \"bytes\": %llu, \"encode_cpu_s\": %.6f, \"predict_cpu_s\": %.6f, \"wall_s\": %.6f, "
               "\"psnr_y\": %.6f, \"psnr_u\": %.6f, \"psnr_v\": %.6f, \"nodes\": %llu, \"restricted\": %llu, "
               "\"met\": %llu}\n",
               frames, bytes, encoder->encode_seconds, encoder->predict_seconds, wall, psnr[0], psnr[1], psnr[2], nodes,
               restricted, met);
        return;
    }
    printf("%llu frames, %llu bytes, %.2f s of CPU encoding, %.2f s predicting, %.2f s of wall time\n", frames, bytes,
           encoder->encode_seconds, encoder->predict_seconds, wall);
    printf("PSNR Y %.3f U %.3f V %.3f dB\n", psnr[0], psnr[1], psnr[2]);
    if (encoder->rows)
        printf("%llu of %llu nodes restricted, of which the search came to %llu\n", restricted, nodes, met);
}

int main(int argc, char **argv)
{
    static Encoder encoder;
    const double start = wall_seconds();
    const int parsed = options_parse(&encoder.options, argc, argv);
    if (parsed)
        return parsed - 1;
    const Options *options = &encoder.options;
    const char *wrong = frame_input_open(&encoder.input, options->input, options->is_raw ? &options->raw : NULL);
    if (wrong)
        return fail(BAD_INPUT, options->input, wrong);
    const int status = encode(&encoder);
    if (!status)
        report(&encoder, wall_seconds() - start);
    stream_output_discard(&encoder.output);
    reconstruction_close(&encoder.reconstruction);
    av1part_map_close(encoder.map);
    predictor_finish(&encoder.predictor, 0, &encoder.predict_seconds);
    frame_model_close(&encoder.own);
    if (encoder.codec_is_open)
        aom_codec_destroy(&encoder.codec);
    frame_input_close(&encoder.input);
    free(encoder.met);
    return status;
}
