/* SPDX-License-Identifier: MIT */
/* CUDA C++ for NVRTC: --gpu-architecture=sm_XX --fmad=false, as only the operation fma is contracted. */
#include <stdio.h>

#include "emit/cuda/source.h"
#include "emit/gpu/frame.h"
#include "emit/target.h"

extern const char zm_prelude_cuda[], zm_prelude_gpu[];

static void print_arguments(zm_text *text, const zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    for (int i = 0; i < ir->n_inputs; i++)
        zm_text_printf(text, "const %s *%s, ", zm_gpu_storage_word(frame->request->inputs[i]), zm_gpu_input_name(i));
    for (int i = 0; i < (frame->request->joins_outputs ? 1 : ir->n_outputs); i++)
        zm_text_printf(text, "%s *%s, ", zm_gpu_storage_word(frame->request->outputs[i]), zm_gpu_output_name(i));
    zm_text_append_string(
        text, "uint rows_low, uint rows_high, uint columns_low, uint columns_high,\n    uint threads_per_row");
    for (int i = 0; i < ir->n_inputs; i++) zm_text_printf(text, ", uint layout%d", i);
    for (int i = 0; i < ir->n_parameters; i++)
        zm_text_printf(text, ir->parameters[i].is_seed ? ", uint low%d, uint high%d" : ", float p%d", i, i);
}

static void print_call(zm_text *text, const zm_gpu_frame *frame, const char *function) {
    const zm_ir *ir = frame->ir;
    zm_text_printf(text, "    %s(", function);
    for (int i = 0; i < ir->n_inputs; i++) zm_text_printf(text, "%s, ", zm_gpu_input_name(i));
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, frame->request->joins_outputs && i ? "%s + zm_join(columns_low, columns_high), " : "%s, ",
                       zm_gpu_output_name(frame->request->joins_outputs ? 0 : i));
    zm_text_append_string(
        text, "zm_join(rows_low, rows_high), zm_join(columns_low, columns_high), threads_per_row,\n        ");
    for (int i = 0; i < ir->n_inputs; i++) zm_text_printf(text, "layout%d, ", i);
    for (int i = 0; i < ir->n_parameters; i++)
        zm_text_printf(text, ir->parameters[i].is_seed ? "seed%d, " : "p%d, ", i);
    zm_text_append_string(text, "self, shared);\n");
}

/* Blocks of a multiprocessor, so that enough loads are on their way: as many as the registers allow without
 * spilling. */
static int count_blocks(const zm_gpu_frame *frame) {
    int words = 0;
    bool has_elements = false;
    for (int i = 0; i < frame->ir->n_outputs; i++) has_elements |= frame->ir->outputs[i].level == ZM_LEVEL_ELEMENT;
    if (frame->has_rows && !has_elements && frame->resident_words && frame->resident_words <= 16) return 3;
    if (frame->has_rows) return frame->resident_words <= ZM_GPU_TWO_BLOCKS && !frame->request->summed_outputs ? 2 : 1;
    for (int i = 0; i < frame->ir->n_inputs; i++)
        words += zm_gpu_map_vectors(frame->ir) * frame->vector * zm_storage_bytes(frame->request->inputs[i]) / 4;
    return words <= 8 ? 3 : 2;
}

/* plain: where inputs of elements are known to vary by column, which tells the compiler; NULL: nowhere. */
static void print_kernel(zm_text *text, const zm_gpu_frame *frame, const char *function, const char *blocks,
                         const char *plain) {
    const zm_ir *ir = frame->ir;
    zm_text_printf(text, "extern \"C\" __global__ void __launch_bounds__(%d, %s) %s(\n    ",
                   zm_gpu_frame_threads(frame), blocks, frame->request->entry);
    print_arguments(text, frame);
    zm_text_append_string(text, ") {\n");
    if (zm_gpu_frame_shared_words(frame))
        zm_text_printf(text, "    __shared__ uint shared[%d];\n", zm_gpu_frame_shared_words(frame));
    else
        zm_text_append_string(text, "    uint *shared = 0;\n");
    zm_text_append_string(text,
                          "    zm_thread self;\n"
                          "    self.block = zm_long(blockIdx.y) * gridDim.x + blockIdx.x;\n"
                          "    self.blocks = zm_long(gridDim.y) * gridDim.x;\n"
                          "    self.index = threadIdx.x;\n"
                          "    self.threads = blockDim.x;\n");
    for (int i = 0; i < ir->n_parameters; i++)
        if (ir->parameters[i].is_seed)
            zm_text_printf(text, "    zm_seed seed%d;\n    seed%d.low = low%d, seed%d.high = high%d;\n", i, i, i, i, i);
    for (int i = 0; i < ir->n_inputs && plain; i++)
        if (ir->inputs[i].level == ZM_LEVEL_ELEMENT) zm_text_printf(text, "    %slayout%d |= 1u;\n", plain, i);
    print_call(text, frame, function);
    zm_text_append_string(text, "}\n");
}

static void print_maps(zm_text *text, zm_gpu_frame *frame, const char *blocks) {
    for (int part = 0; part < ZM_GPU_MAP_PARTS; part++) {
        zm_text_printf(text, "#if ZM_PART == %d\n", part);
        zm_gpu_print_map_frame(frame, part);
        print_kernel(text, frame, "zm_frame", blocks, part == ZM_GPU_FLAT_MAP || part == ZM_GPU_PLAIN_MAP ? "" : NULL);
        zm_text_append_string(text, "#endif\n");
    }
}

/* Long rows of one input need few registers: three blocks of them wait for less. */
static bool reads_one(const zm_gpu_frame *frame) {
    int n = 0;
    for (int i = 0; i < frame->ir->n_inputs; i++) n += frame->ir->inputs[i].level == ZM_LEVEL_ELEMENT;
    return n == 1 && !frame->request->summed_outputs;
}

/* One kernel for all programs of short rows. */
static void print_rows(zm_text *text, zm_gpu_frame *frame, const char *blocks) {
    char streamed[32], plain[32];
    snprintf(streamed, sizeof streamed, "zm_streamed<%d>", frame->vector);
    snprintf(plain, sizeof plain, "if (ZM_PART >= %d) ", ZM_GPU_GENERAL_PARTS);
    zm_text_printf(text, "#if ZM_PART == %d\n", ZM_GPU_LONG_ROWS);
    print_kernel(text, frame, streamed, reads_one(frame) ? "3" : blocks, NULL);
    zm_text_printf(text, "#elif ZM_PART == %d\n", ZM_GPU_ODD_ROWS);
    print_kernel(text, frame, "zm_streamed<1>", blocks, NULL);
    zm_text_printf(text,
                   "#elif ZM_PART == %d\n#define ZM_CHUNKS %d\n#define ZM_WHOLE 0\n"
                   "#else\n#define ZM_CHUNKS ((ZM_PART - %d) / 2 + 1)\n#define ZM_WHOLE (ZM_CHUNKS - (ZM_PART - %d) %% "
                   "2)\n#endif\n"
                   "#ifdef ZM_CHUNKS\n",
                   ZM_GPU_SHORT_ROWS, frame->items / frame->vector, ZM_GPU_GENERAL_PARTS, ZM_GPU_GENERAL_PARTS);
    print_kernel(text, frame, frame->resident_words ? "zm_resident<ZM_CHUNKS, ZM_WHOLE>" : streamed, blocks, plain);
    zm_text_append_string(text, "#endif\n");
}

/* The parts, each a program of its own with the kernel's name: together they would take several times as long to
 * compile, and the registers of the largest. */
static void print_kernels(zm_text *text, zm_gpu_frame *frame) {
    char blocks[16];
    snprintf(blocks, sizeof blocks, "%d", count_blocks(frame));
    zm_text_append_string(text, "\n#ifndef ZM_PART\n#define ZM_PART 0\n#endif\n");
    (frame->has_rows ? print_rows : print_maps)(text, frame, blocks);
}

void zm_cuda_begin_source(zm_text *source, const zm_emit_request *request) {
    if (zm_emit_is_narrow(request)) zm_text_append_string(source, "#define ZM_NARROW\n");
    zm_text_append_string(source, zm_prelude_cuda);
    zm_text_append_string(source, zm_prelude_gpu);
    zm_emit_begin_storage(source, request);
}

static zmlx_status emit(zm_text *source, const zm_emit_request *request, zmlx_error *error) {
    zm_gpu_frame frame;
    ZM_TRY(zm_gpu_frame_begin(&frame, request, error));
    zm_cuda_begin_source(source, request);
    zmlx_status status = zm_gpu_frame_print(&frame, source);
    if (!status) print_kernels(source, &frame);
    zm_gpu_frame_end(&frame);
    return !status && source->failed ? zm_fail_memory(error) : status;
}

const zm_target zm_target_cuda = {"cuda", "cu", emit};
