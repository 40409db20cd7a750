/* SPDX-License-Identifier: MIT */
/* Parts of the kernel cache: the folder, its entries, the compilers. */
#ifndef ZM_RUNTIME_CACHE_PARTS_H
#define ZM_RUNTIME_CACHE_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/cache.h"

enum { ZM_CACHE_MAX_ENTRIES = 4096 };
static const uint64_t ZM_CACHE_MAX_BYTES = (uint64_t)512 << 20;

/* The folder for entries, made where it is missing; the caller's. NULL: there is none that belongs to this user and
 * that only this user can write. */
char *zm_cache_folder(void);
/* The compiler set by zm_cache_set, the caller's; NULL: none. */
char *zm_cache_compiler(void);

/* An empty folder of mode 0700 in parent (NULL: the system's temporary folder). Fails with ZMLX_ERROR_FILE. */
zmlx_status zm_work_folder_new(char **work, const char *parent, zmlx_error *error);
void zm_work_folder_free(char *work); /* removes it and the files in it; NULL is fine */

/* Where a limit is exceeded, removes the entries loaded longest ago until three quarters of both are left; and work
 * folders that a process left behind. Others may use the folder meanwhile: a removed file stays mapped. */
void zm_cache_trim(const char *folder, size_t max_entries, uint64_t max_bytes);

/* Whether path is an entry of this user for key, whole and unaltered. Sets code (may be NULL) to what it holds. */
bool zm_entry_read(zm_text *code, const char *path, const zm_text *key);
/* Makes the file an entry: appends key and checksum. Fails with ZMLX_ERROR_FILE. */
zmlx_status zm_entry_seal(const char *path, const zm_text *key, zmlx_error *error);
/* Path, size and time of change of a program or library: another version is another key. */
void zm_entry_describe_file(zm_text *key, const char *path);

/* The compiler to use, the caller's. Fails with ZMLX_ERROR_UNSUPPORTED where there is none. */
zmlx_status zm_host_compiler_find(char **compiler, zmlx_error *error);
/* Appends what, besides the source, determines its output: itself, flags, processor. */
void zm_host_compiler_describe(zm_text *key, const char *compiler);
/* Compiles to the file output in the folder work. ZMLX_ERROR_FILE: the folder is of no use; another code: the source
 * cannot be compiled, or it takes longer than `seconds`, in which this process was not stopped. */
zmlx_status zm_host_compiler_run(const char *compiler, const char *work, const char *output, const char *source,
                                 size_t size, double seconds, zmlx_error *error);

/* Fails with ZMLX_ERROR_UNSUPPORTED where NVRTC cannot be loaded. */
zmlx_status zm_nvrtc_describe(zm_text *key, const zm_cuda_source *source, zmlx_error *error);
/* The cubin of a part. */
zmlx_status zm_nvrtc_run(zm_text *cubin, const zm_cuda_source *source, int part, zmlx_error *error);
/* What it sets up in its first run it takes down first when the process exits: what waits for it then is to be
 * registered behind that. */
bool zm_nvrtc_has_run(void);

/* zm_compile_cuda without telling the thread of zm_compile_cuda_rest that a caller waits. */
zmlx_status zm_cuda_part_get(const zm_text **cubin, int *compiled, const zm_cuda_source *source, int part,
                             zmlx_error *error);

#endif
