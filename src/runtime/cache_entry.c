/* SPDX-License-Identifier: MIT */
/* Entries of the kernel cache: code, key, footer. Loaders of shared objects ignore what follows the code. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/map.h"
#include "runtime/cache_parts.h"

enum { MAX_ENTRY_BYTES = 64 << 20, DAY_SECONDS = 86400 };

/* At the end of the file, in the byte order of the machine: code of another is another key. */
typedef struct footer {
    char magic[8];
    uint64_t code_size, key_size, checksum; /* of code and key */
} footer;
static const char MAGIC[8] = {'z', 'm', 'l', 'x', 'k', 'r', 'n', '1'};

/* The bytes of an open file, in a text. */
static bool read_all(zm_text *content, int descriptor, size_t size) {
    char *bytes = malloc(size + 1);
    size_t got = 0;
    while (bytes && got < size) {
        ssize_t part = read(descriptor, bytes + got, size - got);
        if (part < 0 && errno == EINTR) continue;
        if (part <= 0) break;
        got += (size_t)part;
    }
    if (!bytes || got < size) {
        free(bytes);
        return false;
    }
    bytes[size] = '\0';
    *content = (zm_text){.data = bytes, .size = size, .capacity = size + 1};
    return true;
}

/* A footer's sizes are checked before the content is looked at. */
static bool is_whole(size_t *code_size, const zm_text *content, const zm_text *key) {
    footer end;
    if (content->size < sizeof end) return false;
    size_t body = content->size - sizeof end;
    memcpy(&end, content->data + body, sizeof end);
    if (memcmp(end.magic, MAGIC, sizeof MAGIC) || end.key_size != key->size || end.key_size > body ||
        end.code_size != body - end.key_size)
        return false;
    *code_size = (size_t)end.code_size;
    return !memcmp(content->data + end.code_size, key->data, key->size) &&
           end.checksum == zm_hash(content->data, body);
}

/* Entries that are in use stay young. */
static void touch(int descriptor, const struct stat *info) {
    if (info->st_mtime + DAY_SECONDS < time(NULL)) (void)!futimens(descriptor, NULL);
}

bool zm_entry_read(zm_text *code, const char *path, const zm_text *key) {
    int descriptor = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0) return false;
    struct stat info;
    zm_text content = {0};
    size_t code_size;
    bool good = !fstat(descriptor, &info) && S_ISREG(info.st_mode) && info.st_uid == geteuid() &&
                !(info.st_mode & (S_IWGRP | S_IWOTH)) && info.st_size <= MAX_ENTRY_BYTES &&
                read_all(&content, descriptor, (size_t)info.st_size) && is_whole(&code_size, &content, key);
    if (good) touch(descriptor, &info);
    close(descriptor);
    if (good && code) {
        content.size = code_size;
        *code = content;
    } else {
        zm_text_free(&content);
    }
    return good;
}

static bool write_all(int descriptor, const zm_text *bytes) {
    for (size_t done = 0; done < bytes->size;) {
        ssize_t part = write(descriptor, bytes->data + done, bytes->size - done);
        if (part < 0 && errno == EINTR) continue;
        if (part < 0) return false;
        done += (size_t)part;
    }
    return true;
}

zmlx_status zm_entry_seal(const char *path, const zm_text *key, zmlx_error *error) {
    int descriptor = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0) return zm_fail(error, ZMLX_ERROR_FILE, path, "cannot open: %s", strerror(errno));
    struct stat info;
    zm_text content = {0};
    zmlx_status status = ZMLX_OK;
    if (fstat(descriptor, &info) || info.st_size > MAX_ENTRY_BYTES ||
        !read_all(&content, descriptor, (size_t)info.st_size)) {
        status = zm_fail(error, ZMLX_ERROR_FILE, path, "cannot read what was compiled");
    } else {
        zm_text tail = {0};
        footer end = {.code_size = content.size, .key_size = key->size};
        memcpy(end.magic, MAGIC, sizeof MAGIC);
        zm_text_append(&content, key->data, key->size);
        zm_text_append(&tail, key->data, key->size);
        end.checksum = content.failed ? 0 : zm_hash(content.data, content.size);
        zm_text_append(&tail, (const char *)&end, sizeof end);
        if (content.failed || tail.failed)
            status = zm_fail_memory(error);
        else if (!write_all(descriptor, &tail) || fchmod(descriptor, 0600))
            status = zm_fail(error, ZMLX_ERROR_FILE, path, "cannot write: %s", strerror(errno));
        zm_text_free(&tail);
    }
    zm_text_free(&content);
    if (close(descriptor) && !status)
        status = zm_fail(error, ZMLX_ERROR_FILE, path, "cannot write: %s", strerror(errno));
    return status;
}

void zm_entry_describe_file(zm_text *key, const char *path) {
    char *real = realpath(path, NULL);
    struct stat info;
    if (stat(path, &info)) memset(&info, 0, sizeof info);
    zm_text_printf(key, "%s %s %lld %lld\n", path, real ? real : "-", (long long)info.st_size,
                   (long long)info.st_mtime);
    free(real);
}
