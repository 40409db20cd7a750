/* SPDX-License-Identifier: MIT */
/* Rows of pairs rotated in one pass. */
#ifndef ZM_KERNELS_ROTATE_H
#define ZM_KERNELS_ROTATE_H

#include "mlx/scope.h"

typedef enum zm_pairing { ZM_PAIRS_HALVES, ZM_PAIRS_NEIGHBOURS } zm_pairing;

/* x (..., 2 N) with pairs (j, j + N) or (2 j, 2 j + 1) of each row turned: row r by row r / inner mod positions of cos
 * and sin, (positions, N) flat, of x's type or float32. Sets *y, of x's type; gradient: the same turned back. False
 * where this pass has no form: then *y is not touched. */
bool zm_rotate_rows(zm_scope *scope, mlx_array *y, mlx_array x, mlx_array cos, mlx_array sin, int inner, int positions,
                    zm_pairing pairs);

#endif
