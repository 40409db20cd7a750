/* SPDX-License-Identifier: MIT */
/* The system's C compiler: a child process without a shell, with an environment of its own. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "base/clock.h"
#include "base/file.h"
#include "runtime/cache_parts.h"

enum { MAX_MESSAGES = 16384, MAX_ARGUMENTS = 32, MAX_LINE = 400, LOOK_MILLISECONDS = 100 };

/* One rounding per operation, as everywhere. */
static const char *const flags[] = {
    "-std=gnu17", "-O2",     "-ffp-contract=off",    "-fno-math-errno", "-fno-trapping-math",
    "-fPIC",      "-shared", "-fvisibility=default", "-w",              "-Wfatal-errors",
};
enum { N_FLAGS = sizeof flags / sizeof *flags };
static const char NATIVE[] = "-march=native";

static bool is_program(const char *path) { return path[0] == '/' && zm_file_exists(path) && !access(path, X_OK); }

zmlx_status zm_host_compiler_find(char **compiler, zmlx_error *error) {
    static const char *const usual[] = {ZMLX_C_COMPILER, "/usr/bin/cc", "/usr/bin/gcc", "/usr/bin/clang"};
    *compiler = zm_cache_compiler();
    if (*compiler) return ZMLX_OK;
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
        if (!is_program(usual[i])) continue;
        *compiler = strdup(usual[i]);
        return *compiler ? ZMLX_OK : zm_fail_memory(error);
    }
    return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, NULL,
                   "needs a C compiler; install one (Debian: apt-get install gcc)");
}

/* The lines of the first processor that say what it can do; its clock rate and the like change. */
static bool is_constant_line(const char *line, size_t size) {
    static const char *const keys[] = {"vendor_id", "cpu family", "model", "stepping", "cache size", "flags",
                                       "Features",  "CPU implementer", "CPU architecture", "CPU variant",
                                       "CPU part",  "CPU revision", "isa", "uarch"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        size_t length = strlen(keys[i]);
        if (size > length && !memcmp(line, keys[i], length) && strchr("\t :", line[length])) return true;
    }
    return false;
}

static char processor[8192];

static void read_processor(void) {
    size_t used = 0;
#if defined(__APPLE__)
    size_t size = sizeof processor - 1;
    if (!sysctlbyname("machdep.cpu.brand_string", processor, &size, NULL, 0)) used = size;
#endif
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file) return;
    char line[4096];
    while (fgets(line, sizeof line, file) && line[0] != '\n') {
        size_t length = strlen(line);
        if (!is_constant_line(line, length) || used + length >= sizeof processor) continue;
        memcpy(processor + used, line, length);
        used += length;
    }
    fclose(file);
}

void zm_host_compiler_describe(zm_text *key, const char *compiler) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_processor);
    zm_entry_describe_file(key, compiler);
    for (int i = 0; i < N_FLAGS; i++) zm_text_printf(key, "%s ", flags[i]);
    zm_text_printf(key, "%s\n%s", NATIVE, processor);
}

typedef struct child {
    pid_t process;
    int messages; /* what it writes to its error output */
    double left, last_look; /* seconds */
} child;

/* Called at least every LOOK_MILLISECONDS. A longer time between two calls is no time that the compiler had: this
 * process was stopped (Ctrl-Z, a debugger, a batch system), and the compiler with it. */
static bool has_time(child *this) {
    const double most = 2e-3 * LOOK_MILLISECONDS;
    double now = zm_clock_seconds(), passed = now - this->last_look;
    this->last_look = now;
    this->left -= passed < most ? passed : most;
    return this->left > 0;
}

static zmlx_status open_pipe(int ends[2], zmlx_error *error) {
#if defined(__linux__)
    if (!pipe2(ends, O_CLOEXEC)) return ZMLX_OK;
#else
    if (!pipe(ends)) {
        fcntl(ends[0], F_SETFD, FD_CLOEXEC);
        fcntl(ends[1], F_SETFD, FD_CLOEXEC);
        return ZMLX_OK;
    }
#endif
    return zm_fail(error, ZMLX_ERROR_MEMORY, NULL, "cannot start a compiler: %s", strerror(errno));
}

/* In a group of its own, so that the programs it starts can be stopped with it; with no signal blocked or ignored. */
static int spawn(pid_t *process, char *const *arguments, char *const *environment, int input, int messages) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    sigdelset(&all, SIGKILL);
    sigdelset(&all, SIGSTOP);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
    int failure = posix_spawn_file_actions_adddup2(&files, input, STDIN_FILENO);
    if (!failure) failure = posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (!failure) failure = posix_spawn_file_actions_adddup2(&files, messages, STDERR_FILENO);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    if (!failure) failure = posix_spawn(process, arguments[0], &files, &attributes, arguments, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return failure;
}

/* Reads until the end, keeping the beginning. False: the time is over. */
static bool read_messages(zm_text *messages, child *this) {
    while (has_time(this)) {
        struct pollfd ready = {.fd = this->messages, .events = POLLIN};
        int count = poll(&ready, 1, LOOK_MILLISECONDS);
        if (count == 0 || (count < 0 && errno == EINTR)) continue;
        char part[4096];
        ssize_t size = read(this->messages, part, sizeof part);
        if (size < 0 && errno == EINTR) continue;
        if (size <= 0) return true;
        size_t room = MAX_MESSAGES - messages->size;
        zm_text_append(messages, part, (size_t)size < room ? (size_t)size : room);
    }
    return false;
}

/* Its exit status, when it ends in time. False: it was stopped. A program that ignores the ends of its children never
 * learns the status: then it is 0, and the output tells. */
static bool wait_for_child(int *exit_status, child *this) {
    const struct timespec pause = {.tv_nsec = 1000000};
    for (;;) {
        pid_t ended = waitpid(this->process, exit_status, WNOHANG);
        if (ended == this->process) return true;
        if (ended < 0 && errno != EINTR) {
            *exit_status = 0;
            return true;
        }
        if (!has_time(this)) return false;
        nanosleep(&pause, NULL);
    }
}

static void stop(const child *this) {
    kill(-this->process, SIGKILL);
    while (waitpid(this->process, NULL, 0) < 0 && errno == EINTR) continue;
}

/* The first line that names an error, else the first line. */
static void pick_line(char line[MAX_LINE], const char *messages) {
    const char *best = messages + strspn(messages, "\n"), *error = strstr(messages, "error:");
    if (error)
        for (best = error; best > messages && best[-1] != '\n';) best--;
    snprintf(line, MAX_LINE, "%.*s", (int)strcspn(best, "\n"), best);
}

static bool is_about_storage(const char *messages) {
    static const char *const texts[] = {"No space left on device", "Disk quota exceeded", "Read-only file system",
                                        "Input/output error", "File too large"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strstr(messages, texts[i])) return true;
    return false;
}

static zmlx_status judge(int exit_status, const char *messages, const char *compiler, zmlx_error *error) {
    char line[MAX_LINE];
    if (!exit_status) return ZMLX_OK;
    pick_line(line, messages);
    zmlx_status code = is_about_storage(messages) ? ZMLX_ERROR_FILE : ZMLX_ERROR_FORMAT;
    if (WIFSIGNALED(exit_status))
        return zm_fail(error, code, compiler, "was stopped by signal %d: %s", WTERMSIG(exit_status), line);
    return zm_fail(error, code, compiler, "%s", line[0] ? line : "failed without a message");
}

static zmlx_status run(zm_text *messages, char *const *arguments, char *const *environment, int source,
                       double seconds, zmlx_error *error) {
    int ends[2], exit_status = 0;
    ZM_TRY(open_pipe(ends, error));
    child this = {.messages = ends[0], .left = seconds, .last_look = zm_clock_seconds()};
    int failure = lseek(source, 0, SEEK_SET) < 0 ? errno : 0;
    if (!failure) failure = spawn(&this.process, arguments, environment, source, ends[1]);
    close(ends[1]);
    bool in_time = failure || (read_messages(messages, &this) && wait_for_child(&exit_status, &this));
    close(ends[0]);
    if (failure)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, arguments[0], "cannot be started: %s", strerror(failure));
    if (!in_time) {
        stop(&this);
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, arguments[0], "was stopped: it took more than %g seconds",
                       seconds);
    }
    return judge(exit_status, zm_text_string(messages), arguments[0], error);
}

/* With the compiler's folder first: its assembler may lie beside it. */
static zmlx_status compile(const char *compiler, const char *work, const char *output, int source, double seconds,
                           zmlx_error *error) {
    zm_text path = {0}, folder = {0}, messages = {0};
    zm_text_printf(&path, "PATH=%.*s:/usr/bin:/bin", (int)(strrchr(compiler, '/') - compiler), compiler);
    zm_text_printf(&folder, "TMPDIR=%s", work);
    zmlx_status status = path.failed || folder.failed ? zm_fail_memory(error) : ZMLX_OK;
    if (!status) {
        char *const environment[] = {path.data, (char *)"LC_ALL=C", folder.data, NULL};
        const char *arguments[MAX_ARGUMENTS] = {compiler};
        int count = 1;
        for (int i = 0; i < N_FLAGS; i++) arguments[count++] = flags[i];
        const char *const rest[] = {"-o", output, "-x", "c", "-", "-lm", NATIVE};
        for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) arguments[count++] = rest[i];
        status = run(&messages, (char *const *)arguments, environment, source, seconds, error);
        /* Not every compiler knows every processor. */
        if (status == ZMLX_ERROR_FORMAT && strstr(zm_text_string(&messages), "march")) {
            arguments[count - 1] = NULL;
            zm_text_clear(&messages);
            status = run(&messages, (char *const *)arguments, environment, source, seconds, error);
        }
    }
    zm_text_free(&messages);
    zm_text_free(&folder);
    zm_text_free(&path);
    return status;
}

static zmlx_status write_source(int descriptor, const char *source, size_t size, const char *path,
                                zmlx_error *error) {
    while (size) {
        ssize_t part = write(descriptor, source, size);
        if (part < 0 && errno == EINTR) continue;
        if (part < 0) return zm_fail(error, ZMLX_ERROR_FILE, path, "cannot write: %s", strerror(errno));
        source += part;
        size -= (size_t)part;
    }
    return ZMLX_OK;
}

zmlx_status zm_host_compiler_run(const char *compiler, const char *work, const char *output, const char *source,
                                 size_t size, double seconds, zmlx_error *error) {
    char *path = zm_path_join(work, "source.c");
    if (!path) return zm_fail_memory(error);
    int descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    zmlx_status status = ZMLX_OK;
    if (descriptor < 0)
        status = zm_fail(error, ZMLX_ERROR_FILE, path, "cannot create: %s", strerror(errno));
    else
        status = write_source(descriptor, source, size, path, error);
    if (!status) status = compile(compiler, work, output, descriptor, seconds, error);
    if (descriptor >= 0) close(descriptor);
    free(path);
    return status;
}
