#include "options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_USAGE 2
#define FASTEST_RESTRICTED 6

static const char help[] =
    "usage: av1part-enc [options] INPUT -o OUTPUT\n"
    "\n"
    "Encodes all-intra at constant quality with libaom, which tries at 16x16 nodes only what a partition map allows.\n"
    "\n"
    "  INPUT                   Y4M (4:2:0 or mono, 8 or 10 bit); raw with --size; - for stdin\n"
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

static int refuse(const char *message, const char *detail)
{
    fprintf(stderr, "error: %s%s\nhint: av1part-enc --help lists what there is\n", message, detail);
    return EXIT_USAGE + 1;
}

static int read_number(const char *text, int least, int most, int *value)
{
    char *end;
    const long number = strtol(text, &end, 10);
    if (!text[0] || *end || number < least || number > most)
        return 0;
    *value = (int)number;
    return 1;
}

static int read_pair(const char *text, const char *pattern, int most, int *first, int *second)
{
    char tail;
    return sscanf(text, pattern, first, second, &tail) == 2 && *first > 0 && *second > 0 && *first <= most &&
           *second <= most;
}

static int check(const Options *options, int raw_details)
{
    const int predicts = options->predictor.bundle || options->model, restricted = options->map || predicts;
    if (!options->input || !options->output)
        return refuse("INPUT and --output are needed", "");
    if (!strcmp(options->output, "-"))
        return refuse("--output is a file, and stdout is for the report", "");
    if (raw_details && !options->is_raw)
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
    enum {
        SIZE = 256,
        DEPTH,
        CHROMA,
        FPS,
        CQ,
        SPEED,
        THREADS,
        TILE_COLUMNS,
        TILE_ROWS,
        LIMIT,
        MAP,
        BUNDLE,
        MODEL,
        KEEP,
        THRESHOLD,
        WHOLE_SPLIT,
        RECON,
        JSON,
        HELP
    };
    static const struct option known[] = {{"output", 1, NULL, 'o'},
                                          {"size", 1, NULL, SIZE},
                                          {"bit-depth", 1, NULL, DEPTH},
                                          {"chroma", 1, NULL, CHROMA},
                                          {"fps", 1, NULL, FPS},
                                          {"cq-level", 1, NULL, CQ},
                                          {"cpu-used", 1, NULL, SPEED},
                                          {"threads", 1, NULL, THREADS},
                                          {"tile-columns", 1, NULL, TILE_COLUMNS},
                                          {"tile-rows", 1, NULL, TILE_ROWS},
                                          {"limit", 1, NULL, LIMIT},
                                          {"partition-map", 1, NULL, MAP},
                                          {"bundle", 1, NULL, BUNDLE},
                                          {"keep", 1, NULL, KEEP},
                                          {"threshold", 1, NULL, THRESHOLD},
                                          {"model", 1, NULL, MODEL},
                                          {"whole-split", 0, NULL, WHOLE_SPLIT},
                                          {"recon", 1, NULL, RECON},
                                          {"json", 0, NULL, JSON},
                                          {"help", 0, NULL, HELP},
                                          {NULL, 0, NULL, 0}};
    int option, index = 0, raw_details = 0, width = 0, height = 0, number = 0;
    memset(options, 0, sizeof(*options));
    options->cq = 32;
    options->speed = options->threads = 1;
    options->raw = (FrameFormat){.bit_depth = 8, .rate = 30, .scale = 1};
    while ((option = getopt_long(argc, argv, "o:", known, &index)) != -1) {
        int good = 1;
        switch (option) {
        case 'o': options->output = optarg; break;
        case SIZE:
            good = read_pair(optarg, "%dx%d%c", (int)MAX_FRAME_SIDE, &width, &height);
            options->is_raw = 1;
            options->raw.width = (uint32_t)width;
            options->raw.height = (uint32_t)height;
            break;
        case DEPTH:
            good = read_number(optarg, 8, 10, &options->raw.bit_depth) && options->raw.bit_depth != 9;
            raw_details = 1;
            break;
        case CHROMA:
            options->raw.monochrome = !strcmp(optarg, "mono");
            good = options->raw.monochrome || !strcmp(optarg, "420");
            raw_details = 1;
            break;
        case FPS:
            good = read_pair(optarg, "%d/%d%c", 1000000, &options->raw.rate, &options->raw.scale);
            raw_details = 1;
            break;
        case CQ: good = read_number(optarg, 0, 63, &options->cq); break;
        case SPEED: good = read_number(optarg, 0, 9, &options->speed); break;
        case THREADS: good = read_number(optarg, 1, 64, &options->threads); break;
        case TILE_COLUMNS: good = read_number(optarg, 0, 6, &options->tile_columns); break;
        case TILE_ROWS: good = read_number(optarg, 0, 6, &options->tile_rows); break;
        case LIMIT:
            good = read_number(optarg, 1, 1 << 30, &number);
            options->limit = (unsigned)number;
            break;
        case MAP: options->map = optarg; break;
        case BUNDLE: options->predictor.bundle = optarg; break;
        case MODEL: options->model = optarg; break;
        case KEEP: options->predictor.keep = optarg; break;
        case THRESHOLD: options->predictor.threshold = optarg; break;
        case WHOLE_SPLIT: options->whole_split = 1; break;
        case RECON: options->reconstruction = optarg; break;
        case JSON: options->as_json = 1; break;
        case HELP: fputs(help, stdout); return 1;
        default: fputs("hint: av1part-enc --help lists what there is\n", stderr); return EXIT_USAGE + 1;
        }
        if (!good) {
            fprintf(stderr, "error: --%s does not take %s\n", known[index].name, optarg);
            return refuse("an option is out of its range", "");
        }
    }
    if (argc - optind > 1)
        return refuse("more than one INPUT: ", argv[optind + 1]);
    options->input = argv[optind];
    return check(options, raw_details);
}
