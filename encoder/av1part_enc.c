/* av1part-enc: an all-intra libaom encoder that tries only the partitions of a partition map.
 *
 *     input frame -> masks (of a file, a predicting process, or a model in this one)
 *                 -> libaom, restricted by the hook -> IVF or OBU
 *
 * libaom encodes each frame within its own call (no lag), so the masks that are set before the call are that frame's.
 * Exit status: 0 done; 1 cannot write; 2 usage; 3 bad input; 4 cannot predict; 70 libaom failed; 130 interrupted. */
#include <fcntl.h>
#include <unistd.h>

#include "aom/aom_encoder.h"
#include "aom/aomcx.h"

#include "failure.h"
#include "frame_input.h"
#include "interrupt.h"
#include "node_masks.h"
#include "options.h"
#include "output_file.h"
#include "reconstruction.h"
#include "report.h"
#include "seconds.h"
#include "stream_output.h"

#define CANNOT_BE_WRITTEN "it cannot be written"

typedef struct {
    Options options;
    FrameInput input;
    OutputFile output, reconstructed;
    StreamOutput stream;
    Reconstruction reconstruction;
    aom_codec_ctx_t codec;
    int codec_is_open;
    NodeMasks masks;
    uint64_t bytes;
    double encode_seconds;
} Encoder;

/* Descriptors 0 to 2 that whoever started us has closed would else be those of the next files to be opened. What is
 * written to them fails. */
static void fill_closed_descriptors(void)
{
    for (int descriptor = 0; descriptor <= STDERR_FILENO; descriptor++)
        if (fcntl(descriptor, F_GETFD) < 0 && open("/dev/null", descriptor ? O_RDONLY : O_WRONLY) < 0)
            return;
}

/* Nothing that is written may be what is read, nor both outputs one. */
static int check_files(const Encoder *encoder)
{
    const Options *options = &encoder->options;
    const char *const outputs[] = {options->output, options->reconstruction};
    const struct {
        const char *path, *message;
    } inputs[] = {
        {options->map, "it is the partition map too, and would be lost"},
        {options->model, "it is the model too, and would be lost"},
    };
    for (int i = 0; i < 2 && outputs[i]; i++) {
        if (output_file_is_open_as(outputs[i], fileno(encoder->input.file)))
            return fail(BAD_USAGE, outputs[i], "it is the input too, and would be lost");
        for (int k = 0; k < 2; k++)
            if (inputs[k].path && output_file_is(outputs[i], inputs[k].path))
                return fail(BAD_USAGE, outputs[i], inputs[k].message);
    }
    if (options->reconstruction && output_file_is(options->output, options->reconstruction))
        return fail(BAD_USAGE, options->reconstruction, "it is the output too");
    return 0;
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
    config.g_limit = (unsigned)options->limit;
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
    int units = 0, status = node_masks_set(&encoder->masks, encoder->input.samples);
    if (status)
        return status;
    wrap_image(&image, &encoder->input);
    const double before = cpu_seconds();
    const aom_codec_err_t wrong = aom_codec_encode(&encoder->codec, &image, time, 1, 0);
    encoder->encode_seconds += cpu_seconds() - before;
    node_masks_clear(&encoder->masks);
    if (wrong)
        return fail(LIBAOM_FAILED, "libaom", aom_codec_error(&encoder->codec));
    while ((packet = aom_codec_get_cx_data(&encoder->codec, &cursor))) {
        if (packet->kind != AOM_CODEC_CX_FRAME_PKT)
            continue;
        units++;
        encoder->bytes += packet->data.frame.sz;
        if (!stream_output_write(&encoder->stream, packet->data.frame.buf, packet->data.frame.sz,
                                 packet->data.frame.pts))
            return fail(CANNOT_WRITE, encoder->options.output, CANNOT_BE_WRITTEN);
    }
    if (units != 1)
        return fail(LIBAOM_FAILED, "libaom", "it did not encode the frame within its call");
    if (aom_codec_control(&encoder->codec, AV1_GET_NEW_FRAME_IMAGE, &image))
        return fail(LIBAOM_FAILED, "libaom", "it gives no reconstruction");
    return reconstruction_add(&encoder->reconstruction, &encoder->input, &image)
               ? 0
               : fail(CANNOT_WRITE, encoder->options.reconstruction, CANNOT_BE_WRITTEN);
}

static int open_outputs(Encoder *encoder)
{
    const Options *options = &encoder->options;
    const FrameFormat *format = &encoder->input.format;
    const char *wrong = output_file_open(&encoder->output, options->output);
    if (wrong)
        return fail(CANNOT_WRITE, options->output, wrong);
    if (!stream_output_start(&encoder->stream, encoder->output.file, options->output, format->width, format->height,
                             (uint32_t)format->rate, (uint32_t)format->scale))
        return fail(CANNOT_WRITE, options->output, CANNOT_BE_WRITTEN);
    if (!options->reconstruction)
        return 0;
    wrong = output_file_open(&encoder->reconstructed, options->reconstruction);
    encoder->reconstruction.file = encoder->reconstructed.file;
    return wrong ? fail(CANNOT_WRITE, options->reconstruction, wrong) : 0;
}

static int encode_frames(Encoder *encoder)
{
    const Options *options = &encoder->options;
    int more = 1;
    for (int64_t time = 0; !options->limit || time < options->limit; time++) {
        more = frame_input_read(&encoder->input);
        if (more < 0)
            return fail(BAD_INPUT, options->input, "it is damaged, or ends within a frame");
        if (!more)
            break;
        const int status = encode_frame(encoder, time);
        if (status)
            return status;
    }
    if (!encoder->input.frames)
        return fail(BAD_INPUT, options->input, "it holds no frame");
    return node_masks_finish(&encoder->masks, !more);
}

/* What was written is on the disk, then both files take their places. */
static int finish_outputs(Encoder *encoder)
{
    const Options *options = &encoder->options;
    /* Of a file that is written as it is, the start may be somebody else's. */
    if ((encoder->output.target && !stream_output_finish(&encoder->stream)) || !output_file_finish(&encoder->output))
        return fail(CANNOT_WRITE, options->output, CANNOT_BE_WRITTEN);
    if (!output_file_finish(&encoder->reconstructed))
        return fail(CANNOT_WRITE, options->reconstruction, CANNOT_BE_WRITTEN);
    interrupt_hold();
    const char *wrong = !output_file_place(&encoder->output)          ? options->output
                        : !output_file_place(&encoder->reconstructed) ? options->reconstruction
                                                                      : NULL;
    interrupt_release();
    return wrong ? fail(CANNOT_WRITE, wrong, CANNOT_BE_WRITTEN) : 0;
}

static int encode(Encoder *encoder)
{
    const Options *options = &encoder->options;
    int status = check_files(encoder);
    if (!status)
        status = open_codec(encoder);
    if (!status)
        status = node_masks_open(&encoder->masks, options, &encoder->input.format, qindex_of(options->cq));
    if (!status)
        status = open_outputs(encoder);
    if (!status)
        status = encode_frames(encoder);
    return status ? status : finish_outputs(encoder);
}

/* Tells what was done: on stderr if the stream went to stdout. */
static int tell(const Encoder *encoder, double wall)
{
    const Options *options = &encoder->options;
    const NodeMasks *masks = &encoder->masks;
    Report report = {
        .frames = encoder->input.frames,
        .bytes = encoder->bytes,
        .encode_seconds = encoder->encode_seconds,
        .predict_seconds = masks->predict_seconds,
        .wall_seconds = wall,
        .has_masks = masks->rows != 0,
        .nodes = masks->nodes,
        .restricted = masks->restricted,
        .met = masks->nodes_met,
    };
    for (int plane = 0; plane < 3; plane++)
        report.psnr[plane] = reconstruction_psnr(&encoder->reconstruction, plane, encoder->input.format.bit_depth);
    const int taken = output_file_is_open_as(options->output, STDOUT_FILENO) ||
                      (options->reconstruction && output_file_is_open_as(options->reconstruction, STDOUT_FILENO));
    if (report_print(&report, taken ? stderr : stdout, options->as_json))
        return 0;
    return fail(CANNOT_WRITE, "the report", "it cannot be written; the stream is whole");
}

int main(int argc, char **argv)
{
    static Encoder encoder;
    const double start = wall_seconds();
    fill_closed_descriptors();
    interrupt_catch();
    const int parsed = options_parse(&encoder.options, argc, argv);
    if (parsed)
        return parsed - 1;
    const Options *options = &encoder.options;
    const char *wrong = frame_input_open(&encoder.input, options->input, options->is_raw ? &options->raw : NULL);
    if (wrong)
        return fail(BAD_INPUT, options->input, wrong);
    int status = encode(&encoder);
    if (!status)
        status = tell(&encoder, wall_seconds() - start);
    output_file_discard(&encoder.output);
    output_file_discard(&encoder.reconstructed);
    node_masks_close(&encoder.masks);
    if (encoder.codec_is_open)
        aom_codec_destroy(&encoder.codec);
    frame_input_close(&encoder.input);
    return status;
}
