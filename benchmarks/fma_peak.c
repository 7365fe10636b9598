/* What one core can do at most: multiply-adds in registers alone, and the clock meanwhile. Built with -O3 -march=native
 * -ffp-contract=fast by benchmarks/c_api.py. */
#define _POSIX_C_SOURCE 200112L
#include <stdint.h>
#include <time.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float vector __attribute__((vector_size(BYTES)));

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + 1e-9 * (double)at.tv_nsec;
}

/* GFLOP/s of 12 independent chains of multiply-adds, as many as four cycles of latency on three units need. */
double fma_peak(long rounds)
{
    vector by = {0}, one = {0}, a, b, c, d, e, f, g, h, i, j, k, l;
    by += 0.5f, one += 1.0f;
    a = one, b = a + one, c = b + one, d = c + one, e = d + one, f = e + one;
    g = f + one, h = g + one, i = h + one, j = i + one, k = j + one, l = k + one;
    const double start = now();
    for (long n = 0; n < rounds; n++) {
        a = a * by + one, b = b * by + one, c = c * by + one, d = d * by + one, e = e * by + one, f = f * by + one;
        g = g * by + one, h = h * by + one, i = i * by + one, j = j * by + one, k = k * by + one, l = l * by + one;
    }
    const double seconds = now() - start;
    volatile float kept = (a + b + c + d + e + f + g + h + i + j + k + l)[0];
    (void)kept;
    return 2e-9 * 12 * (BYTES / 4) * (double)rounds / seconds;
}

/* GHz: a chain of additions of which each takes one cycle. */
double clock_ghz(long rounds)
{
    uint64_t x = 1;
    const double start = now();
    for (long n = 0; n < rounds; n++)
        __asm__ volatile("add %1, %0\n\tadd %1, %0\n\tadd %1, %0\n\tadd %1, %0\n\tadd %1, %0\n\tadd %1, %0\n\tadd %1, "
                         "%0\n\tadd %1, %0"
                         : "+r"(x)
                         : "r"(x));
    return 8e-9 * (double)rounds / (now() - start);
}
