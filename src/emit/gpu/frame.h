/* SPDX-License-Identifier: MIT */
/* The text of a kernel between prelude and signature, the same for CUDA and Metal: the functions of its folds and
 *
 *     template <int V, int U, bool WHOLE, class I0, ...> void zm_part(..., zm_long begin, zm_long end)
 *         of a map, U vectors a thread; WHOLE: from begin to end there are only whole tiles
 *     template <int C, int WHOLE, class I0, ...> void zm_resident(...)
 *         rows of whole vectors that fit in registers, where any do: C chunks, of which all threads have the first
 * WHOLE template <int V, class I0, ...> void zm_streamed(...) rows of any length; V is 1 where they are not whole
 * vectors template <class I0, ...> void zm_frame(I0 zm_in0, ..., out pointers, long rows, long columns, uint
 * threads_per_row, uint layout0, ..., float p0, zm_seed p1, ..., zm_thread self, uint *shared)
 *
 * of which the last (only where asked for) chooses among the others. Names in them: v<id> a value, x<id> a vector of a
 * load as in memory, e<id> its elements, k<id> kept elements, c<id> elements that a later segment reads, s<id> those of
 * a scan, r<id> an accumulator, q<id> random numbers, t<id> a vector's part of a sum, y<output> what is stored. */
#ifndef ZM_EMIT_GPU_FRAME_H
#define ZM_EMIT_GPU_FRAME_H

#include "emit/gpu/gpu.h"
#include "emit/schedule.h"

enum {
    ZM_GPU_MAP_THREADS = 512,
    ZM_GPU_ODD_VECTORS = 2,       /* of one element, of a thread of a map */
    ZM_GPU_ROW_THREADS = 256,     /* a block of shorter rows, */
    ZM_GPU_SMALL_BLOCK = 64,      /* or of such that are not very short, */
    ZM_GPU_SUMMING_BLOCK = 128,   /* or of such that sum over rows, */
    ZM_GPU_SUMMING_THREADS = 512, /* of which a multiprocessor has so many threads */
    ZM_GPU_MAX_ROW_THREADS = 512, /* a block of one row */
    ZM_GPU_WIDE_ROW_THREADS = 128, /* up to so many, rather more threads than more elements of each */
    ZM_GPU_WARP = 32,
    ZM_GPU_ROW_ITEMS = 16,        /* elements that a thread keeps of a row that fits; */
    ZM_GPU_HALF_ROW_ITEMS = 32,   /* of half types, where it does not read too many */
    ZM_GPU_FEW_ITEMS = 8,         /* of them, where a row is read in one go and has threads for it; */
    ZM_GPU_ROW_WORDS = 96,        /* registers for them; */
    ZM_GPU_TWO_BLOCKS = 48,       /* up to so many a multiprocessor has place for two of the largest blocks */
    ZM_GPU_SLOT = 16,             /* shared words of a reduction: one a warp of the largest block */
    ZM_GPU_CARRIES = 256          /* shared words of a scan that a pass of the other direction reads */
};

typedef struct zm_gpu_frame {
    zm_text *text;
    const zm_emit_request *request;
    zm_ir *ir;  /* legalised; owned */
    zm_ir *resident_ir; /* the same for rows in registers, where another pass costs no reading; owned, or ir itself */
    bool has_rows;
    int vector; /* elements of a thread's vector */
    int items;  /* elements of a row that fits, of a thread */
    int resident_words; /* registers for what a thread keeps of a row; 0: nothing, as too much is read */
    int n_slots;   /* shared memory in use, in slots of ZM_GPU_SLOT words */
    int n_carried; /* scans whose sums are kept in shared memory */
    zmlx_error *error;
} zm_gpu_frame;

/* 16 bytes of the narrowest type, at most 8 elements. */
int zm_gpu_vector(const zm_emit_request *request);
/* Vectors of a thread of a map. Many threads of one have as many loads on their way and end sooner; those that compute
 * random numbers do two at a time. */
int zm_gpu_map_vectors(const zm_ir *ir);
/* Elements of a row that fits, of a thread: 4 vectors, or fewer. */
int zm_gpu_row_items(const zm_emit_request *request);
static inline bool zm_gpu_is_summed(const zm_emit_request *request, int output) {
    return request->summed_outputs >> output & 1;
}

zmlx_status zm_gpu_frame_begin(zm_gpu_frame *frame, const zm_emit_request *request, zmlx_error *error);
void zm_gpu_frame_end(zm_gpu_frame *frame);
/* Appends the functions above but zm_frame, which zm_gpu_print_choice appends. */
zmlx_status zm_gpu_frame_print(zm_gpu_frame *frame, zm_text *text);
/* Chooses the vector where addresses allow it: for rows of whole vectors; in a map for what is, and single elements
 * behind. */
void zm_gpu_print_choice(zm_gpu_frame *frame);
/* zm_frame of one part of a map, which the launch chooses. */
void zm_gpu_print_map_frame(zm_gpu_frame *frame, int part);
/* Shared words, known after printing; 0 for a map. */
int zm_gpu_frame_shared_words(const zm_gpu_frame *frame);
int zm_gpu_frame_threads(const zm_gpu_frame *frame); /* of the largest block */

const char *zm_gpu_storage_word(zm_storage storage); /* the type whose pointer an array is: ushort */

/* Parts for frame_map.c and frame_row.c. */
static inline bool zm_gpu_is_vector_load(const zm_value *value) {
    return value->op == ZM_OP_LOAD && value->level == ZM_LEVEL_ELEMENT;
}
/* The head of a function of the frame, up to its brace. constants: the template's, or NULL. */
void zm_gpu_print_function(zm_gpu_frame *frame, const char *name, const char *constants, const char *more_parameters);
const char *zm_gpu_type(zm_type type);
/* The value as an expression of v<operand>; leaves of elements in terms of `at` and `j`. Not loads, reductions,
 * scans. */
zmlx_status zm_gpu_print_expression(zm_gpu_frame *frame, zm_id id);
/* The numbers of a random value for a vector, before the loop over it. */
void zm_gpu_print_random(zm_gpu_frame *frame, const char *indent, zm_id id);
/* Elements from one row of an output to the next. */
const char *zm_gpu_output_stride(const zm_gpu_frame *frame);
/* "const float v3 = expression;" */
zmlx_status zm_gpu_print_value(zm_gpu_frame *frame, const char *indent, zm_id id);
zmlx_status zm_gpu_print_map(zm_gpu_frame *frame);
zmlx_status zm_gpu_print_rows(zm_gpu_frame *frame);

#endif
