/* SPDX-License-Identifier: MIT */
#include "emit/c/frame.h"
#include "emit/print.h"

static const char common_text[] =
    "#define ZM_NAN __builtin_nanf(\"\")\n"
    "#define ZM_INFINITY __builtin_inff()\n"
    "#define ZM_BLOCK 32 /* steps of an accumulator before it is flushed */\n"
    "#ifdef __clang__\n"
    "#define ZM_UNROLL_4 _Pragma(\"clang loop unroll(full)\")\n"
    "#else\n"
    "#define ZM_UNROLL_4 _Pragma(\"GCC unroll 4\")\n"
    "#endif\n"
    "/* Columns of the next block: whole steps of n vectors. */\n"
    "ZM_FN zm_index zm_whole(zm_index left, int n) {\n"
    "    zm_index step = n * ZM_WIDTH, most = ZM_BLOCK * step;\n"
    "    return left < most ? left / step * step : most;\n"
    "}\n"
    "ZM_FN zm_index zm_row_start(int layout, zm_index row, zm_index columns) {\n"
    "    return layout & 2 ? (layout & 1 ? row * columns : row) : 0;\n"
    "}\n"
    "ZM_FN int zm_is_aligned(const void *base, zm_index index, int bytes) {\n"
    "    return ((__UINTPTR_TYPE__)base + (__UINTPTR_TYPE__)(index * bytes)) % (__UINTPTR_TYPE__)(ZM_WIDTH * bytes) == 0;\n"
    "}\n"
    "/* Elements before base[index] is aligned to a vector of them; 0 where that never is or does not pay. */\n"
    "ZM_FN zm_index zm_head(const void *base, zm_index index, int bytes, zm_index left) {\n"
    "    __UINTPTR_TYPE__ whole = (__UINTPTR_TYPE__)(ZM_WIDTH * bytes);\n"
    "    __UINTPTR_TYPE__ past = ((__UINTPTR_TYPE__)base + (__UINTPTR_TYPE__)(index * bytes)) % whole;\n"
    "    return past == 0 || past % (__UINTPTR_TYPE__)bytes != 0 || left < 16 * ZM_WIDTH\n"
    "               ? 0 : (zm_index)((whole - past) / (__UINTPTR_TYPE__)bytes);\n"
    "}\n";

static const char shift_text[] =
    "/* Lane l is lane l - by (up) or l + by (down), 0 where there is none. */\n"
    "#ifdef __clang__\n"
    "ZM_FN vf zm_shift_up(vf a, int by) {\n"
    "    vf moved = zm_splat(0.0f);\n"
    "    for (int lane = 0; lane < ZM_WIDTH; lane++) moved[lane] = lane < by ? 0.0f : a[(lane - by) & (ZM_WIDTH - 1)];\n"
    "    return moved;\n"
    "}\n"
    "ZM_FN vf zm_shift_down(vf a, int by) {\n"
    "    vf moved = zm_splat(0.0f);\n"
    "    for (int lane = 0; lane < ZM_WIDTH; lane++)\n"
    "        moved[lane] = lane + by < ZM_WIDTH ? a[(lane + by) & (ZM_WIDTH - 1)] : 0.0f;\n"
    "    return moved;\n"
    "}\n"
    "#else\n"
    "ZM_FN vf zm_shift_up(vf a, int by) {\n"
    "    return __builtin_shuffle(a, zm_splat(0.0f), ((vi)zm_iota() - by) & (2 * ZM_WIDTH - 1));\n"
    "}\n"
    "ZM_FN vf zm_shift_down(vf a, int by) { return __builtin_shuffle(a, zm_splat(0.0f), (vi)zm_iota() + by); }\n"
    "#endif\n";

static const char scan_text[] =
    "ZM_FN vf zm_cumsum(vf a, double *carry) {\n"
    "    ZM_UNROLL_4\n"
    "    for (int by = 1; by < ZM_WIDTH; by *= 2) a += zm_shift_up(a, by);\n"
    "    vf sums = a + zm_splat((float)*carry);\n"
    "    *carry += (double)a[ZM_WIDTH - 1];\n"
    "    return sums;\n"
    "}\n"
    "ZM_FN vf zm_cumsum_reverse(vf a, double *carry) {\n"
    "    ZM_UNROLL_4\n"
    "    for (int by = 1; by < ZM_WIDTH; by *= 2) a += zm_shift_down(a, by);\n"
    "    vf sums = a + zm_splat((float)*carry);\n"
    "    *carry += (double)a[0];\n"
    "    return sums;\n"
    "}\n";

static const char argmax_text[] =
    "/* The first of the largest; a NaN is larger than all. Columns rise, or fall where reversed. */\n"
    "ZM_FN void zm_argmax_step(vf *best, vu *at, vf value, vu column, int reversed) {\n"
    "    vi better = reversed ? (value >= *best) | zm_isnan(value)\n"
    "                         : (value > *best) | (zm_isnan(value) & ~zm_isnan(*best));\n"
    "    *best = zm_select(better, value, *best);\n"
    "    *at = zm_select(better, column, *at);\n"
    "}\n"
    "ZM_FN zm_uint zm_argmax_over(const vf *best, const vu *at, int n) {\n"
    "    vf top = best[0];\n"
    "    for (int i = 1; i < n; i++) top = zm_max(top, best[i]);\n"
    "    top = zm_splat(zm_max(top));\n"
    "    zm_uint first = 0xffffffffu;\n"
    "    for (int i = 0; i < n; i++) {\n"
    "        vu of_top = at[i] | (vu)~((best[i] == top) | (zm_isnan(best[i]) & zm_isnan(top)));\n"
    "        for (int lane = 0; lane < ZM_WIDTH; lane++) first = of_top[lane] < first ? of_top[lane] : first;\n"
    "    }\n"
    "    return first == 0xffffffffu ? 0 : first; /* none was better than -inf */\n"
    "}\n";

static const char partials_text[] =
    "/* Bit l of n_blocks: stack[l] holds the result of 2^l blocks. */\n"
    "typedef struct zm_partials {\n"
    "    vf stack[56];\n"
    "    __UINT64_TYPE__ n_blocks;\n"
    "} zm_partials;\n";

static const char fold_text[] =
    "ZM_FN void zm_push%d(zm_partials *partials, vf block) {\n"
    "    int level = 0;\n"
    "    for (__UINT64_TYPE__ n = partials->n_blocks++; n & 1; n >>= 1)\n"
    "        block = zm_combine%d(partials->stack[level++], block);\n"
    "    partials->stack[level] = block;\n"
    "}\n"
    "ZM_FN vf zm_finish%d(const zm_partials *partials, vf last) {\n"
    "    int level = 0;\n"
    "    for (__UINT64_TYPE__ n = partials->n_blocks; n; n >>= 1, level++)\n"
    "        if (n & 1) last = zm_combine%d(partials->stack[level], last);\n"
    "    for (int half = ZM_WIDTH / 2; half > 0; half /= 2) last = zm_combine%d(last, zm_shift_down(last, half));\n"
    "    return zm_splat(last[0]);\n"
    "}\n";

static const char gather_text[] =
    "ZM_FN vf zm_gather_%s(const void *base, vu index, zm_index columns, int varies) {\n"
    "    vf values = zm_splat(ZM_NAN);\n"
    "    for (int lane = 0; lane < ZM_WIDTH; lane++)\n"
    "        if ((zm_index)index[lane] < columns) values[lane] = zm_load_one_%s(base, varies ? index[lane] : 0)[0];\n"
    "    return values;\n"
    "}\n";

static bool has_op(const zm_c_frame *frame, zm_op op) {
    for (zm_id id = 0; id < frame->ir->n_values; id++)
        if (frame->ir->values[id].op == op) return true;
    return false;
}

static void write_gathers(zm_c_frame *frame) {
    bool done[ZM_STORAGE_COUNT] = {false};
    for (zm_id id = 0; id < frame->ir->n_values; id++) {
        const zm_value *value = &frame->ir->values[id];
        if (value->op != ZM_OP_ROW_GATHER || done[frame->request->inputs[value->index]]) continue;
        const char *name = zm_storage_name(frame->request->inputs[value->index]);
        zm_text_printf(frame->text, gather_text, name, name);
        done[frame->request->inputs[value->index]] = true;
    }
}

static void write_folds(zm_c_frame *frame) {
    const zm_print_style style = {.function = "ZM_FN",
                                  .types = {[ZM_TYPE_FLOAT] = "vf", [ZM_TYPE_BOOL] = "vi", [ZM_TYPE_UINT] = "vu"},
                                  .number_open = "zm_splat(", .number_close = ")"};
    zm_text_append_string(frame->text, partials_text);
    for (int i = 0; i < frame->ir->n_folds; i++) {
        zmlx_status status = zm_print_fold(frame->text, &style, frame->ir, i, frame->error);
        if (status && !frame->status) frame->status = status;
        if (frame->ir->folds[i].combine.n_values) zm_text_printf(frame->text, fold_text, i, i, i, i, i);
    }
}

void zm_c_write_helpers(zm_c_frame *frame) {
    bool has_scan = has_op(frame, ZM_OP_ROW_CUMSUM) || has_op(frame, ZM_OP_ROW_CUMSUM_REVERSE);
    zm_text_append_string(frame->text, common_text);
    if (has_scan || frame->ir->n_folds) zm_text_append_string(frame->text, shift_text);
    if (has_scan) zm_text_append_string(frame->text, scan_text);
    if (has_op(frame, ZM_OP_ROW_ARGMAX)) zm_text_append_string(frame->text, argmax_text);
    write_gathers(frame);
    if (frame->ir->n_folds) write_folds(frame);
}
