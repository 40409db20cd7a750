/* SPDX-License-Identifier: MIT */
/* Metal Shading Language 3.1. */
#include "emit/gpu/frame.h"
#include "emit/target.h"

enum { MAX_BUFFERS = 31, FIRST_LAYOUT = 5 };

extern const char zm_prelude_metal[], zm_prelude_gpu[];

static void print_body(zm_text *text, const zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    int word = FIRST_LAYOUT, words = zm_gpu_frame_shared_words(frame);
    zm_text_printf(text,
                   "    threadgroup uint zm_shared[%d];\n"
                   "    zm_thread zm_self;\n"
                   "    zm_self.block = zm_long(threadgroup_position_in_grid.y) * threadgroups_per_grid.x + "
                   "threadgroup_position_in_grid.x;\n"
                   "    zm_self.blocks = zm_long(threadgroups_per_grid.y) * threadgroups_per_grid.x;\n"
                   "    zm_self.index = thread_index_in_threadgroup;\n"
                   "    zm_self.threads = threads_per_threadgroup.x;\n"
                   "    zm_frame(",
                   words ? words : 1);
    for (int i = 0; i < ir->n_inputs; i++)
        zm_text_printf(text, "zm_words<%s>(%s), ", zm_gpu_storage_word(frame->request->inputs[i]),
                       zm_gpu_input_name(i));
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, "zm_output_words<%s>(%s), ", zm_gpu_storage_word(frame->request->outputs[i]),
                       zm_gpu_output_name(i));
    zm_text_append_string(text,
                          "\n        zm_join(zm_scalars[0], zm_scalars[1]), zm_join(zm_scalars[2], zm_scalars[3]), "
                          "zm_scalars[4],\n        ");
    for (int i = 0; i < ir->n_inputs; i++) zm_text_printf(text, "zm_scalars[%d], ", word++);
    for (int i = 0; i < ir->n_parameters; i++) {
        if (ir->parameters[i].is_seed)
            zm_text_printf(text, "zm_make_seed(zm_scalars[%d], zm_scalars[%d]), ", word, word + 1);
        else
            zm_text_printf(text, "zm_bits_float(zm_scalars[%d]), ", word);
        word += ir->parameters[i].is_seed ? 2 : 1;
    }
    zm_text_append_string(text, "zm_self, zm_shared);\n");
}

static zmlx_status print_header(zm_text *text, zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    if (frame->request->joins_outputs)
        return zm_fail(frame->error, ZMLX_ERROR_UNSUPPORTED, ir->name, "has no Metal text that joins its outputs");
    if (ir->n_inputs + ir->n_outputs + 1 > MAX_BUFFERS)
        return zm_fail(frame->error, ZMLX_ERROR_UNSUPPORTED, ir->name, "%d arrays; a Metal kernel takes at most %d",
                       ir->n_inputs + ir->n_outputs, MAX_BUFFERS - 1);
    zm_text_append_string(text, zm_prelude_metal);
    zm_text_append_string(text, zm_prelude_gpu);
    zm_emit_begin_storage(text, frame->request);
    ZM_TRY(zm_gpu_frame_print(frame, text));
    zm_gpu_print_choice(frame);
    return ZMLX_OK;
}

zmlx_status zm_metal_emit_parts(zm_text *header, zm_text *body, const zm_emit_request *request, zmlx_error *error) {
    zm_gpu_frame frame;
    ZM_TRY(zm_gpu_frame_begin(&frame, request, error));
    zmlx_status status = print_header(header, &frame);
    if (!status) print_body(body, &frame);
    zm_gpu_frame_end(&frame);
    return !status && (header->failed || body->failed) ? zm_fail_memory(error) : status;
}

static void print_signature(zm_text *text, const zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    int buffer = 0;
    zm_text_printf(text, "\n[[kernel]] void %s(\n", frame->request->entry);
    for (int i = 0; i < ir->n_inputs; i++)
        zm_text_printf(text, "    const device %s *%s [[buffer(%d)]],\n",
                       zm_gpu_storage_word(frame->request->inputs[i]), zm_gpu_input_name(i), buffer++);
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, "    device %s *%s [[buffer(%d)]],\n", zm_gpu_storage_word(frame->request->outputs[i]),
                       zm_gpu_output_name(i), buffer++);
    zm_text_printf(text,
                   "    const constant uint *zm_scalars [[buffer(%d)]],\n"
                   "    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],\n"
                   "    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]],\n"
                   "    uint3 threadgroups_per_grid [[threadgroups_per_grid]],\n"
                   "    uint3 threads_per_threadgroup [[threads_per_threadgroup]]) {\n",
                   buffer);
}

static zmlx_status emit(zm_text *source, const zm_emit_request *request, zmlx_error *error) {
    zm_gpu_frame frame;
    ZM_TRY(zm_gpu_frame_begin(&frame, request, error));
    zmlx_status status = print_header(source, &frame);
    if (!status) {
        print_signature(source, &frame);
        print_body(source, &frame);
        zm_text_append_string(source, "}\n");
    }
    zm_gpu_frame_end(&frame);
    return !status && source->failed ? zm_fail_memory(error) : status;
}

const zm_target zm_target_metal = {"metal", "metal", emit};
