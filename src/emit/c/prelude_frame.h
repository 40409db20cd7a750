/* SPDX-License-Identifier: MIT */
/* What the frame of emitted kernels calls: blocks and alignment of loops, scans, reductions over vectors, gathers. */
#define ZM_NAN __builtin_nanf("")
#define ZM_INFINITY __builtin_inff()
#define ZM_BLOCK 32 /* steps of an accumulator before it is flushed */

/* Columns of the next block: whole steps of n vectors. */
ZM_FN zm_index zm_whole(zm_index left, int n) {
    zm_index step = n * ZM_WIDTH, most = ZM_BLOCK * step;
    return left < most ? left / step * step : most;
}
ZM_FN zm_index zm_row_start(int layout, zm_index row, zm_index columns) {
    return (layout & 2 ? (layout & 1 ? row * columns * (layout & 4 ? 2 : 1) : row) : 0) + (layout & 8 ? columns : 0);
}
/* Bytes to the next row where there is one; 0 for rows so long that it would push this one out of the cache. */
ZM_FN zm_index zm_bytes_ahead(int layout, zm_index rows_left, zm_index columns, int bytes) {
    return (layout & 3) == 3 && rows_left > 1 && columns <= 1 << 15 ? columns * bytes * (layout & 4 ? 2 : 1) : 0;
}

/* The cache lines of n vectors from an address on; past the end of an array it does nothing. */
ZM_FN void zm_fetch_row(const char *at, int bytes, int n) {
    for (int line = 0; line < (n * ZM_WIDTH * bytes + 63) / 64; line++) __builtin_prefetch(at + 64 * line, 0, 3);
}
/* What will be read some hundred cycles later, before `end`: behind a row that is called alone lies none that is read
 * next. */
ZM_FN void zm_fetch(const char *base, zm_index index, zm_index end, int bytes, int n) {
    if (index + 3072 / bytes >= end) return;
    for (int line = 0; line < (n * ZM_WIDTH * bytes + 63) / 64; line++)
        __builtin_prefetch(base + index * bytes + 3072 + 64 * line, 0, 3);
}

/* Bytes from the last address aligned to a register to base[index]. */
ZM_FN __UINTPTR_TYPE__ zm_bytes_past(const void *base, zm_index index, int bytes) {
    return ((__UINTPTR_TYPE__)base + (__UINTPTR_TYPE__)(index * bytes)) % (4 * ZM_WIDTH);
}
ZM_FN int zm_is_aligned(const void *base, zm_index index, int bytes) {
    return zm_bytes_past(base, index, bytes) == 0;
}
/* Elements before the next aligned one; 0 where there is none, or where too few are left for it to pay. */
ZM_FN zm_index zm_head(const void *base, zm_index index, int bytes, zm_index left) {
    zm_index past = (zm_index)zm_bytes_past(base, index, bytes);
    return past == 0 || past % bytes != 0 || left < 16 * ZM_WIDTH ? 0 : (4 * ZM_WIDTH - past) / bytes;
}

/* a / b for many a and one b: within 2 units in the last place for all b, as the scale keeps its reciprocal away from
 * overflow and underflow. */
ZM_FN vf zm_quotient(vf a, vf b) {
    vf size = zm_abs(b), scale = zm_select(size > 0x1p100f, zm_splat(0x1p-64f), zm_splat(1));
    scale = zm_select(size < 0x1p-100f, zm_splat(0x1p64f), scale);
    return a * (1.0f / (b * scale)) * scale;
}

/* Lane l is lane l - by (up) or l + by (down), 0 where there is none. */
#ifdef __clang__
ZM_FN vf zm_shift_up(vf a, int by) {
    vf moved = zm_splat(0.0f);
    for (int lane = 0; lane < ZM_WIDTH; lane++) moved[lane] = lane < by ? 0.0f : a[(lane - by) & (ZM_WIDTH - 1)];
    return moved;
}
ZM_FN vf zm_shift_down(vf a, int by) {
    vf moved = zm_splat(0.0f);
    for (int lane = 0; lane < ZM_WIDTH; lane++)
        moved[lane] = lane + by < ZM_WIDTH ? a[(lane + by) & (ZM_WIDTH - 1)] : 0.0f;
    return moved;
}
#else
ZM_FN vf zm_shift_up(vf a, int by) {
    return __builtin_shuffle(a, zm_splat(0.0f), ((vi)zm_iota() - by) & (2 * ZM_WIDTH - 1));
}
ZM_FN vf zm_shift_down(vf a, int by) { return __builtin_shuffle(a, zm_splat(0.0f), (vi)zm_iota() + by); }
#endif

/* Sums from the first or the last lane on; carry is the sum of the vectors before, in float64 so that long rows
 * stay exact. */
ZM_FN vf zm_cumsum(vf a, double *carry) {
    ZM_UNROLL
    for (int by = 1; by < ZM_WIDTH; by *= 2) a += zm_shift_up(a, by);
    vf sums = a + zm_splat((float)*carry);
    *carry += (double)a[ZM_WIDTH - 1];
    return sums;
}
ZM_FN vf zm_cumsum_reverse(vf a, double *carry) {
    ZM_UNROLL
    for (int by = 1; by < ZM_WIDTH; by *= 2) a += zm_shift_down(a, by);
    vf sums = a + zm_splat((float)*carry);
    *carry += (double)a[0];
    return sums;
}

/* The first of the largest; a NaN is larger than all. Columns rise, or fall where reversed. */
ZM_FN void zm_argmax_step(vf *best, vu *at, vf value, vu column, int reversed) {
    vi better = reversed ? (value >= *best) | zm_isnan(value)
                         : (value > *best) | (zm_isnan(value) & ~zm_isnan(*best));
    *best = zm_select(better, value, *best);
    *at = zm_select(better, column, *at);
}
ZM_FN zm_uint zm_argmax_over(const vf *best, const vu *at, int n) {
    vf top = best[0];
    for (int i = 1; i < n; i++) top = zm_max(top, best[i]);
    top = zm_splat(zm_max(top));
    zm_uint first = 0xffffffffu;
    for (int i = 0; i < n; i++) {
        vu of_top = at[i] | (vu)~((best[i] == top) | (zm_isnan(best[i]) & zm_isnan(top)));
        for (int lane = 0; lane < ZM_WIDTH; lane++) first = of_top[lane] < first ? of_top[lane] : first;
    }
    return first == 0xffffffffu ? 0 : first; /* none was better than -inf */
}

/* Element `index` of a row in each lane; NaN outside. */
#define ZM_GATHER(storage) \
    ZM_FN vf zm_gather_##storage(const void *base, vu index, zm_index columns, int varies) { \
        vf values = zm_splat(ZM_NAN); \
        for (int lane = 0; lane < ZM_WIDTH; lane++) \
            if ((zm_index)index[lane] < columns) \
                values[lane] = zm_load_one_##storage(base, varies ? (zm_index)index[lane] : 0)[0]; \
        return values; \
    }
ZM_GATHER(float32)
ZM_GATHER(float16)
ZM_GATHER(bfloat16)

/* Results of blocks of a fold, like a binary counter: bit l of n_blocks says that stack[l] holds 2^l blocks. */
typedef struct zm_partials {
    vf stack[56];
    __UINT64_TYPE__ n_blocks;
} zm_partials;
#define ZM_COMBINED_FOLD(push, finish, combine) \
    ZM_FN void push(zm_partials *partials, vf block) { \
        int level = 0; \
        for (__UINT64_TYPE__ n = partials->n_blocks++; n & 1; n >>= 1) \
            block = combine(partials->stack[level++], block); \
        partials->stack[level] = block; \
    } \
    ZM_FN vf finish(const zm_partials *partials, vf last) { \
        int level = 0; \
        for (__UINT64_TYPE__ n = partials->n_blocks; n; n >>= 1, level++) \
            if (n & 1) last = combine(partials->stack[level], last); \
        for (int half = ZM_WIDTH / 2; half > 0; half /= 2) last = combine(last, zm_shift_down(last, half)); \
        return zm_splat(last[0]); \
    }
