/* SPDX-License-Identifier: MIT */
/* The cache of compiled kernels. A process keeps what it has loaded, so each use of the disk is a child. */
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "emit/c/abi.h"
#include "runtime/cache.h"
#include "runtime/cache_parts.h"
#include "temporary.h"

enum { NOBODY = 65534 };
static char folder[TEMPORARY_SIZE];

/* What a child saw. */
enum { WORKED = 1, COMPILED = 2, LOADED = 4 };

static void write_source(char source[1024], int value) {
    snprintf(source, 1024,
             "#include <stdint.h>\n"
             "typedef struct { const void *const *inputs; void *const *outputs; } call;\n"
             "__attribute__((visibility(\"default\"))) const int32_t twice_scratch = %d;\n"
             "__attribute__((visibility(\"default\")))\n"
             "void twice(const call *c, int64_t a, int64_t b, int64_t first, int64_t last) {\n"
             "    const float *x = c->inputs[0]; float *y = c->outputs[0]; (void)a, (void)b;\n"
             "    for (int64_t i = first; i < last; i++) y[i] = 2 * x[i] + %d;\n"
             "}\n",
             value % 7, value);
}

/* Compiles or loads the kernel 2x + value and calls it. */
static int use_kernel(int value) {
    char source[1024];
    write_source(source, value);
    void *symbol;
    int scratch_rows, compiled;
    zm_cache_counts before = zm_cache_get_counts();
    zmlx_error error;
    if (zm_compile_c(&symbol, &scratch_rows, &compiled, source, strlen(source), "twice", &error)) {
        fprintf(stderr, "%s: %s\n", error.where, error.message);
        return 0;
    }
    zm_cache_counts after = zm_cache_get_counts();
    float x[5] = {0, 1, -3, 0.5f, 7}, y[5] = {0};
    zm_c_call call = {.inputs = (const void *const[]){x}, .outputs = (void *const[]){y}};
    zm_c_kernel *kernel;
    memcpy(&kernel, &symbol, sizeof kernel);
    kernel(&call, 0, 1, 0, 5);
    bool right = scratch_rows == value % 7;
    for (int i = 0; i < 5; i++) right = right && y[i] == 2 * x[i] + (float)value;
    right = right && (after.compiled > before.compiled) == (compiled != 0);
    return (right ? WORKED : 0) | (compiled ? COMPILED : 0) | (after.loaded > before.loaded ? LOADED : 0);
}

static pid_t start_child(int value, int delay_microseconds) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        usleep((useconds_t)delay_microseconds);
        _exit(use_kernel(value));
    }
    return child;
}

static int end_child(pid_t child) {
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int use_in_child(int value) { return end_child(start_child(value, 0)); }

/* Names in the folder: entries, and all. */
static int count_names(const char *path, bool all) {
    DIR *listing = opendir(path);
    assert_non_null(listing);
    int count = 0;
    for (const struct dirent *item; (item = readdir(listing));)
        count += item->d_name[0] != '.' && (all || strstr(item->d_name, ".so"));
    closedir(listing);
    return count;
}

static void first_entry(char path[512]) {
    DIR *listing = opendir(folder);
    assert_non_null(listing);
    path[0] = '\0';
    for (const struct dirent *item; (item = readdir(listing));)
        if (strstr(item->d_name, ".so")) snprintf(path, 512, "%.200s/%.255s", folder, item->d_name);
    closedir(listing);
    assert_true(path[0]);
}

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(temporary_template(folder))) return -1;
    return zm_cache_set(folder, NULL, NULL) ? -1 : 0;
}

static int remove_folder(void **state) {
    (void)state;
    zm_cache_set(NULL, NULL, NULL);
    return temporary_remove(folder);
}

static void compiled_once_then_loaded(void **state) {
    (void)state;
    assert_int_equal(use_in_child(1), WORKED | COMPILED);
    assert_int_equal(count_names(folder, true), 1); /* nothing temporary is left */
    assert_int_equal(use_in_child(1), WORKED | LOADED);
    assert_int_equal(use_in_child(2), WORKED | COMPILED); /* another source */
    assert_int_equal(count_names(folder, true), 2);
}

static void same_source_is_one_module(void **state) {
    (void)state;
    assert_int_equal(use_kernel(3), WORKED | COMPILED);
    assert_int_equal(use_kernel(3), WORKED);
}

static void *use_in_thread(void *result) {
    *(int *)result = use_kernel(*(int *)result);
    return NULL;
}

static void threads_share(void **state) {
    (void)state;
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    int results[THREADS], n_compiled = 0;
    for (int i = 0; i < THREADS; i++) {
        results[i] = 4;
        assert_int_equal(pthread_create(&threads[i], NULL, use_in_thread, &results[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        n_compiled += results[i] & COMPILED ? 1 : 0;
    }
    assert_int_equal(n_compiled, 1);
}

static void processes_at_once(void **state) {
    (void)state;
    enum { PROCESSES = 8 };
    pid_t children[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) children[i] = start_child(5, i % 4 * 15000);
    for (int i = 0; i < PROCESSES; i++) assert_true(end_child(children[i]) & WORKED);
    assert_int_equal(use_in_child(5), WORKED | LOADED);
    assert_int_equal(count_names(folder, true), 1);
}

/* Each is built again, then found again. */
static void expect_rebuilt(int value) {
    assert_int_equal(use_in_child(value), WORKED | COMPILED);
    assert_int_equal(use_in_child(value), WORKED | LOADED);
}

static void damaged_entries_are_rebuilt(void **state) {
    (void)state;
    char path[512];
    expect_rebuilt(6);
    first_entry(path);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    const off_t sizes[] = {0, 1, 40, info.st_size / 2, info.st_size - 1, info.st_size + 3};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_int_equal(truncate(path, sizes[i]), 0);
        expect_rebuilt(6);
    }
    /* A bit of the code, of the key and of each field of the footer. */
    const off_t places[] = {100, info.st_size / 3, info.st_size - 200, info.st_size - 30, info.st_size - 22,
                            info.st_size - 14, info.st_size - 6};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int descriptor = open(path, O_RDWR);
        unsigned char byte;
        assert_int_equal(pread(descriptor, &byte, 1, places[i]), 1);
        byte ^= 0x10;
        assert_int_equal(pwrite(descriptor, &byte, 1, places[i]), 1);
        close(descriptor);
        expect_rebuilt(6);
    }
}

static void foreign_entries_are_rebuilt(void **state) {
    (void)state;
    char path[512], other[512];
    expect_rebuilt(8);
    first_entry(path);
    assert_int_equal(chmod(path, 0666), 0);
    expect_rebuilt(8);
    /* Another key's entry under this name. */
    snprintf(other, sizeof other, "%s/other", folder);
    assert_int_equal(rename(path, other), 0);
    expect_rebuilt(9);
    first_entry(path);
    assert_int_equal(rename(other, path), 0);
    expect_rebuilt(9);
    /* A link to a good entry, a pipe, and a folder, which stays in the way. */
    assert_int_equal(rename(path, other), 0);
    assert_int_equal(symlink(other, path), 0);
    expect_rebuilt(9);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_rebuilt(9);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(use_in_child(9), WORKED | COMPILED);
    assert_int_equal(use_in_child(9), WORKED | COMPILED);
    assert_int_equal(rmdir(path), 0);
    if (!geteuid()) {
        expect_rebuilt(9);
        assert_int_equal(chown(path, NOBODY, NOBODY), 0);
        expect_rebuilt(9);
    }
}

static void unsafe_folders_are_refused(void **state) {
    (void)state;
    char path[512];
    zmlx_error error;
    snprintf(path, sizeof path, "%s/link", folder);
    assert_int_equal(symlink("/tmp", path), 0);
    assert_int_equal(zm_cache_set(path, NULL, &error), ZMLX_ERROR_FILE);
    assert_non_null(strstr(error.message, "symbolic link"));
    assert_int_equal(chmod(folder, 0770), 0);
    assert_int_equal(zm_cache_set(folder, NULL, &error), ZMLX_ERROR_FILE);
    assert_non_null(strstr(error.message, "others may write"));
    /* One that becomes unsafe later is not used; the kernel works. */
    assert_int_equal(use_in_child(10), WORKED | COMPILED);
    assert_int_equal(count_names(folder, false), 0);
    assert_int_equal(chmod(folder, 0700), 0);
    assert_int_equal(zm_cache_set("/no/such/place", NULL, &error), ZMLX_ERROR_FILE);
    assert_int_equal(zm_cache_set("/etc/passwd", NULL, &error), ZMLX_ERROR_FILE);
    if (!geteuid()) {
        assert_int_equal(chown(folder, NOBODY, NOBODY), 0);
        assert_int_equal(zm_cache_set(folder, NULL, &error), ZMLX_ERROR_FILE);
        assert_non_null(strstr(error.message, "another user"));
        assert_int_equal(use_in_child(10), WORKED | COMPILED);
        assert_int_equal(count_names(folder, false), 0);
        assert_int_equal(chown(folder, 0, 0), 0);
    }
}

/* As a user without special rights, in a folder of its own that it may only read. */
static int use_read_only(int value, bool expect_loaded) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        if (!geteuid() && (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY))) _exit(100);
        int first = use_kernel(value);
        if (expect_loaded) _exit(first);
        if (chmod(folder, 0500)) _exit(101);
        int second = use_kernel(value + 1);
        if (chmod(folder, 0700)) _exit(102);
        _exit(first == (WORKED | COMPILED) && second == (WORKED | COMPILED) ? WORKED : 103);
    }
    return end_child(child);
}

static void read_only_folder(void **state) {
    (void)state;
    if (!geteuid()) assert_int_equal(chown(folder, NOBODY, NOBODY), 0);
    assert_int_equal(use_read_only(11, false), WORKED);
    assert_int_equal(count_names(folder, true), 1); /* the one stored before */
    assert_int_equal(chmod(folder, 0500), 0);
    assert_int_equal(use_read_only(11, true), WORKED | LOADED);
    assert_int_equal(chmod(folder, 0700), 0);
    if (!geteuid()) assert_int_equal(chown(folder, 0, 0), 0);
}

static zmlx_status compile_text(const char *text, zmlx_error *error) {
    void *symbol;
    int scratch_rows;
    zmlx_status status = zm_compile_c(&symbol, &scratch_rows, NULL, text, strlen(text), "twice", error);
    assert_int_equal(symbol == NULL, status != ZMLX_OK);
    return status;
}

static void bad_source_is_one_line(void **state) {
    (void)state;
    zmlx_error error;
    assert_int_equal(compile_text("int twice(void) { return missing_name; }", &error), ZMLX_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "missing_name"));
    assert_non_null(strstr(error.message, "error:"));
    assert_null(strchr(error.message, '\n'));
    assert_null(strchr(error.message, '?'));
    assert_int_equal(compile_text("int other;", &error), ZMLX_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "lacks twice"));
    assert_int_equal(compile_text("void unknown(void);\n"
                                  "__attribute__((visibility(\"default\"))) void twice(void) { unknown(); }",
                                  &error),
                     ZMLX_ERROR_FILE); /* found when it is loaded, as a folder that bars programs would be */
    assert_non_null(strstr(error.message, "unknown"));
    assert_int_equal(count_names(folder, true), 0);
    assert_int_equal(use_in_child(13), WORKED | COMPILED); /* no failure stays */
}

static void write_program(char path[512], const char *text) {
    snprintf(path, 512, "%s/compiler", folder);
    assert_int_equal(zm_file_write(path, text, strlen(text), NULL), ZMLX_OK);
    assert_int_equal(chmod(path, 0755), 0);
}

/* Its path, size and time are part of the key: this one adds a line and hands on to the real one. */
static void other_compilers(void **state) {
    (void)state;
    char path[512];
    zmlx_error error;
    assert_int_equal(use_in_child(14), WORKED | COMPILED);
    write_program(path, "#!/bin/sh\n"
                        "[ \"$LC_ALL\" = C ] && [ -z \"$HOME\" ] && [ -d \"$TMPDIR\" ] || exit 9\n"
                        "case \"$*\" in *march*) echo \"error: bad -march\" >&2; exit 1;; esac\n"
                        "exec /usr/bin/cc \"$@\"\n");
    assert_int_equal(zm_cache_set(folder, path, NULL), ZMLX_OK);
    assert_int_equal(use_in_child(14), WORKED | COMPILED);
    assert_int_equal(use_in_child(14), WORKED | LOADED);
    write_program(path, "#!/bin/sh\n# changed\nexec /usr/bin/cc \"$@\"\n");
    assert_int_equal(use_in_child(14), WORKED | COMPILED);
    write_program(path, "#!/bin/sh\necho 'one' >&2\necho 'x.c: error: two' >&2\nexit 3\n");
    assert_int_equal(compile_text("int a;", &error), ZMLX_ERROR_FORMAT);
    assert_string_equal(error.message, "x.c: error: two");
    assert_string_equal(error.where, path);
    write_program(path, "#!/bin/sh\nkill -9 $$\n");
    assert_int_equal(compile_text("int a;", &error), ZMLX_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "signal 9"));
    write_program(path, "not a program");
    assert_int_equal(compile_text("int a;", &error), ZMLX_ERROR_UNSUPPORTED);
    unlink(path);
    assert_int_equal(compile_text("int a;", &error), ZMLX_ERROR_UNSUPPORTED);
    assert_int_equal(zm_cache_set(folder, path, &error), ZMLX_ERROR_FILE);
    assert_int_equal(zm_cache_set(folder, "cc", &error), ZMLX_ERROR_ARGUMENT);
    assert_int_equal(zm_cache_set(folder, NULL, NULL), ZMLX_OK);
}

static void full_disk(void **state) {
    (void)state;
    char path[512];
    /* The work folder is full: every program says so. In the system's temporary folder there is room. */
    char text[600];
    snprintf(text, sizeof text,
             "#!/bin/sh\n"
             "case $TMPDIR in %s/*) echo 'ld: final link failed: No space left on device' >&2; exit 1;; esac\n"
             "exec /usr/bin/cc \"$@\"\n",
             folder);
    write_program(path, text);
    assert_int_equal(zm_cache_set(folder, path, NULL), ZMLX_OK);
    assert_int_equal(use_in_child(15), WORKED | COMPILED);
    assert_int_equal(count_names(folder, true), 1); /* the program */
    assert_int_equal(zm_cache_set(folder, NULL, NULL), ZMLX_OK);
}

static bool is_there(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return zm_file_exists(path) || zm_folder_exists(path);
}

/* Waits until nothing holds the pipe open for writing. */
static bool is_let_go(int pipe, double seconds) {
    char byte;
    double start = zm_clock_seconds();
    while (read(pipe, &byte, 1)) {
        if (zm_clock_seconds() - start > seconds) return false;
        usleep(1000);
    }
    return true;
}

static void slow_compiler_is_stopped(void **state) {
    (void)state;
    char path[512], held[512], output[512], *work, text[600];
    zmlx_error error;
    snprintf(held, sizeof held, "%s/held", folder);
    assert_int_equal(mkfifo(held, 0600), 0);
    int pipe = open(held, O_RDONLY | O_NONBLOCK);
    assert_true(pipe >= 0);
    snprintf(text, sizeof text, "#!/bin/sh\nsleep 100 >%s &\nsleep 100\n", held);
    write_program(path, text);
    assert_int_equal(zm_work_folder_new(&work, folder, NULL), ZMLX_OK);
    snprintf(output, sizeof output, "%s/out.so", work);
    assert_int_equal(zm_host_compiler_run(path, work, output, "int a;", 6, 0.2, &error), ZMLX_ERROR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "0.2 seconds"));
    zm_work_folder_free(work);
    assert_true(is_let_go(pipe, 20)); /* the programs it started are stopped too; they would go on for 100 seconds */
    close(pipe);
}

/* A child that runs a compiler, and both are stopped for longer than that may take. */
static void stopped_together(void **state) {
    (void)state;
    char path[512], started[512], *work, text[1600];
    snprintf(started, sizeof started, "%s/started", folder);
    snprintf(text, sizeof text, "#!/bin/sh\necho $$ >%s.new && mv %s.new %s\nsleep 0.3\n", started, started, started);
    write_program(path, text);
    assert_int_equal(zm_work_folder_new(&work, folder, NULL), ZMLX_OK);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        zmlx_error error;
        if (!zm_host_compiler_run(path, work, "unused", "int a;", 6, 3, &error)) _exit(WORKED);
        fprintf(stderr, "%s: %s\n", error.where, error.message);
        _exit(0);
    }
    FILE *file;
    long compiler;
    while (!(file = fopen(started, "r"))) usleep(1000);
    assert_int_equal(fscanf(file, "%ld", &compiler), 1);
    fclose(file);
    kill(child, SIGSTOP);
    kill((pid_t)-compiler, SIGSTOP);
    usleep(3200000);
    kill((pid_t)-compiler, SIGCONT);
    kill(child, SIGCONT);
    assert_int_equal(end_child(child), WORKED);
    zm_work_folder_free(work);
}

static void ignored_children(void **state) {
    (void)state;
    void (*before)(int) = signal(SIGCHLD, SIG_IGN);
    assert_int_equal(use_kernel(16), WORKED | COMPILED);
    zmlx_error error;
    assert_true(compile_text("int twice = ;", &error) != ZMLX_OK);
    signal(SIGCHLD, before);
}

static void write_aged(const char *name, size_t size, long age) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *zeros = calloc(1, size);
    assert_int_equal(zm_file_write(path, zeros, size, NULL), ZMLX_OK);
    free(zeros);
    struct timespec times[2] = {{.tv_sec = time(NULL) - age}, {.tv_sec = time(NULL) - age}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

enum { ENTRIES = 32 };

/* 0 for the youngest, in no order of names. */
static int age_rank(int entry) { return entry * 13 % ENTRIES; }

static const char *entry_name(char name[64], int entry) {
    snprintf(name, 64, "%016x.so", entry);
    return name;
}

static void expect_youngest(int count) {
    char name[64];
    for (int i = 0; i < ENTRIES; i++) assert_int_equal(is_there(entry_name(name, i)), age_rank(i) < count);
}

static void trimmed_by_age(void **state) {
    (void)state;
    char name[64];
    for (int i = 0; i < ENTRIES; i++) write_aged(entry_name(name, i), 100, 1000 + 10 * age_rank(i));
    write_aged("notes.txt", 100000, 90000);
    char *stale, *fresh;
    assert_int_equal(zm_work_folder_new(&stale, folder, NULL), ZMLX_OK);
    assert_int_equal(zm_work_folder_new(&fresh, folder, NULL), ZMLX_OK);
    write_aged(strcat(strcpy(name, strrchr(stale, '/') + 1), "/a.s"), 5, 0);
    write_aged(strcat(strcpy(name, strrchr(fresh, '/') + 1), "/a.s"), 5, 0);
    struct timespec times[2] = {{.tv_sec = time(NULL) - 7200}, {.tv_sec = time(NULL) - 7200}};
    assert_int_equal(utimensat(AT_FDCWD, stale, times, 0), 0);
    zm_cache_trim(folder, ENTRIES, 100 * ENTRIES); /* not above: all stay */
    expect_youngest(ENTRIES);
    assert_false(zm_folder_exists(stale));
    assert_true(zm_folder_exists(fresh));
    zm_cache_trim(folder, ENTRIES, 3199); /* bytes: 23 are the most within three quarters of it */
    expect_youngest(23);
    zm_cache_trim(folder, 20, 1 << 20); /* count */
    expect_youngest(15);
    assert_true(is_there("notes.txt"));
    free(stale);
    zm_work_folder_free(fresh);
}

static void used_entries_stay_young(void **state) {
    (void)state;
    char path[512];
    struct stat info;
    assert_int_equal(use_in_child(17), WORKED | COMPILED);
    first_entry(path);
    struct timespec times[2] = {{.tv_sec = time(NULL) - 200000}, {.tv_sec = time(NULL) - 200000}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_int_equal(use_in_child(17), WORKED | LOADED);
    assert_int_equal(stat(path, &info), 0);
    assert_true(info.st_mtime > time(NULL) - 1000);
}

static const char cuda_source[] = "#if ZM_PART > 1\n#error no such part\n#endif\n"
                                  "extern \"C\" __global__ void twice(const float *x, float *y, long n) {\n"
                                  "  long i = blockIdx.x * (long)blockDim.x + threadIdx.x;\n"
                                  "  if (i < n) y[i] = 2 * x[i];\n}\n";

static void nvrtc_compiles(void **state) {
    (void)state;
    const zm_cuda_source source = {cuda_source, sizeof cuda_source - 1, .n_parts = 2, .first = 1,
                                   .compute_capability = 90};
    const zm_text *cubins[2], *again;
    int compiled;
    zmlx_error error;
    uint64_t before = zm_cache_get_counts().compiled;
    zmlx_status status = zm_compile_cuda(&cubins[1], &compiled, &source, 1, &error);
    if (status == ZMLX_ERROR_UNSUPPORTED) {
        print_message("skipped: %s\n", error.message);
        skip();
    }
    assert_int_equal(status, ZMLX_OK);
    assert_true(compiled);
    zm_compile_cuda_rest(&source);
    assert_int_equal(zm_compile_cuda(&cubins[0], NULL, &source, 0, &error), ZMLX_OK); /* by whoever comes first */
    for (int part = 0; part < 2; part++)
        assert_true(cubins[part]->size > 100 && !memcmp(cubins[part]->data, "\177ELF", 4));
    assert_int_equal(zm_compile_cuda(&again, &compiled, &source, 1, NULL), ZMLX_OK);
    assert_true(!compiled && again == cubins[1]);
    assert_int_equal(zm_cache_get_counts().compiled - before, 1); /* the parts are one kernel */
    static const char bad[] = "__device__ int f() { return missing; }";
    const zm_cuda_source wrong = {bad, sizeof bad - 1, .n_parts = 1, .compute_capability = 90};
    assert_int_equal(zm_compile_cuda(&again, &compiled, &wrong, 0, &error), ZMLX_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "missing"));
    assert_null(again);
    assert_int_equal(count_names(folder, true), 2); /* <hash>.cubin of each part */
}

enum { SECONDS = 60 }; /* that an exit may take */

/* Takes the first part, has the others compiled behind it, ends as programs do; forks: in a child of its own. */
static void use_cuda(bool has_rest, bool forks) {
    const zm_cuda_source source = {cuda_source, sizeof cuda_source - 1, .n_parts = 2, .compute_capability = 90};
    const zm_text *cubin;
    zmlx_status status = zm_compile_cuda(&cubin, NULL, &source, 0, NULL);
    if (status) _exit(status == ZMLX_ERROR_UNSUPPORTED ? 77 : 1);
    if (has_rest) zm_compile_cuda_rest(&source);
    if (forks) { /* while its thread is idle: a sanitizer's allocator keeps locks of other threads over a fork */
        zm_compile_cuda(&cubin, NULL, &source, 1, NULL);
        usleep(200000);
        pid_t child = fork();
        alarm(SECONDS);
        if (child) _exit(child < 0 || end_child(child));
    }
    usleep(100000);
    exit(0);
}

static int use_cuda_in_child(bool has_rest, bool forks) {
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) use_cuda(has_rest, forks);
    int status = end_child(child);
    if (status == 77) skip();
    return status;
}

/* NVRTC is taken down before what was registered ahead of its first run: with the first part from the disk nothing
 * may run it behind the caller. */
static void exits_while_others_wait(void **state) {
    (void)state;
    assert_int_equal(use_cuda_in_child(false, false), 0);
    assert_int_equal(use_cuda_in_child(true, false), 0);
    assert_int_equal(count_names(folder, true), 1);
}

static void forked_child_exits(void **state) {
    (void)state;
    assert_int_equal(use_cuda_in_child(true, true), 0);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(compiled_once_then_loaded),   TEST(same_source_is_one_module),  TEST(threads_share),
        TEST(processes_at_once),           TEST(damaged_entries_are_rebuilt), TEST(foreign_entries_are_rebuilt),
        TEST(unsafe_folders_are_refused),  TEST(read_only_folder),           TEST(bad_source_is_one_line),
        TEST(other_compilers),             TEST(full_disk),                  TEST(slow_compiler_is_stopped),
        TEST(stopped_together),            TEST(ignored_children),           TEST(trimmed_by_age),
        TEST(used_entries_stay_young),     TEST(exits_while_others_wait),    TEST(forked_child_exits),
        TEST(nvrtc_compiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
