/* SPDX-License-Identifier: MIT */
/* How an operation of scope.h is written. */
#ifndef ZM_MLX_OPERATION_H
#define ZM_MLX_OPERATION_H

#include "mlx/scope.h"

/* Ends an operation: the scope owns result, or records why status is not 0. */
mlx_array zm_scope_take(zm_scope *scope, const char *operation, int status, mlx_array result);

/* The body of an operation that is one call of mlx-c on its scope's stream, with the call's arguments
 * between the result and the stream. Nothing is called after a failure. */
#define ZM_OPERATION(scope, name, ...)                                                             \
    do {                                                                                           \
        mlx_array result_ = {NULL};                                                                \
        if (zm_scope_failed(scope)) return result_;                                                \
        int status_ = mlx_##name(&result_, __VA_ARGS__, (scope)->stream);                          \
        return zm_scope_take(scope, #name, status_, result_);                                      \
    } while (0)

#endif
