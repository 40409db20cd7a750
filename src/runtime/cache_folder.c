/* SPDX-License-Identifier: MIT */
/* Where entries are kept, and the folders in which they are made. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/cache.h"
#include "runtime/cache_parts.h"

#define WORK_PREFIX "zmlx-work-"
enum { STALE_SECONDS = 3600, NAME_DIGITS = 16 };

static struct {
    pthread_mutex_t lock;
    char *folder, *compiler; /* NULL: the default */
    char *default_folder;    /* NULL: not settled yet */
} settings = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Why a folder is not private to this user; NULL: it is. A link in its place is not followed. */
static const char *refuse_folder(const char *path) {
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat info;
    if (descriptor < 0) {
        int failure = errno;
        return !lstat(path, &info) && S_ISLNK(info.st_mode) ? "is a symbolic link" : strerror(failure);
    }
    const char *reason = NULL;
    if (fstat(descriptor, &info))
        reason = strerror(errno);
    else if (info.st_uid != geteuid())
        reason = "belongs to another user";
    else if (info.st_mode & (S_IWGRP | S_IWOTH))
        reason = "others may write to it";
    close(descriptor);
    return reason;
}

/* parent/name, made if it is missing; frees parent. */
static char *descend(char *parent, const char *name) {
    char *path = parent ? zm_path_join(parent, name) : NULL;
    free(parent);
    if (path) mkdir(path, 0700);
    return path;
}

static bool is_writable(const char *path) {
    return !refuse_folder(path) && !faccessat(AT_FDCWD, path, W_OK, AT_EACCESS);
}

static char *home_folder(void) {
    char buffer[16384];
    struct passwd entry, *found = NULL;
    if (getpwuid_r(geteuid(), &entry, buffer, sizeof buffer, &found) || !found) return NULL;
    return found->pw_dir[0] == '/' ? strdup(found->pw_dir) : NULL;
}

/* In the user's home; where that cannot be written, in the system's temporary folder. NULL: neither can be. */
static char *find_default(void) {
    char *path = descend(descend(descend(home_folder(), ".cache"), "zmlx"), "kernels");
    if (path && is_writable(path)) return path;
    free(path);
    char name[64];
    snprintf(name, sizeof name, "zmlx-kernels-%lu", (unsigned long)geteuid());
    path = descend(strdup(P_tmpdir), name);
    if (path && is_writable(path)) return path;
    free(path);
    return NULL;
}

char *zm_cache_folder(void) {
    pthread_mutex_lock(&settings.lock);
    if (!settings.folder && !settings.default_folder) settings.default_folder = find_default();
    const char *path = settings.folder ? settings.folder : settings.default_folder;
    char *copy = path && !refuse_folder(path) ? strdup(path) : NULL;
    pthread_mutex_unlock(&settings.lock);
    return copy;
}

char *zm_cache_compiler(void) {
    pthread_mutex_lock(&settings.lock);
    char *copy = settings.compiler ? strdup(settings.compiler) : NULL;
    pthread_mutex_unlock(&settings.lock);
    return copy;
}

static zmlx_status check_folder(const char *folder, zmlx_error *error) {
    if (mkdir(folder, 0700) && errno != EEXIST)
        return zm_fail(error, ZMLX_ERROR_FILE, folder, "cannot create the folder of kernels: %s", strerror(errno));
    const char *reason = refuse_folder(folder);
    if (reason) return zm_fail(error, ZMLX_ERROR_FILE, folder, "not used for compiled kernels: %s", reason);
    return ZMLX_OK;
}

static zmlx_status check_compiler(const char *compiler, zmlx_error *error) {
    if (compiler[0] != '/')
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "compiler", "expected an absolute path, got %s", compiler);
    if (!zm_file_exists(compiler) || access(compiler, X_OK))
        return zm_fail(error, ZMLX_ERROR_FILE, compiler, "not a program that can be run");
    return ZMLX_OK;
}

zmlx_status zm_cache_set(const char *folder, const char *compiler, zmlx_error *error) {
    if (compiler) ZM_TRY(check_compiler(compiler, error));
    char *absolute = NULL, *program = NULL;
    if (folder) {
        ZM_TRY(check_folder(folder, error));
        absolute = realpath(folder, NULL);
        if (!absolute) return zm_fail(error, ZMLX_ERROR_FILE, folder, "cannot be opened: %s", strerror(errno));
    }
    if (compiler && !(program = strdup(compiler))) {
        free(absolute);
        return zm_fail_memory(error);
    }
    pthread_mutex_lock(&settings.lock);
    free(settings.folder);
    free(settings.compiler);
    settings.folder = absolute;
    settings.compiler = program;
    pthread_mutex_unlock(&settings.lock);
    return ZMLX_OK;
}

zmlx_status zm_work_folder_new(char **work, const char *parent, zmlx_error *error) {
    if (!parent) parent = P_tmpdir;
    *work = zm_path_join(parent, WORK_PREFIX "XXXXXX");
    if (!*work) return zm_fail_memory(error);
    if (mkdtemp(*work)) return ZMLX_OK;
    zm_fail(error, ZMLX_ERROR_FILE, parent, "cannot create a folder in it: %s", strerror(errno));
    free(*work);
    *work = NULL;
    return ZMLX_ERROR_FILE;
}

/* A folder of plain files; links are removed, not followed. */
static void remove_folder(int parent, const char *path) {
    int descriptor = openat(parent, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (descriptor < 0) return;
    DIR *folder = fdopendir(descriptor);
    if (!folder) {
        close(descriptor);
        return;
    }
    for (const struct dirent *item; (item = readdir(folder));)
        if (strcmp(item->d_name, ".") && strcmp(item->d_name, "..")) unlinkat(descriptor, item->d_name, 0);
    closedir(folder);
    unlinkat(parent, path, AT_REMOVEDIR);
}

void zm_work_folder_free(char *work) {
    if (work) remove_folder(AT_FDCWD, work);
    free(work);
}

typedef struct kept_entry {
    time_t loaded;
    uint64_t size;
    char name[NAME_DIGITS + 8];
} kept_entry;

typedef struct kept_list {
    kept_entry *entries;
    size_t count, capacity;
    uint64_t bytes;
} kept_list;

static int compare_loaded(const void *left, const void *right) {
    const kept_entry *a = left, *b = right;
    return (a->loaded > b->loaded) - (a->loaded < b->loaded);
}

/* Sixteen hexadecimal digits and an extension. */
static bool is_entry_name(const char *name) {
    return strspn(name, "0123456789abcdef") == NAME_DIGITS && name[NAME_DIGITS] == '.' &&
           strlen(name) < sizeof((kept_entry *)0)->name;
}

static bool keep(kept_list *list, const char *name, const struct stat *info) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 256;
        kept_entry *entries = realloc(list->entries, capacity * sizeof *entries);
        if (!entries) return false;
        list->entries = entries;
        list->capacity = capacity;
    }
    kept_entry *entry = &list->entries[list->count++];
    entry->loaded = info->st_mtime;
    entry->size = (uint64_t)info->st_size;
    memcpy(entry->name, name, strlen(name) + 1);
    list->bytes += entry->size;
    return true;
}

void zm_cache_trim(const char *path, size_t max_entries, uint64_t max_bytes) {
    DIR *folder = opendir(path);
    if (!folder) return;
    int parent = dirfd(folder);
    kept_list list = {0};
    time_t now = time(NULL);
    for (const struct dirent *item; (item = readdir(folder));) {
        struct stat info;
        bool is_work = !strncmp(item->d_name, WORK_PREFIX, sizeof WORK_PREFIX - 1);
        if ((!is_work && !is_entry_name(item->d_name)) || fstatat(parent, item->d_name, &info, AT_SYMLINK_NOFOLLOW))
            continue;
        if (is_work && S_ISDIR(info.st_mode) && info.st_mtime + STALE_SECONDS < now)
            remove_folder(parent, item->d_name);
        else if (!is_work && !keep(&list, item->d_name, &info))
            break;
    }
    if (list.count > max_entries || list.bytes > max_bytes) {
        qsort(list.entries, list.count, sizeof *list.entries, compare_loaded);
        size_t left = list.count;
        for (size_t i = 0; i < list.count; i++) {
            if (left <= max_entries / 4 * 3 && list.bytes <= max_bytes / 4 * 3) break;
            unlinkat(parent, list.entries[i].name, 0);
            list.bytes -= list.entries[i].size;
            left--;
        }
    }
    free(list.entries);
    closedir(folder);
}
