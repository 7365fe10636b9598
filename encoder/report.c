#include "report.h"

int report_print(const Report *report, FILE *file, int as_json)
{
    const unsigned long long frames = report->frames, bytes = report->bytes, nodes = report->nodes;
    const unsigned long long restricted = report->restricted, met = report->met;
    const double *psnr = report->psnr;
    if (as_json) {
        fprintf(file,
                "{\"frames\": %llu, \"bytes\": %llu, \"encode_cpu_s\": %.6f, \"predict_cpu_s\": %.6f, "
                "\"wall_s\": %.6f, \"psnr_y\": %.6f, \"psnr_u\": %.6f, \"psnr_v\": %.6f, "
                "\"nodes\": %llu, \"restricted\": %llu, \"met\": %llu}\n",
                frames, bytes, report->encode_seconds, report->predict_seconds, report->wall_seconds, psnr[0], psnr[1],
                psnr[2], nodes, restricted, met);
    } else {
        fprintf(file, "%llu frames, %llu bytes, %.2f s of CPU encoding, %.2f s predicting, %.2f s of wall time\n",
                frames, bytes, report->encode_seconds, report->predict_seconds, report->wall_seconds);
        fprintf(file, "PSNR Y %.3f U %.3f V %.3f dB\n", psnr[0], psnr[1], psnr[2]);
        if (report->has_masks)
            fprintf(file, "%llu of %llu nodes restricted, of which the search came to %llu\n", restricted, nodes, met);
    }
    return !fflush(file) && !ferror(file);
}
