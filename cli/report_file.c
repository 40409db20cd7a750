/* SPDX-License-Identifier: MIT */
/* The file part of report.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "output.h"
#include "report.h"

static int fail_report(const char *path, int number) {
    return cli_fail("--report: %s: cannot write: %s", path, strerror(number));
}

/* Whether path is the file that standard output goes to, as /dev/stdout is: replacing it loses what was printed. */
static bool is_output(const char *path) {
    struct stat info, output;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && fstat(STDOUT_FILENO, &output) == 0 &&
           info.st_dev == output.st_dev && info.st_ino == output.st_ino;
}

/* Whether path is written in place: standard output's file, a device or a pipe. */
static bool is_special(const char *path) {
    struct stat info;
    return is_output(path) || (stat(path, &info) == 0 && !S_ISREG(info.st_mode));
}

/* Where path leads, through symbolic links, also to a file that is not there yet. NULL with errno set. */
static char *follow_links(const char *path) {
    enum { MAX_LINKS = 40 };
    char *current = strdup(path);
    for (int i = 0; current && i < MAX_LINKS; i++) {
        char link[4096];
        ssize_t size = readlink(current, link, sizeof link);
        if (size < 0) return current;
        const char *slash = link[0] == '/' ? NULL : strrchr(current, '/');
        int folder = slash ? (int)(slash + 1 - current) : 0;
        char *next = malloc((size_t)folder + (size_t)size + 1);
        if (next) sprintf(next, "%.*s%.*s", folder, current, (int)size, link);
        free(current);
        current = next;
    }
    if (current) errno = ELOOP;
    free(current);
    return NULL;
}

/* Opens a new file beside path (through a symbolic link: beside its target). *target and *temporary are
 * the caller's. Returns the descriptor, or -1 with errno set. */
static int open_beside(const char *path, char **target, char **temporary) {
    *temporary = NULL;
    if (!(*target = follow_links(path))) return -1;
    if (access(*target, W_OK) && errno != ENOENT) return -1;
    size_t size = strlen(*target) + sizeof ".XXXXXX";
    if (!(*temporary = malloc(size))) return -1;
    snprintf(*temporary, size, "%s.XXXXXX", *target);
    return mkstemp(*temporary);
}

int cli_report_check(const char *path) {
    struct stat info;
    if (!path[0]) return fail_report("\"\"", ENOENT);
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return fail_report(path, EISDIR);
    if (is_special(path)) return access(path, W_OK) ? fail_report(path, errno) : CLI_DONE;
    char *target, *temporary;
    int descriptor = open_beside(path, &target, &temporary);
    int status = descriptor < 0 ? fail_report(path, errno) : CLI_DONE;
    if (descriptor >= 0) {
        close(descriptor);
        unlink(temporary);
    }
    free(temporary);
    free(target);
    return status;
}

/* Writes, flushes to disk and closes. Returns false with errno set. */
static bool write_all(int descriptor, const char *text, bool to_disk) {
    size_t size = strlen(text);
    bool good = true;
    while (size && good) {
        ssize_t written = write(descriptor, text, size);
        good = written >= 0 || errno == EINTR;
        if (written <= 0) continue;
        text += written;
        size -= (size_t)written;
    }
    if (good && to_disk) good = fsync(descriptor) == 0;
    int number = errno;
    if (close(descriptor) && good) return false;
    errno = number;
    return good;
}

/* The access rights that fopen would have given, or those of the file that is replaced. */
static void set_mode(int descriptor, const char *target) {
    struct stat info;
    mode_t mask = umask(0);
    umask(mask);
    (void)!fchmod(descriptor, stat(target, &info) == 0 ? info.st_mode & 0777 : 0666 & ~mask);
}

int cli_report_write(const char *path, const char *text) {
    if (is_special(path)) {
        int descriptor = is_output(path) ? dup(STDOUT_FILENO) : open(path, O_WRONLY);
        bool good = descriptor >= 0 && write_all(descriptor, text, false);
        return good || errno == EPIPE ? CLI_DONE : fail_report(path, errno);
    }
    char *target, *temporary;
    int descriptor = open_beside(path, &target, &temporary);
    bool good = descriptor >= 0;
    if (good) {
        set_mode(descriptor, target);
        good = write_all(descriptor, text, true) && rename(temporary, target) == 0;
    }
    int number = errno;
    if (!good && descriptor >= 0) unlink(temporary);
    free(temporary);
    free(target);
    return good ? CLI_DONE : fail_report(path, number);
}
