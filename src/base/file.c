/* SPDX-License-Identifier: MIT */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static zmlx_status fail_errno(zmlx_error *error, const char *path, const char *action) {
    return zm_fail(error, ZMLX_ERROR_FILE, path, "cannot %s: %s", action, strerror(errno));
}

zmlx_status zm_file_size(uint64_t *size, const char *path, zmlx_error *error) {
    *size = 0;
    struct stat info;
    if (stat(path, &info)) return fail_errno(error, path, "open");
    if (!S_ISREG(info.st_mode)) return zm_fail(error, ZMLX_ERROR_FILE, path, "not a regular file");
    *size = (uint64_t)info.st_size;
    return ZMLX_OK;
}

zmlx_status zm_file_read(char **data, size_t *size, const char *path, size_t limit, zmlx_error *error) {
    *data = NULL;
    *size = 0;
    uint64_t file_size;
    ZM_TRY(zm_file_size(&file_size, path, error));
    if (file_size > limit)
        return zm_fail(error, ZMLX_ERROR_FILE, path, "%llu bytes are more than the limit of %zu",
                       (unsigned long long)file_size, limit);
    FILE *file = fopen(path, "rb");
    if (!file) return fail_errno(error, path, "open");
    char *bytes = malloc((size_t)file_size + 1);
    if (!bytes) {
        fclose(file);
        return zm_fail_memory(error);
    }
    size_t got = fread(bytes, 1, (size_t)file_size, file);
    zmlx_status status = ZMLX_OK;
    if (ferror(file))
        status = fail_errno(error, path, "read");
    else if (got < file_size)
        status = zm_fail(error, ZMLX_ERROR_FILE, path, "became shorter while it was read: %zu of %llu bytes",
                         got, (unsigned long long)file_size);
    fclose(file);
    if (status) {
        free(bytes);
        return status;
    }
    bytes[got] = '\0';
    *data = bytes;
    *size = got;
    return ZMLX_OK;
}

static zmlx_status write_and_sync(int descriptor, const char *data, size_t size, const char *path,
                                  zmlx_error *error) {
    while (size) {
        ssize_t written = write(descriptor, data, size);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return fail_errno(error, path, "write");
        data += written;
        size -= (size_t)written;
    }
    /* A file system without fsync (EINVAL) still gets the rename. */
    if (fsync(descriptor) && errno != EINVAL) return fail_errno(error, path, "write");
    return ZMLX_OK;
}

/* Opens a new file beside path and names it. What an ended process left stays: in a container process numbers are few
 * and come again. */
static int open_beside(char *name, size_t size, const char *path) {
    enum { MOST_TRIES = 1000 };
    int descriptor = -1;
    for (int i = 0; descriptor < 0 && i < MOST_TRIES; i++) {
        snprintf(name, size, "%s.%ld-%d.tmp", path, (long)getpid(), i);
        descriptor = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (descriptor < 0 && errno != EEXIST) break;
    }
    return descriptor;
}

static zmlx_status write_in_place(const char *path, const char *data, size_t size, zmlx_error *error) {
    int descriptor = open(path, O_WRONLY);
    if (descriptor < 0) return fail_errno(error, path, "write");
    zmlx_status status = write_and_sync(descriptor, data, size, path, error);
    if (close(descriptor) && !status) status = fail_errno(error, path, "write");
    return status;
}

/* old: what target is now; NULL: nothing. path names it in messages. */
static zmlx_status replace(const char *target, const struct stat *old, const char *data, size_t size, const char *path,
                           zmlx_error *error) {
    if (old && access(target, W_OK)) return fail_errno(error, path, "write");
    size_t length = strlen(target) + 48;
    char *temporary = malloc(length);
    if (!temporary) return zm_fail_memory(error);
    int descriptor = open_beside(temporary, length, target);
    zmlx_status status = descriptor < 0 ? fail_errno(error, path, "write") : ZMLX_OK;
    if (descriptor >= 0) {
        if (old) (void)!fchmod(descriptor, old->st_mode & 0777);
        status = write_and_sync(descriptor, data, size, path, error);
        if (close(descriptor) && !status) status = fail_errno(error, path, "write");
        if (!status && rename(temporary, target)) status = fail_errno(error, path, "write");
        if (status) unlink(temporary);
    }
    free(temporary);
    return status;
}

zmlx_status zm_file_write(const char *path, const char *data, size_t size, zmlx_error *error) {
    struct stat info;
    bool exists = stat(path, &info) == 0;
    /* A device or pipe (/dev/stdout, /dev/full) cannot be replaced by a rename. */
    if (exists && !S_ISREG(info.st_mode)) return write_in_place(path, data, size, error);
    bool dangles = !exists && zm_name_exists(path);
    if (dangles) { /* the file that a link leads to is made first, so that it has a place */
        int descriptor = open(path, O_WRONLY | O_CREAT, 0644);
        if (descriptor < 0) return fail_errno(error, path, "write");
        close(descriptor);
    }
    char *target = exists || dangles ? realpath(path, NULL) : strdup(path);
    if (!target) return errno == ENOMEM ? zm_fail_memory(error) : fail_errno(error, path, "write");
    zmlx_status status = replace(target, exists ? &info : NULL, data, size, path, error);
    if (status && dangles) unlink(target);
    free(target);
    return status;
}

bool zm_file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool zm_name_exists(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}

bool zm_folder_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

char *zm_path_join(const char *folder, const char *name) {
    size_t length = strlen(folder) + strlen(name) + 2;
    char *path = malloc(length);
    if (!path) return NULL;
    size_t end = strlen(folder);
    const char *separator = end && folder[end - 1] == '/' ? "" : "/";
    snprintf(path, length, "%s%s%s", folder, separator, name);
    return path;
}
