#include "options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "numbers.h"

#define FASTEST_RESTRICTED 6
#define MOST_RATE 1000000u
#define LONGEST_QUOTE 60 /* characters of what a user wrote that are shown */

static const char help[] =
    "usage: av1part-enc [options] INPUT -o OUTPUT\n"
    "\n"
    "Encodes all-intra at constant quality with libaom, which tries at 16x16 nodes only what a partition map allows.\n"
    "\n"
    "  INPUT                   Y4M (4:2:0 or mono, 8 or 10 bit); raw with --size; - for stdin; ./-x for a file -x\n"
    "  -o, --output FILE       IVF; bare OBUs if the name ends in .obu\n"
    "      --size WxH          INPUT is raw planar YUV\n"
    "      --bit-depth N       of raw: 8 (default) or 10\n"
    "      --chroma FORMAT     of raw: 420 (default) or mono\n"
    "      --fps N/D           of raw (default 30/1)\n"
    "      --cq-level N        0-63 (default 32): qindex 128\n"
    "      --cpu-used N        libaom's preset, 0-9 (default 1); with a map 0-6\n"
    "      --threads N         (default 1)\n"
    "      --tile-columns N    log2 (default 0)\n"
    "      --tile-rows N       log2 (default 0)\n"
    "      --limit N           frames at most\n"
    "      --partition-map F   masks of every frame, by: cli.py predict INPUT --qindex Q --output FILE.apm\n"
    "      --bundle DIR        predict them meanwhile, with this bundle\n"
    "      --model FILE        predict them within this process, with a blob by: cli.py export --c\n"
    "      --keep SHARE        of bundle or model: share of true types to keep (default 0.98)\n"
    "      --threshold T       of bundle or model, in place of --keep: least probability of a candidate\n"
    "      --whole-split       search the 8x8 nodes of a restricted node's SPLIT too, in place of NONE alone (slower)\n"
    "      --recon FILE        the reconstruction, raw planar\n"
    "      --json              print one JSON object\n"
    "      --help\n";

/* What an option takes, and where that is put. */
enum Kind { TEXT, SHARE, FLAG, NUMBER, DEPTH, SIZE, CHROMA, RATE, HELP };

typedef struct {
    const char *name;
    enum Kind kind;
    void *place;
    uint32_t least, most; /* of a number */
} Known;

static int refuse(const char *message, const char *detail)
{
    fprintf(stderr, "error: %s%.*s\nhint: av1part-enc --help lists what there is\n", message, LONGEST_QUOTE, detail);
    return BAD_USAGE + 1;
}

static int take_number(const char *text, uint32_t least, uint32_t most, int *place)
{
    uint32_t value;
    if (!read_whole(text, least, most, &value))
        return 0;
    *place = (int)value;
    return 1;
}

static int take_size(const char *text, FrameFormat *raw)
{
    return read_pair(text, 'x', MAX_FRAME_SIDE, &raw->width, &raw->height) && raw->width >= MIN_FRAME_SIDE &&
           raw->height >= MIN_FRAME_SIDE;
}

static int take_rate(const char *text, FrameFormat *raw)
{
    uint32_t rate, scale;
    if (!read_pair(text, '/', MOST_RATE, &rate, &scale) || !rate || !scale)
        return 0;
    raw->rate = (int)rate;
    raw->scale = (int)scale;
    return 1;
}

static int is_share(const char *text)
{
    char *end;
    const double share = strtod(text, &end);
    return text[0] && !*end && share >= 0 && share <= 1;
}

/* Takes one option; returns 0 if it does not take that text. */
static int take(Options *options, const Known *known, const char *text)
{
    FrameFormat *raw = &options->raw;
    options->is_raw |= known->kind == SIZE;
    options->has_raw_details |= known->kind == DEPTH || known->kind == CHROMA || known->kind == RATE;
    switch (known->kind) {
    case FLAG: *(int *)known->place = 1; return 1;
    case TEXT: *(const char **)known->place = text; return text[0] != '\0';
    case SHARE: *(const char **)known->place = text; return is_share(text);
    case NUMBER: return take_number(text, known->least, known->most, known->place);
    case DEPTH: return take_number(text, 8, 10, &raw->bit_depth) && raw->bit_depth != 9;
    case SIZE: return take_size(text, raw);
    case RATE: return take_rate(text, raw);
    case CHROMA: raw->monochrome = !strcmp(text, "mono"); return raw->monochrome || !strcmp(text, "420");
    case HELP: break;
    }
    return 1;
}

static int show_help(void)
{
    fputs(help, stdout);
    return fflush(stdout) || ferror(stdout) ? fail(CANNOT_WRITE, "stdout", "it cannot be written") + 1 : 1;
}

static int check(const Options *options)
{
    const int predicts = options->predictor.bundle || options->model, restricted = options->map || predicts;
    if (!options->input || !options->output)
        return refuse("INPUT and --output are needed", "");
    if (!strcmp(options->output, "-") || (options->reconstruction && !strcmp(options->reconstruction, "-")))
        return refuse("--output and --recon are files, and stdout is for the report", "");
    if (options->has_raw_details && !options->is_raw)
        return refuse("--bit-depth, --chroma and --fps are of raw input: ", "--size is missing");
    if ((options->map != NULL) + (options->predictor.bundle != NULL) + (options->model != NULL) > 1)
        return refuse("--partition-map, --bundle and --model exclude each other", "");
    if ((options->predictor.keep || options->predictor.threshold) && !predicts)
        return refuse("--keep and --threshold need --bundle or --model", "");
    if (options->whole_split && !restricted)
        return refuse("--whole-split needs a map, --bundle or --model", "");
    if (options->predictor.keep && options->predictor.threshold)
        return refuse("--keep and --threshold exclude each other", "");
    if (options->predictor.bundle && !strcmp(options->input, "-"))
        return refuse("--bundle reads INPUT once more, and stdin can be read once", "");
    if (restricted && options->speed > FASTEST_RESTRICTED)
        return refuse("--cpu-used 7 and up search no partitions that a map could restrict", "");
    return 0;
}

int options_parse(Options *options, int argc, char **argv)
{
    const Known known[] = {
        {"output", TEXT, &options->output, 0, 0},
        {"recon", TEXT, &options->reconstruction, 0, 0},
        {"size", SIZE, NULL, 0, 0},
        {"bit-depth", DEPTH, NULL, 0, 0},
        {"chroma", CHROMA, NULL, 0, 0},
        {"fps", RATE, NULL, 0, 0},
        {"cq-level", NUMBER, &options->cq, 0, 63},
        {"cpu-used", NUMBER, &options->speed, 0, 9},
        {"threads", NUMBER, &options->threads, 1, 64},
        {"tile-columns", NUMBER, &options->tile_columns, 0, 6},
        {"tile-rows", NUMBER, &options->tile_rows, 0, 6},
        {"limit", NUMBER, &options->limit, 1, 1 << 30},
        {"partition-map", TEXT, &options->map, 0, 0},
        {"bundle", TEXT, &options->predictor.bundle, 0, 0},
        {"model", TEXT, &options->model, 0, 0},
        {"keep", SHARE, &options->predictor.keep, 0, 0},
        {"threshold", SHARE, &options->predictor.threshold, 0, 0},
        {"whole-split", FLAG, &options->whole_split, 0, 0},
        {"json", FLAG, &options->as_json, 0, 0},
        {"help", HELP, NULL, 0, 0},
    };
    enum { COUNT = sizeof(known) / sizeof(*known) };
    struct option listed[COUNT + 1];
    int option, index = 0;
    memset(options, 0, sizeof(*options));
    memset(listed, 0, sizeof(listed));
    for (int i = 0; i < COUNT; i++) {
        listed[i].name = known[i].name;
        listed[i].has_arg = known[i].kind != FLAG && known[i].kind != HELP;
    }
    options->cq = 32;
    options->speed = options->threads = 1;
    options->raw = (FrameFormat){.bit_depth = 8, .rate = 30, .scale = 1};
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":o:", listed, &index)) != -1) {
        if (option == '?' || option == ':') {
            const char letter[] = {'-', (char)optopt, '\0'};
            return refuse(option == '?' ? "there is no option " : "a value is missing for ",
                          optopt > 0 && optopt < 128 ? letter : argv[optind - 1]);
        }
        const Known *taken = &known[option == 'o' ? 0 : index];
        if (taken->kind == HELP)
            return show_help();
        if (!take(options, taken, optarg)) {
            fprintf(stderr, "error: --%s does not take '%.*s'\n", taken->name, LONGEST_QUOTE, optarg);
            fputs("hint: av1part-enc --help lists what there is\n", stderr);
            return BAD_USAGE + 1;
        }
    }
    if (argc - optind > 1)
        return refuse("more than one INPUT: ", argv[optind + 1]);
    options->input = argv[optind];
    return check(options);
}
