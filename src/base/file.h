/* SPDX-License-Identifier: MIT */
/* Files and paths. Failures are ZMLX_ERROR_FILE with the path in `where` and the system's reason. */
#ifndef ZM_BASE_FILE_H
#define ZM_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Reads a whole file of at most limit bytes. *data is NUL-terminated and owned by the caller. */
zmlx_status zm_file_read(char **data, size_t *size, const char *path, size_t limit, zmlx_error *error);
/* Writes to a temporary file beside path, flushes it to disk, then renames: path holds the old content or the new,
 * never a part. A symbolic link stays and its target is written; a file that is there must be writable and keeps its
 * access rights. */
zmlx_status zm_file_write(const char *path, const char *data, size_t size, zmlx_error *error);
bool zm_file_exists(const char *path);
/* Anything of this name: a link that leads nowhere, too. */
bool zm_name_exists(const char *path);
bool zm_folder_exists(const char *path);
/* Size in bytes of a regular file. */
zmlx_status zm_file_size(uint64_t *size, const char *path, zmlx_error *error);
/* folder/name; the caller frees. NULL when out of memory. */
char *zm_path_join(const char *folder, const char *name);

#endif
