/* SPDX-License-Identifier: MIT */
#include "output.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int output_error; /* errno of the first failed write to standard output; 0 while all went well */
static cli_progress *visible_progress;
static volatile sig_atomic_t bar_is_visible; /* the same, for a signal's handler */
static volatile sig_atomic_t interrupted;    /* the signal's number */

static void print_line(const char *prefix, const char *suffix, const char *format, va_list arguments) {
    char line[2048];
    int size = vsnprintf(line, sizeof line, format, arguments);
    if (size < 0) line[0] = '\0';
    for (char *byte = line; *byte; byte++)
        if ((unsigned char)*byte < 0x20 || *byte == 0x7f) *byte = '?';
    if (visible_progress) cli_progress_end(visible_progress);
    fprintf(stderr, "%s: %s%s\n", prefix, line, suffix);
}

void cli_note(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_line("zmlx", "", format, arguments);
    va_end(arguments);
}

void cli_print_note(const char *line) {
    if (visible_progress) cli_progress_end(visible_progress);
    fprintf(stderr, "%s\n", line);
}

int cli_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_line("zmlx", "", format, arguments);
    va_end(arguments);
    return CLI_BAD;
}

int cli_fail_error(const zmlx_error *error) {
    const char *message = error->message[0] ? error->message : zmlx_status_text(error->code);
    return error->where[0] ? cli_fail("%s: %s", error->where, message) : cli_fail("%s", message);
}

int cli_fail_memory(void) { return cli_fail("out of memory"); }

int cli_fail_usage(const cli_command *command, const char *format, ...) {
    char prefix[64], suffix[64];
    snprintf(prefix, sizeof prefix, "zmlx %s", command->name);
    snprintf(suffix, sizeof suffix, "; see zmlx %s --help", command->name);
    va_list arguments;
    va_start(arguments, format);
    print_line(prefix, suffix, format, arguments);
    va_end(arguments);
    return CLI_BAD;
}

static void output_check(bool good) {
    if (!good && !output_error) output_error = errno ? errno : EIO;
}

void cli_print(const char *format, ...) {
    if (output_error) return;
    va_list arguments;
    va_start(arguments, format);
    errno = 0;
    output_check(vprintf(format, arguments) >= 0);
    va_end(arguments);
}

const char *cli_measured_text(char text[32], double number, int decimals) {
    if (number > 0)
        snprintf(text, 32, "%.*f", decimals, number);
    else
        snprintf(text, 32, "-");
    return text;
}

void cli_flush(void) {
    if (output_error) return;
    errno = 0;
    output_check(fflush(stdout) == 0);
}

bool cli_write(const char *bytes, size_t size) {
    if (output_error) return false;
    errno = 0;
    output_check(fwrite(bytes, 1, size, stdout) == size);
    cli_flush();
    return !output_error;
}

bool cli_output_failed(void) { return output_error != 0; }

int cli_output_finish(int status) {
    /* Who reads it stands still: closing would wait for that again. */
    if (interrupted && output_error == EINTR) _exit(cli_interrupt_status());
    errno = 0;
    bool closed = fclose(stdout) == 0;
    output_check(closed);
    if (!output_error || output_error == EPIPE || status == CLI_BAD) return status;
    return cli_fail("standard output: %s", strerror(output_error));
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

void cli_progress_start(cli_progress *progress, const char *label) {
    *progress = (cli_progress){.label = label, .started = now()};
}

/* A terminal that knows how to erase a line. */
static bool can_draw(void) {
    const char *kind = getenv("TERM");
    return isatty(STDERR_FILENO) && kind && kind[0] && strcmp(kind, "dumb") != 0;
}

void cli_progress_draw(cli_progress *progress, uint64_t done, uint64_t total) {
    enum { WIDTH = 30 };
    double time = now();
    if (total == 0 || time - progress->started < 0.5 || time - progress->drawn < 0.1 || !can_draw())
        return;
    double part = done < total ? (double)done / (double)total : 1;
    int filled = (int)(part * WIDTH);
    char bar[WIDTH + 1];
    memset(bar, '.', WIDTH);
    memset(bar, '#', (size_t)filled);
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r%s [%s] %3.0f %%\033[K", progress->label, bar, 100 * part);
    fflush(stderr);
    progress->drawn = time;
    progress->visible = true;
    visible_progress = progress;
    bar_is_visible = 1;
}

void cli_progress_end(cli_progress *progress) {
    if (progress->visible) fputs("\r\033[K", stderr);
    progress->visible = false;
    visible_progress = NULL;
    bar_is_visible = 0;
}

static void remember_interrupt(int number) { interrupted = number; }

static void end_on_interrupt(int number) {
    static const char line[] = "\r\033[Kzmlx: cancelled\n";
    size_t skipped = bar_is_visible ? 0 : strlen("\r\033[K");
    (void)!write(STDERR_FILENO, line + skipped, sizeof line - 1 - skipped);
    _exit(128 + number);
}

/* Without SA_RESTART: a write that waits for its reader ends, too. */
static void handle_interrupts(void (*handler)(int)) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction action;
        if (sigaction(numbers[i], NULL, &action) || action.sa_handler == SIG_IGN) continue;
        memset(&action, 0, sizeof action);
        action.sa_handler = handler;
        action.sa_flags = (int)SA_RESETHAND;
        sigaction(numbers[i], &action, NULL);
    }
}

void cli_catch_interrupt(void) { handle_interrupts(remember_interrupt); }
void cli_end_on_interrupt(void) { handle_interrupts(end_on_interrupt); }
bool cli_interrupted(void) { return interrupted != 0; }
int cli_interrupt_status(void) { return 128 + interrupted; }
