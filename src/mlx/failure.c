/* SPDX-License-Identifier: MIT */
/* Keeps the text of this thread's last MLX error. Installed when the library is loaded, so that no error of
 * a real mlx-c, whose default handler ends the process, is met without it. */
#include <stdio.h>

#include "base/error.h"
#include "mlx/scope.h"

static _Thread_local char last_message[sizeof((zmlx_error *)NULL)->message];

static void keep_message(const char *message, void *data) {
    (void)data;
    snprintf(last_message, sizeof last_message, "%s", message);
}

__attribute__((constructor)) static void install_handler(void) {
    mlx_set_error_handler(keep_message, NULL, NULL);
}

zmlx_status zm_mlx_fail(zmlx_error *error, const char *where) {
    const char *message = last_message[0] ? last_message : zmlx_status_text(ZMLX_ERROR_MLX);
    zm_fail(error, ZMLX_ERROR_MLX, where, "%s", message);
    last_message[0] = '\0';
    return ZMLX_ERROR_MLX;
}
