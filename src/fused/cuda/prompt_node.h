/* SPDX-License-Identifier: MIT */
/* The kernels of prompts (prompt.cuh, around.cuh and those of decode_*.cuh that are named below) as nodes of MLX's
 * graph; each is compiled when it is first needed. */
#ifndef ZM_FUSED_CUDA_PROMPT_NODE_H
#define ZM_FUSED_CUDA_PROMPT_NODE_H

#include "base/text.h"
#include "mlx/scope.h"

/* A product: bits; or another kernel. */
enum {
    ZM_PROMPT_GATED = 1,
    ZM_PROMPT_FIRST = 2,
    ZM_PROMPT_SECOND = 4,
    ZM_PROMPT_TILED = 8, /* by zm_tiled of decode_tiles_prompt.cuh, not zm_product */
    ZM_PROMPT_PLAN = 16,
    ZM_PROMPT_COMBINE,
    ZM_PROMPT_CONVOLVE,
    ZM_PROMPT_EMBED,
    ZM_PROMPT_FEW,        /* zm_few of decode_few.cuh */
    ZM_PROMPT_ROUTE,      /* zm_route of decode_route.cuh */
    ZM_PROMPT_SORTED_IN,  /* zm_sorted of decode_sorted.cuh: gate, up and activation */
    ZM_PROMPT_SORTED_OUT, /* the same: down */
};

/* Rows of weights of a block: one or the other; and the most rows of x. */
enum { ZM_PROMPT_FEW_WEIGHTS = 64, ZM_PROMPT_MANY_WEIGHTS = 128, ZM_PROMPT_MOST_ROWS = 128 };
/* Of a block of zm_sorted: its warps, and the rows of x that it takes. */
enum { ZM_PROMPT_SORTED_WARPS = 8, ZM_PROMPT_SORTED_ROWS = 8 };

typedef struct zm_prompt_code_key {
    int kind;
    int bits, group_size, weight_rows, span; /* of a product or a table: as ZM_BITS and so on of prompt.cuh */
    bool is_float16; /* not bfloat16 */
    int k;     /* of TILED, FEW and SORTED: the length of weights' rows */
    int count; /* of FEW: rows of x; of ROUTE: experts chosen */
} zm_prompt_code_key;

enum { ZM_PROMPT_MAX_WORDS = 12 };

/* One launch: its arguments are the inputs, the outputs and the words. */
typedef struct zm_prompt_kernel {
    zm_prompt_code_key code;
    int block;
    int64_t n_blocks;
    int tile_rows;    /* of x, in a product: shared memory is for so many */
    int shared_bytes; /* of TILED, FEW and SORTED */
    uint32_t words[ZM_PROMPT_MAX_WORDS];
    int n_words;
} zm_prompt_kernel;

void zm_prompt_add_word(zm_prompt_kernel *kernel, int value);
void zm_prompt_add_float(zm_prompt_kernel *kernel, float value);

/* Sets results (owned by the scope; empty after a failure). Inputs in row order that begin at multiples of 16 bytes are
 * read in place. */
void zm_prompt_launch(zm_scope *scope, mlx_array *results, const zm_node_output *specs, int n_outputs,
                      const zm_prompt_kernel *kernel, const mlx_array *inputs, int n_inputs);

/* Appends the kernel's text, or sets text->failed. Whether it is for one architecture alone. */
bool zm_prompt_code_text(zm_text *text, zm_prompt_code_key key);
/* The cubin, compiled or from the cache; it lives as long as the process. Any thread. */
zmlx_status zm_prompt_code_get(const zm_text **cubin, zm_prompt_code_key key, zmlx_error *error);

#endif
