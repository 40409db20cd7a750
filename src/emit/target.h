/* SPDX-License-Identifier: MIT */
/* What every target's emit begins with. */
#ifndef ZM_EMIT_TARGET_H
#define ZM_EMIT_TARGET_H

#include "emit/emit.h"

#define ZM_TARGET(name) extern const zm_target zm_target_##name;
#include "emit/targets.def"
#undef ZM_TARGET

/* The request's kernel verified, with valid storages of its values' types, and legalised for the target
 * (has_spelling as for zm_ir_legalize; the caller frees it). ZMLX_ERROR_ARGUMENT, naming the input or output,
 * where a storage does not hold the value's type; or for an entry that is no identifier. */
zmlx_status zm_emit_prepare(zm_ir **legal, const zm_emit_request *request, bool (*has_spelling)(zm_op op),
                            zmlx_error *error);

/* Behind the prelude: zm_stored and zm_stored_sigmoid for the type of the first output. False, and nothing, where the
 * kernel has no operation that rounds as MLX. */
bool zm_emit_begin_storage(zm_text *text, const zm_emit_request *request);

#endif
