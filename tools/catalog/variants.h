/* SPDX-License-Identifier: MIT */
/* The texts that calls of the catalogue's expressions can ask for: every type of data and of parameters, values and
 * gradients. */
#ifndef CATALOG_VARIANTS_H
#define CATALOG_VARIANTS_H

#include "kernels/compose.h"

/* Calls visit with each request and the row it belongs to; stops at the first failure. */
typedef zmlx_status variant_visitor(void *context, const zm_kernel_entry *entry, const zm_emit_request *request,
                                    zmlx_error *error);
zmlx_status visit_variants(variant_visitor *visit, void *context, zmlx_error *error);

#endif
