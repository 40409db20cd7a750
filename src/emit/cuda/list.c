/* SPDX-License-Identifier: MIT */
#include "emit/cuda/list.h"

#include "emit/cuda/source.h"
#include "emit/gpu/frame.h"

enum { BLOCKS = 2 /* of a multiprocessor, at least */ };

static void print_arguments(zm_text *text, const zm_gpu_frame *frame, int n_items) {
    const zm_ir *ir = frame->ir;
    for (int item = 0; item < n_items; item++)
        for (int i = 0; i < ir->n_inputs; i++)
            zm_text_printf(text, "    const %s *in%d_%d,\n", zm_gpu_storage_word(frame->request->inputs[i]), item, i);
    for (int item = 0; item < n_items; item++)
        for (int i = 0; i < ir->n_outputs; i++)
            zm_text_printf(text, "    %s *out%d_%d,\n", zm_gpu_storage_word(frame->request->outputs[i]), item, i);
    for (int item = 0; item < n_items; item++)
        zm_text_printf(text, "%s    uint end%d, uint low%d, uint high%d", item ? ",\n" : "", item, item, item);
    for (int i = 0; i < ir->n_parameters; i++) zm_text_printf(text, ", float p%d", i);
}

/* Sets what the item's blocks work on. */
static void print_item(zm_text *text, const zm_gpu_frame *frame, int item) {
    const zm_ir *ir = frame->ir;
    zm_text_printf(text, "    if (block >= end%d) {\n        begin = end%d, end = end%d, low = low%d, high = high%d;\n",
                   item - 1, item - 1, item, item, item);
    for (int i = 0; i < ir->n_inputs; i++) zm_text_printf(text, "        zm_in%d = in%d_%d;\n", i, item, i);
    for (int i = 0; i < ir->n_outputs; i++) zm_text_printf(text, "        zm_out%d = out%d_%d;\n", i, item, i);
    zm_text_append_string(text, "    }\n");
}

static void print_kernel(zm_text *text, const zm_gpu_frame *frame, int n_items) {
    const zm_ir *ir = frame->ir;
    zm_text_printf(text, "extern \"C\" __global__ void __launch_bounds__(%d, %d) %s(\n", ZM_GPU_MAP_THREADS, BLOCKS,
                   frame->request->entry);
    print_arguments(text, frame, n_items);
    zm_text_append_string(text, ") {\n    const uint block = blockIdx.y * gridDim.x + blockIdx.x;\n"
                                "    uint begin = 0u, end = end0, low = low0, high = high0;\n");
    for (int i = 0; i < ir->n_inputs; i++)
        zm_text_printf(text, "    const %s *zm_in%d = in0_%d;\n", zm_gpu_storage_word(frame->request->inputs[i]), i, i);
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, "    %s *zm_out%d = out0_%d;\n", zm_gpu_storage_word(frame->request->outputs[i]), i, i);
    for (int item = 1; item < n_items; item++) print_item(text, frame, item);
    zm_text_append_string(text,
                          "    zm_thread self;\n"
                          "    self.block = block - begin;\n"
                          "    self.blocks = end - begin;\n"
                          "    self.index = threadIdx.x;\n"
                          "    self.threads = blockDim.x;\n"
                          "    zm_frame(");
    for (int i = 0; i < ir->n_inputs; i++) zm_text_printf(text, "zm_in%d, ", i);
    for (int i = 0; i < ir->n_outputs; i++) zm_text_printf(text, "zm_out%d, ", i);
    zm_text_append_string(text, "zm_long(1), zm_join(low, high), 0u, ");
    for (int i = 0; i < ir->n_inputs; i++) zm_text_append_string(text, "1u, ");
    for (int i = 0; i < ir->n_parameters; i++) zm_text_printf(text, "p%d, ", i);
    zm_text_append_string(text, "self, static_cast<uint *>(0));\n}\n");
}

static zmlx_status print(zm_text *source, zm_gpu_frame *frame, int n_items) {
    ZM_TRY(zm_gpu_frame_print(frame, source));
    zm_text_printf(source, "#if ZM_PART == %d\n", ZM_GPU_FLAT_MAP);
    zm_gpu_print_map_frame(frame, ZM_GPU_FLAT_MAP);
    zm_text_append_string(source, "#else\n");
    zm_gpu_print_map_frame(frame, ZM_GPU_ODD_MAP);
    zm_text_append_string(source, "#endif\n");
    print_kernel(source, frame, n_items);
    return source->failed ? zm_fail_memory(frame->error) : ZMLX_OK;
}

zmlx_status zm_cuda_emit_list(zm_text *source, const zm_emit_request *request, int n_items, zmlx_error *error) {
    zm_gpu_frame frame;
    ZM_TRY(zm_gpu_frame_begin(&frame, request, error));
    zm_cuda_begin_source(source, request);
    zmlx_status status = print(source, &frame, n_items);
    zm_gpu_frame_end(&frame);
    return status;
}
