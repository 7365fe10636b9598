/* Runs a program on a batch of blocks. Included by av1part_kernels.c once or twice for each set of instructions, which
 * defines
 *
 *     NAME(x)   names a function for these instructions        V, I      vectors of W floats, of W 32-bit integers
 *     TARGET    its attribute                                  OUTS      sums side by side: 4 or 8
 *     ALL(w)    a V of the number w alone
 *     DOT(a, x, w)   a + the dot product of the four unsigned bytes in each x with the four signed bytes of w; without
 *                    FEW x is the vector and w one word, with it the other way round
 *
 * A slot holds one value of LANES = 3 W blocks, so that a vector holds the same value of several blocks:
 *
 *           blocks ─►                                     3 vectors of blocks
 *     slot  a0 a1 a2 ... a(LANES-1)                 ┌─────────────────────────────┐
 *           b0 b1 b2 ...                    OUTS    │ OUTS x 3 sums in registers, │  += weight x slot, over the slots
 *           ...                             outputs │ one weight for all blocks   │     that have a weight
 *
 * Of that a few blocks would leave most empty. With FEW defined a slot holds one value of LANES = W / 2 blocks, and a
 * vector the weights of outputs that lie side by side. There TOGETHER = 8 of them do, and two such groups with the same
 * runs are computed at once: on vectors of 16 BOTH(v, w) joins theirs to one, on vectors of 8 there are two for each
 * block, so that there are 8 sums at a time, which the units that add need. Both ways add in the same order, so that
 * what is said of a block does not depend on how many there are.
 */
#define LOAD(T, p) (*(const T *)(const void *)(p))

/* Sums of MADE outputs over their runs: tile [MADE][LANES]. With FEW `next` is where the second group's weights lie,
 * behind the first's: 0 if there is none, and then its sums are not used. */
#if defined(FEW)
#define LANES (W / 2)
#define MADE (2 * TOGETHER)
#define PASS TOGETHER /* of a group's outputs, those computed in one pass over the runs */
#define NEXT , size_t next
#define ALSO(next) , next
#define UNROLL _Pragma("GCC unroll 2")
#if W == 16
#define SUMS(l) a##l = {0}
#define OPERANDS(T) const T w = (T)BOTH(v, v + next);
#define STEP(l) a##l += ALL(x[l]) * w;
#define BYTE_STEP(l) a##l = DOT(a##l, LOAD(word, x + l), w);
#define SAVE(l) save[l] = a##l;
#else
#define SUMS(l) a##l##0 = {0}, a##l##1 = {0}
#define OPERANDS(T) /* a blob need not lie where vectors should */                                                     \
    T w0, w1;                                                                                                          \
    memcpy(&w0, v, sizeof w0), memcpy(&w1, v + next, sizeof w1);
#define STEP(l)                                                                                                        \
    {                                                                                                                  \
        const V value = ALL(x[l]);                                                                                     \
        a##l##0 += value * w0, a##l##1 += value * w1;                                                                  \
    }
#define BYTE_STEP(l) a##l##0 = DOT(a##l##0, LOAD(word, x + l), w0), a##l##1 = DOT(a##l##1, LOAD(word, x + l), w1);
#define SAVE(l) save[2 * l] = a##l##0, save[2 * l + 1] = a##l##1;
#endif
#else
#define LANES (3 * W)
#define MADE TOGETHER
#define PASS OUTS
#define NEXT
#define ALSO(next)
#define UNROLL
#define SUMS(o) a##o##0 = {0}, a##o##1 = {0}, a##o##2 = {0}
#define OPERANDS(T) const T x0 = LOAD(T, x), x1 = LOAD(T, x + W), x2 = LOAD(T, x + 2 * W);
#define STEP(o)                                                                                                        \
    {                                                                                                                  \
        const V w = ALL(v[o]);                                                                                         \
        a##o##0 += x0 * w, a##o##1 += x1 * w, a##o##2 += x2 * w;                                                       \
    }
#define BYTE_STEP(o)                                                                                                   \
    a##o##0 = DOT(a##o##0, x0, v[o]), a##o##1 = DOT(a##o##1, x1, v[o]), a##o##2 = DOT(a##o##2, x2, v[o]);
#define SAVE(o) save[3 * o] = a##o##0, save[3 * o + 1] = a##o##1, save[3 * o + 2] = a##o##2;
#endif
#if OUTS == 8
#define ALL_SUMS SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7)
#define EACH(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#else
#define ALL_SUMS SUMS(0), SUMS(1), SUMS(2), SUMS(3)
#define EACH(M) M(0) M(1) M(2) M(3)
#endif
#define SUM_RUNS(T, WORD, STEP)                                                                                        \
    for (uint32_t done = 0; done < TOGETHER; done += PASS) {                                                           \
        T ALL_SUMS;                                                                                                    \
        const WORD *v = (const WORD *)weights + done;                                                                  \
        const uint32_t *run = runs + 1;                                                                                \
        for (uint32_t left = *runs; left; left--, run += 2) {                                                          \
            const float *x = from + (size_t)run[0] * LANES;                                                            \
            UNROLL                                                                                                     \
            for (uint32_t k = run[1]; k; k--, x += LANES, v += TOGETHER) {                                             \
                OPERANDS(T)                                                                                            \
                EACH(STEP)                                                                                             \
            }                                                                                                          \
        }                                                                                                              \
        T *save = (T *)(void *)(tile + done * LANES);                                                                  \
        EACH(SAVE)                                                                                                     \
    }

#if defined(FEW)
/* [LANES][MADE] becomes [MADE][LANES]. */
TARGET static void NAME(turn)(float *tile)
{
    float sums[MADE * LANES];
    memcpy(sums, tile, sizeof sums);
    for (uint32_t o = 0; o < MADE; o++)
        for (uint32_t l = 0; l < LANES; l++)
            tile[o * LANES + l] = sums[l * MADE + o];
}
#define TURN NAME(turn)(tile);
#else
#define TURN
#endif

TARGET ALONE static void NAME(sum_floats)(const float *from, const void *weights, const uint32_t *runs,
                                          float *tile NEXT)
{
    SUM_RUNS(V, float, STEP)
    TURN
}

TARGET ALONE static void NAME(sum_bytes)(const float *from, const void *weights, const uint32_t *runs, float *tile,
                                         const float *unit NEXT)
{
    SUM_RUNS(I, int32_t, BYTE_STEP)
    TURN
    for (uint32_t o = 0; o < MADE; o++)
        for (uint32_t l = 0; l < LANES; l++) {
            int32_t sum;
            memcpy(&sum, tile + o * LANES + l, sizeof sum);
            tile[o * LANES + l] = (float)sum * unit[o];
        }
}

/* What follows the sums [count][LANES] of outputs from i on: out = act((sum + bias + pre) scale + shift), kept in
 * `out`, which may be the sums, and written as floats and bytes. One bound a loop: GCC makes no vectors of two. */
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
        float value[LANES]; /* not in `out`, which may be what is read */
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
        memcpy(out + o * LANES, value, sizeof value);
        if (op->to != NOWHERE)
            memcpy(slots + (size_t)(op->to + i + o) * LANES, value, sizeof value);
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
    V tile[MADE * LANES / W];
    float *sums = (float *)(void *)tile;
    for (uint32_t first = 0, count; first < op->out; first += count) {
        const uint32_t *after = runs + 1 + 2 * *runs;
        const size_t next = weights_of(runs);
        const int all = MADE > TOGETHER && first + TOGETHER < op->out && same_runs(runs, after);
        float unit[MADE] = {0};
        count = op->out - first < TOGETHER ? op->out - first : TOGETHER;
        if (all)
            count = op->out - first < MADE ? op->out - first : MADE;
        for (uint32_t o = 0; units && o < count; o++)
            unit[o] = units[first + o];
        for (size_t t = 0; t < groups * op->patches; t++) {
            const uint32_t patch = (uint32_t)(t % op->patches);
            float *slots = arena + t / op->patches * model->slots * LANES;
            const float *from = slots + (size_t)(op->from + patch * op->in) * LANES;
            if (units)
                NAME(sum_bytes)(from, weights, runs, sums, unit ALSO(all ? next : 0));
            else
                NAME(sum_floats)(from, weights, runs, sums ALSO(all ? next : 0));
            NAME(finish)(op, slots, patch * op->out + first, count, bias ? bias + first : NULL, sums, sums);
        }
        weights += all ? 2 * next : next;
        runs = all ? after + (after - runs) : after;
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
                for (uint32_t i = 0; i < op->out; i += TOGETHER) {
                    const uint32_t count = op->out - i < TOGETHER ? op->out - i : TOGETHER;
                    NAME(finish)(op, slots, i, count, NULL, slots + (size_t)(op->from + i) * LANES, out);
                }
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
#undef MADE
#undef PASS
#undef NEXT
#undef ALSO
#undef UNROLL
#undef OPERANDS
#undef TURN
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
#undef FEW
