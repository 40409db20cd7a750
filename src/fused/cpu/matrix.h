/* SPDX-License-Identifier: MIT */
/* One weight as the kernels see it: a matrix of out x in values, or a stack of them. */
#ifndef ZM_FUSED_CPU_MATRIX_H
#define ZM_FUSED_CPU_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "emit/storage.h"

/* Rows of the packed kinds are one stream of codes, least significant bit first, in uint32 words. */
typedef enum zm_matrix_kind {
    ZM_MATRIX_DENSE,  /* elements in `storage` */
    ZM_MATRIX_AFFINE, /* value = scale * code + bias of its group; scales and biases in `storage` */
    ZM_MATRIX_MXFP4   /* e2m1 codes; a scale is a byte s meaning 2^(s - 127) */
} zm_matrix_kind;

typedef struct zm_matrix {
    zm_matrix_kind kind;
    zm_storage storage;
    int bits, group_size; /* 0 when dense */
    size_t in_features;   /* a multiple of ZM_MATRIX_UNIT and of group_size */
    size_t out_features;
    size_t n_experts;     /* 1 when not stacked */
    const unsigned char *weight, *scales, *biases; /* (n_experts, out, ...) in MLX's layout */
    const unsigned char *edges; /* (n_experts, out, groups) words for scales and biases, see edges.h; or NULL */
    int first_exponent;         /* of them */
    const unsigned char *bias; /* (n_experts, out) in bias_storage, added to the product; or NULL */
    zm_storage bias_storage;
} zm_matrix;

enum { ZM_MATRIX_UNIT = 32 };

static inline size_t zm_storage_size(zm_storage storage) { return storage == ZM_STORAGE_FLOAT32 ? 4 : 2; }

static inline size_t zm_matrix_groups(const zm_matrix *matrix) {
    return matrix->group_size ? matrix->in_features / (size_t)matrix->group_size : 0;
}

/* Bytes of one row of `weight` and of one row of `scales`. */
static inline size_t zm_matrix_row_bytes(const zm_matrix *matrix) {
    if (matrix->kind == ZM_MATRIX_DENSE) return matrix->in_features * zm_storage_size(matrix->storage);
    return matrix->in_features / 8 * (size_t)matrix->bits;
}

static inline size_t zm_matrix_scale_row_bytes(const zm_matrix *matrix) {
    size_t size = matrix->kind == ZM_MATRIX_MXFP4 ? 1 : zm_storage_size(matrix->storage);
    return zm_matrix_groups(matrix) * size;
}

/* Whether prepared activations of one matrix serve the other. */
static inline bool zm_matrix_same_order(const zm_matrix *a, const zm_matrix *b) {
    return a->kind == b->kind && a->bits == b->bits && a->group_size == b->group_size &&
           a->in_features == b->in_features;
}

#endif
