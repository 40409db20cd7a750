/* SPDX-License-Identifier: MIT */
/* Reading a file that fails or changes meanwhile: fread is this program's own, with a sabotage before it. Writing one
 * beside what an ended process left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "temporary.h"

static const char content[] = "0123456789";
static char path[TEMPORARY_SIZE];
static void (*sabotage)(FILE *);

size_t fread(void *data, size_t size, size_t count, FILE *file) {
    if (sabotage) sabotage(file);
    size_t got = 0;
    for (int byte; got < size * count && (byte = getc(file)) != EOF; got++) ((char *)data)[got] = (char)byte;
    return got / size;
}

static int make_file(void **state) {
    (void)state;
    int descriptor = mkstemp(temporary_template(path));
    if (descriptor < 0) return -1;
    bool written = write(descriptor, content, sizeof content - 1) == sizeof content - 1;
    return close(descriptor) || !written ? -1 : 0;
}

static int remove_file(void **state) {
    (void)state;
    sabotage = NULL;
    return unlink(path);
}

static void shorten(FILE *file) {
    (void)file;
    assert_int_equal(truncate(path, 4), 0);
}

/* A folder's descriptor opens, but cannot be read. */
static void replace_by_folder(FILE *file) {
    FILE *folder = fopen("/tmp", "r");
    assert_non_null(folder);
    assert_true(dup2(fileno(folder), fileno(file)) >= 0);
    fclose(folder);
}

static void expect_failure(const char *message) {
    char *data;
    size_t size;
    zmlx_error error = {0};
    assert_int_equal(zm_file_read(&data, &size, path, 100, &error), ZMLX_ERROR_FILE);
    assert_null(data);
    assert_int_equal(size, 0);
    assert_string_equal(error.where, path);
    assert_string_equal(error.message, message);
}

static void test_read(void **state) {
    (void)state;
    char *data;
    size_t size;
    assert_int_equal(zm_file_read(&data, &size, path, 10, NULL), ZMLX_OK);
    assert_int_equal(size, 10);
    assert_string_equal(data, content);
    free(data);
}

static void test_limit(void **state) {
    (void)state;
    char *data;
    size_t size;
    zmlx_error error;
    assert_int_equal(zm_file_read(&data, &size, path, 9, &error), ZMLX_ERROR_FILE);
    assert_string_equal(error.message, "10 bytes are more than the limit of 9");
}

static void test_shorter_meanwhile(void **state) {
    (void)state;
    sabotage = shorten;
    expect_failure("became shorter while it was read: 4 of 10 bytes");
}

static void test_read_error(void **state) {
    (void)state;
    char message[128];
    snprintf(message, sizeof message, "cannot read: %s", strerror(EISDIR));
    sabotage = replace_by_folder;
    expect_failure(message);
}

static void test_left_overs(void **state) {
    (void)state;
    char left[sizeof path + 64], *data;
    size_t size;
    zmlx_error error = {0};
    snprintf(left, sizeof left, "%s.%ld-0.tmp", path, (long)getpid());
    assert_int_equal(link(path, left), 0);
    if (zm_file_write(path, "new", 3, &error)) fail_msg("%s: %s", error.where, error.message);
    assert_int_equal(zm_file_read(&data, &size, path, 10, NULL), ZMLX_OK);
    assert_string_equal(data, "new");
    free(data);
    assert_int_equal(zm_file_read(&data, &size, left, 10, NULL), ZMLX_OK);
    assert_string_equal(data, content);
    free(data);
    assert_int_equal(unlink(left), 0);
}

/* A link stays a link, also one to what is not there yet; a file keeps its access rights. */
static void test_links(void **state) {
    (void)state;
    char link[sizeof path + 16], later[sizeof path + 16];
    struct stat info;
    zmlx_error error = {0};
    snprintf(link, sizeof link, "%s.link", path);
    snprintf(later, sizeof later, "%s.later", path);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(symlink(path, link), 0);
    if (zm_file_write(link, "new", 3, &error)) fail_msg("%s: %s", error.where, error.message);
    assert_true(lstat(link, &info) == 0 && S_ISLNK(info.st_mode));
    assert_true(stat(path, &info) == 0 && info.st_size == 3 && (info.st_mode & 0777) == 0640);
    assert_int_equal(unlink(link), 0);
    assert_int_equal(symlink(strrchr(later, '/') + 1, link), 0);
    if (zm_file_write(link, "later", 5, &error)) fail_msg("%s: %s", error.where, error.message);
    assert_true(lstat(link, &info) == 0 && S_ISLNK(info.st_mode));
    assert_true(lstat(later, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == 5);
    assert_int_equal(unlink(link) || unlink(later), 0);
    assert_int_equal(symlink(link, link), 0);
    assert_int_equal(zm_file_write(link, "new", 3, &error), ZMLX_ERROR_FILE);
    assert_string_equal(error.where, link);
    assert_int_equal(unlink(link), 0);
}

static void test_read_only(void **state) {
    (void)state;
    char *data;
    size_t size;
    assert_int_equal(chmod(path, 0444), 0);
    if (access(path, W_OK) == 0) skip(); /* root may write anything */
    assert_int_equal(zm_file_write(path, "new", 3, NULL), ZMLX_ERROR_FILE);
    assert_int_equal(zm_file_read(&data, &size, path, 10, NULL), ZMLX_OK);
    assert_string_equal(data, content);
    free(data);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_file, remove_file)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_read),
        TEST(test_limit),
        TEST(test_shorter_meanwhile),
        TEST(test_read_error),
        TEST(test_left_overs),
        TEST(test_links),
        TEST(test_read_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
