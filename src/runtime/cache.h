/* SPDX-License-Identifier: MIT */
/* Compiled kernels on disk, and the compilers that make them. Safe for many threads and processes at once.
 *
 * An entry is a file named by the hash of its key in a folder of mode 0700. It ends in a trailer with the whole key and
 * a checksum of the code before it; an entry that is truncated, altered, of another key, or not the user's own is built
 * again. It appears by an atomic rename. */
#ifndef ZM_RUNTIME_CACHE_H
#define ZM_RUNTIME_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"

/* Settings of the process (zmlx_kernel_set_cache); NULL is the default. Copied. */
zmlx_status zm_cache_set(const char *folder, const char *compiler, zmlx_error *error);

/* The code of a C source: one built with the library (prebuilt.h), else a shared object: from the
 * cache, or compiled for this processor by the system's compiler. *symbol is
 * that of `entry`, `scratch_rows` what <entry>_scratch holds. It stays loaded for the life of the process; the same
 * source is loaded once. *compiled (may be NULL) tells whether the compiler ran. */
zmlx_status zm_compile_c(void **symbol, int *scratch_rows, int *compiled, const char *source, size_t size,
                         const char *entry, zmlx_error *error);

/* A CUDA source has programs, its parts: the text compiled with ZM_PART defined as their number. The compiler takes
 * one at a time, so the one that is needed first is compiled first. */
typedef struct zm_cuda_source {
    const char *text; /* ends in a NUL */
    size_t size;
    int n_parts, first;     /* first: it stands for all in zm_cache_counts */
    int compute_capability; /* 90 for sm_90 */
    bool for_it_alone;      /* may use what other capabilities lack: sm_90a */
} zm_cuda_source;

/* A part's cubin, by NVRTC (loaded at run time) or from the cache; it lives as long as the process. *compiled (may be
 * NULL) tells whether the compiler ran. */
zmlx_status zm_compile_cuda(const zm_text **cubin, int *compiled, const zm_cuda_source *source, int part,
                            zmlx_error *error);
/* Compiles all parts but the first on a thread of its own, once no call of zm_compile_cuda waits; nothing before the
 * compiler has run in this process. source may be freed. At exit the process waits for the part being compiled. */
void zm_compile_cuda_rest(const zm_cuda_source *source);

/* Kernels that a compiler ran for in this process so far, and those taken from disk. */
typedef struct zm_cache_counts {
    uint64_t compiled, loaded;
} zm_cache_counts;
zm_cache_counts zm_cache_get_counts(void);

#endif
