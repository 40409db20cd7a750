/* SPDX-License-Identifier: MIT */
/* The lists of all families as one. */
#include "kernels/catalog.h"

/* A build tool needs the texts without what they call. */
#if defined(ZM_CATALOG_TEXTS_ONLY)
#define ZM_FUNCTION_OF(name) NULL
#else
#define ZM_FUNCTION_OF(name) zm_compose_##name
#define ZM_FAMILY(name, text)
#define ZM_KERNEL(name, ...)
#define ZM_PART(name, ...)
#define ZM_ALIAS(name, other)
#define ZM_PROFILE(name, ...)
#define ZM_COMPOSITION(name, ...) zm_compose zm_compose_##name;
#define ZM_COMPOSED_PROFILE(name, ...) zm_compose zm_compose_##name##_mlx;
#include "kernels/families.def"
#undef ZM_FAMILY
#undef ZM_KERNEL
#undef ZM_PART
#undef ZM_ALIAS
#undef ZM_COMPOSITION
#undef ZM_PROFILE
#undef ZM_COMPOSED_PROFILE
#endif

static const zm_row rows[] = {
#define ZM_FAMILY(name_, text) {.family = #name_, .about = text},
#define ZM_KERNEL(name_, ...) {.name = #name_, __VA_ARGS__},
#define ZM_PART(name_, ...) {.name = #name_, .is_part = true, __VA_ARGS__},
#define ZM_ALIAS(name_, other) {.name = #name_, .same_as = #other},
#define ZM_COMPOSITION(name_, ...) {.name = #name_, .compose = ZM_FUNCTION_OF(name_), __VA_ARGS__},
#define ZM_PROFILE(name_, ...) {.name = #name_ "_mlx", .profile_of = #name_, __VA_ARGS__},
#define ZM_COMPOSED_PROFILE(name_, ...) \
    {.name = #name_ "_mlx", .profile_of = #name_, .compose = ZM_FUNCTION_OF(name_##_mlx), __VA_ARGS__},
#include "kernels/families.def"
#undef ZM_FAMILY
#undef ZM_KERNEL
#undef ZM_PART
#undef ZM_ALIAS
#undef ZM_COMPOSITION
#undef ZM_PROFILE
#undef ZM_COMPOSED_PROFILE
};

const zm_row *zm_catalog_rows(int *count) {
    *count = (int)(sizeof rows / sizeof *rows);
    return rows;
}
