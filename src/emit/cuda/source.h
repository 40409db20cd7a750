/* SPDX-License-Identifier: MIT */
#ifndef ZM_EMIT_CUDA_SOURCE_H
#define ZM_EMIT_CUDA_SOURCE_H

#include "emit/emit.h"

/* What every CUDA text begins with: the preludes and the storage that roundings are to. */
void zm_cuda_begin_source(zm_text *source, const zm_emit_request *request);

#endif
