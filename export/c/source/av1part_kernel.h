/* Runs a program on a batch of blocks. Included by av1part.c once for each set of instructions, which defines
 *
 *     NAME(x)   names a function for these instructions        V, I      vectors of W floats, of W 32-bit integers
 *     TARGET    its attribute                                  OUTS      outputs computed in one pass: 4 or 8
 *     ALL(w)    a V of the number w alone
 *     DOT(a, x, w)   a + the dot product of the four unsigned bytes in each x with the four signed bytes of w
 *
 * A slot holds one value of LANES = 3 W blocks, so that a vector holds the same value of several blocks:
 *
 *           blocks ─►                                     3 vectors of blocks
 *     slot  a0 a1 a2 ... a(LANES-1)                 ┌─────────────────────────────┐
 *           b0 b1 b2 ...                    OUTS    │ OUTS x 3 sums in registers, │  += weight x slot, over the slots
 *           ...                             outputs │ one weight for all blocks   │     that have a weight
 */
#define LANES (3 * W)
#define LOAD(T, p) (*(const T *)(const void *)(p))

/* Sums of 8 outputs over the runs of one group: tile [8][LANES]. Returns the weights that follow. */
#define SUMS(o) a##o##0 = {0}, a##o##1 = {0}, a##o##2 = {0}
#define STEP(o)                                                                                                        \
    {                                                                                                                  \
        const V w = ALL(v[o]);                                                                                         \
        a##o##0 += x0 * w, a##o##1 += x1 * w, a##o##2 += x2 * w;                                                       \
    }
#define BYTE_STEP(o) a##o##0 = DOT(a##o##0, x0, v[o]), a##o##1 = DOT(a##o##1, x1, v[o]), a##o##2 = DOT(a##o##2, x2, v[o]);
#define SAVE(o) save[3 * o] = a##o##0, save[3 * o + 1] = a##o##1, save[3 * o + 2] = a##o##2;
#if OUTS == 8
#define ALL_SUMS SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7)
#define EACH(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#else
#define ALL_SUMS SUMS(0), SUMS(1), SUMS(2), SUMS(3)
#define EACH(M) M(0) M(1) M(2) M(3)
#endif
#define SUM_RUNS(T, WORD, STEP)                                                                                        \
    for (uint32_t done = 0; done < TOGETHER; done += OUTS) {                                                               \
        T ALL_SUMS;                                                                                                    \
        const WORD *v = (const WORD *)weights + done;                                                                  \
        const uint32_t *run = runs + 1;                                                                                \
        for (uint32_t left = *runs; left; left--, run += 2) {                                                          \
            const float *x = from + (size_t)run[0] * LANES;                                                            \
            for (uint32_t k = run[1]; k; k--, x += LANES, v += TOGETHER) {                                             \
                const T x0 = LOAD(T, x), x1 = LOAD(T, x + W), x2 = LOAD(T, x + 2 * W);                                 \
                EACH(STEP)                                                                                             \
            }                                                                                                          \
        }                                                                                                              \
        T *save = (T *)(void *)(tile + done * LANES);                                                                  \
        EACH(SAVE)                                                                                                     \
    }

TARGET static void NAME(sum_floats)(const float *from, const void *weights, const uint32_t *runs, float *tile)
{
    SUM_RUNS(V, float, STEP)
}

TARGET static void NAME(sum_bytes)(const float *from, const void *weights, const uint32_t *runs, float *tile,
                                   const float *unit)
{
    SUM_RUNS(I, int32_t, BYTE_STEP)
    for (uint32_t o = 0; o < TOGETHER; o++)
        for (uint32_t l = 0; l < LANES; l++) {
            int32_t sum;
            memcpy(&sum, tile + o * LANES + l, sizeof sum);
            tile[o * LANES + l] = (float)sum * unit[o];
        }
}

/* What follows the sums [count][LANES] of outputs from i on: out = act((sum + bias + pre) scale + shift), kept in `out`,
 * which may be the sums, and written as floats and bytes. One bound a loop: GCC makes no vectors of two. */
TARGET static void NAME(finish)(const struct op *op, float *slots, uint32_t i, uint32_t count, const float *bias,
                                const float *sums, float *out)
{
    static const float none[LANES] = {0};
    float ones[LANES];
    for (uint32_t l = 0; l < LANES; l++)
        ones[l] = 1.0f;
    for (uint32_t o = 0; o < count; o++) {
        const float *pre = beside(&op->pre, slots, i + o, LANES, none);
        const float *scale = beside(&op->scale, slots, i + o, LANES, ones);
        const float *shift = beside(&op->shift, slots, i + o, LANES, none);
        const float *sum = sums + o * LANES, more = bias ? bias[o] : 0;
        float *value = out + o * LANES;
        for (uint32_t l = 0; l < LANES; l++)
            value[l] = (sum[l] + more + pre[l]) * scale[l] + shift[l];
        if (op->act == RELU)
            for (uint32_t l = 0; l < LANES; l++)
                value[l] = value[l] > 0 ? value[l] : 0;
        if (op->act == SIGMOID) {
            for (uint32_t l = 0; l < LANES; l++)
                value[l] = value[l] > LEAST ? value[l] : LEAST;
            for (uint32_t l = 0; l < LANES; l++)
                value[l] = value[l] < -LEAST ? value[l] : -LEAST;
            for (uint32_t l = 0; l < LANES; l++)
                value[l] = 1 / (1 + exponential(-value[l]));
        }
        if (op->to != NOWHERE)
            memcpy(slots + (size_t)(op->to + i + o) * LANES, value, LANES * sizeof *value);
    }
    for (uint32_t o = 0; o < count && op->to_bytes != NOWHERE; o += 4) {
        const float inverse = op->inverse, zero = op->zero;
        float *q = out + o * LANES;
        uint32_t four[LANES];
        for (uint32_t l = 0; l < 4 * LANES; l++)
            q[l] = q[l] * inverse + zero + 0.5f;
        for (uint32_t l = 0; l < 4 * LANES; l++)
            q[l] = q[l] > 0 ? q[l] : 0;
        for (uint32_t l = 0; l < 4 * LANES; l++)
            q[l] = q[l] < 255.5f ? q[l] : 255.5f;
        for (uint32_t l = 0; l < LANES; l++)
            four[l] = (uint32_t)((int32_t)q[l] | (int32_t)q[LANES + l] << 8 | (int32_t)q[2 * LANES + l] << 16) |
                      (uint32_t)(int32_t)q[3 * LANES + l] << 24;
        memcpy(slots + (size_t)(op->to_bytes + (i + o) / 4) * LANES, four, sizeof four);
    }
}

TARGET static void NAME(product)(const struct av1part_model *model, const struct op *op, float *arena, size_t groups)
{
    const uint32_t *runs = model->words + op->runs, *weights = model->words + op->weights;
    const float *bias = op->bias == NOWHERE ? NULL : (const float *)(const void *)(model->words + op->bias);
    const float *units = op->unit == NOWHERE ? NULL : (const float *)(const void *)(model->words + op->unit);
    V tile[TOGETHER * 3];
    float *sums = (float *)(void *)tile;
    for (uint32_t first = 0; first < op->out; first += TOGETHER) {
        const uint32_t count = op->out - first < TOGETHER ? op->out - first : TOGETHER;
        float unit[TOGETHER] = {0};
        for (uint32_t o = 0; units && o < count; o++)
            unit[o] = units[first + o];
        for (size_t t = 0; t < groups * op->patches; t++) {
            const uint32_t patch = (uint32_t)(t % op->patches);
            float *slots = arena + t / op->patches * model->slots * LANES;
            const float *from = slots + (size_t)(op->from + patch * op->in) * LANES;
            if (units)
                NAME(sum_bytes)(from, weights, runs, sums, unit);
            else
                NAME(sum_floats)(from, weights, runs, sums);
            NAME(finish)(op, slots, patch * op->out + first, count, bias ? bias + first : NULL, sums, sums);
        }
        for (uint32_t left = *runs++; left; left--, runs += 2)
            weights += (size_t)runs[1] * TOGETHER;
    }
}

TARGET static void NAME(maximum)(const struct av1part_model *model, const struct op *op, float *slots)
{
    const uint32_t *listed = model->words + op->runs;
    for (uint32_t i = 0; i < op->out; i++) {
        float top[LANES];
        uint32_t left = *listed++;
        memcpy(top, slots + (size_t)(op->from + *listed) * LANES, sizeof top);
        for (; left; left--) {
            const float *x = slots + (size_t)(op->from + *listed++) * LANES;
            for (uint32_t l = 0; l < LANES; l++)
                top[l] = x[l] > top[l] ? x[l] : top[l];
        }
        memcpy(slots + (size_t)(op->to + i) * LANES, top, sizeof top);
    }
}

/* arena [groups][slots][LANES], qindex [groups][LANES]. */
TARGET static void NAME(run)(const struct av1part_model *model, float *arena, size_t groups, const uint8_t *qindex)
{
    for (uint32_t n = 0; n < model->count; n++) {
        const struct op *op = &model->ops[n];
        if (op->kind == PRODUCT || op->kind == BYTES) {
            NAME(product)(model, op, arena, groups);
            continue;
        }
        for (size_t t = 0; t < groups; t++) {
            float *slots = arena + t * model->slots * LANES;
            if (op->kind == MAXIMUM) {
                NAME(maximum)(model, op, slots);
            } else if (op->kind == APPLY) {
                float out[TOGETHER * LANES];
                for (uint32_t i = 0; i < op->out; i += TOGETHER)
                    NAME(finish)(op, slots, i, op->out - i < TOGETHER ? op->out - i : TOGETHER, NULL,
                                 slots + (size_t)(op->from + i) * LANES, out);
            } else {
                const float *table = (const float *)(const void *)(model->words + op->weights);
                for (uint32_t l = 0; l < LANES; l++) {
                    const float *row = table + (op->rows > 1 ? (size_t)qindex[t * LANES + l] * op->out : 0);
                    for (uint32_t i = 0; i < op->out; i++)
                        slots[(size_t)(op->to + i) * LANES + l] = row[i];
                }
            }
        }
    }
}

#undef LANES
#undef LOAD
#undef SUMS
#undef STEP
#undef BYTE_STEP
#undef SAVE
#undef ALL_SUMS
#undef EACH
#undef SUM_RUNS
#undef NAME
#undef TARGET
#undef V
#undef I
#undef W
#undef OUTS
#undef ALL
#undef DOT
