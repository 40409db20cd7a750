/* SPDX-License-Identifier: MIT */
/* Compiled kernels on disk, and the compilers that make them. Safe for many threads and processes at once.
 *
 * An entry is a file named by the hash of its key in a folder of mode 0700. It ends in a trailer with the whole key and a checksum
 * of the code before it; an entry that is truncated, altered, of another key, or not the user's own is
 * built again. It appears by an atomic rename. */
#ifndef ZM_RUNTIME_CACHE_H
#define ZM_RUNTIME_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Settings of the process (zmlx_kernel_set_cache); NULL is the default. Copied. */
zmlx_status zm_cache_set(const char *folder, const char *compiler, zmlx_error *error);

/* The code of a C source: one built with the library (prebuilt.h), else a shared object: from the
 * cache, or compiled for this processor by the system's compiler. *symbol is
 * that of `entry`, `scratch_rows` what <entry>_scratch holds. It stays loaded for the life of the process; the same
 * source is loaded once. *compiled (may be NULL) tells whether the compiler ran. */
zmlx_status zm_compile_c(void **symbol, int *scratch_rows, int *compiled, const char *source, size_t size, const char *entry,
                         zmlx_error *error);

/* Cubins for a CUDA source, by NVRTC (loaded at run time): one for each part, which the source is compiled for with ZM_PART
 * defined as its number. compute_capability is 90 for sm_90. *code is the caller's (free); zm_cubin_get takes it apart. */
zmlx_status zm_compile_cuda(char **code, size_t *code_size, int *compiled, const char *source, size_t size, int n_parts,
                            int compute_capability, zmlx_error *error);
/* The cubin of a part in code, borrowed; NULL where there is none. */
const char *zm_cubin_get(size_t *cubin_size, const char *code, size_t code_size, int part);

/* Runs of a compiler in this process so far, and entries taken from disk. */
typedef struct zm_cache_counts {
    uint64_t compiled, loaded;
} zm_cache_counts;
zm_cache_counts zm_cache_get_counts(void);

#endif
