/* SPDX-License-Identifier: MIT */
/* The kernels of decode.cuh, compiled for weights of one quantisation and row length in a model of one width. */
#ifndef ZM_FUSED_CUDA_PROGRAM_H
#define ZM_FUSED_CUDA_PROGRAM_H

#include <stdbool.h>

#include "base/error.h"
#include "base/text.h"
#include "mlx/weight.h"

typedef enum zm_decode_kernel {
#define ZM_DECODE_KERNEL(name, rows) ZM_DECODE_KERNEL_##name,
#include "fused/cuda/kernels.def"
#undef ZM_DECODE_KERNEL
    ZM_DECODE_KERNEL_COUNT
} zm_decode_kernel;

typedef struct zm_decode_settings {
    int bits, group_size; /* of the weights; 32, 64 or 128 */
    bool is_mxfp4;        /* of 4 bits in groups of 32; otherwise affine */
    bool is_float16;      /* what is computed with, and scales and biases; otherwise bfloat16 */
    int k; /* length of the weights' rows */
    int hidden_size;
    int head_dim; /* 64 or 128 */
    int top_k;    /* experts a token; 1 where there are none */
    bool stamps;  /* stamps.cuh */
} zm_decode_settings;

/* Dynamic shared memory that a launch may ask for, and its part for inputs. */
enum { ZM_DECODE_MAX_SHARED = 220 * 1024, ZM_DECODE_MAX_STAGED = 96 * 1024 };

typedef struct zm_decode_program {
    zm_decode_settings settings;
    /* As zm_chain_launch_record takes them; NULL: not for rows of that length. */
    void *kernels[ZM_DECODE_KERNEL_COUNT];
    int registers[ZM_DECODE_KERNEL_COUNT]; /* of a thread */
    struct zm_decode_program *next;
} zm_decode_program;

/* Whether the kernel is for rows of the hidden size only. */
bool zm_decode_kernel_is_hidden(zm_decode_kernel kernel);
/* Without the prefix that its symbol has; static. */
const char *zm_decode_kernel_name(zm_decode_kernel kernel);
/* Whether so many chosen experts are multiplied on tensor cores (decode_tiles_experts.cuh). */
bool zm_decode_takes_tiles(int top_k);
/* Appends the kernels' text, or sets text->failed. */
void zm_decode_program_text(zm_text *text, zm_decode_settings settings);
/* Compiles (or takes from the cache) and loads it; the process keeps it. Any thread. */
zmlx_status zm_decode_program_get(const zm_decode_program **program, zm_decode_settings settings, zmlx_error *error);
/* The same for a weight's quantisation, with stamps if zm_timeline_is_on. */
zmlx_status zm_decode_program_for(const zm_decode_program **program, const zm_weight *weight, int k, int hidden_size,
                                  int head_dim, int top_k, zmlx_error *error);

#endif
