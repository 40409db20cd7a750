/* SPDX-License-Identifier: MIT */
/* Standard output with its errors kept, JSON, one-line messages, progress bars, signals.
 *
 * A closed pipe is no failure: output stops and the exit status stays what it was. Any other write error
 * makes cli_output_finish say so and return CLI_BAD. */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "command.h"
#include "zmlx/patch.h"

#define CLI_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))

/* "zmlx: ..." as one line on standard error, control characters shown as '?'. */
void cli_note(const char *format, ...) CLI_PRINTF(1, 2);
/* A line of the library's patch report, on standard error. */
void cli_print_note(const char *line);
/* As cli_note; returns CLI_BAD. */
int cli_fail(const char *format, ...) CLI_PRINTF(1, 2);
/* "zmlx: WHERE: MESSAGE"; returns CLI_BAD. */
int cli_fail_error(const zmlx_error *error);
int cli_fail_memory(void);
/* "zmlx NAME: ...; see zmlx NAME --help"; returns CLI_BAD. */
int cli_fail_usage(const cli_command *command, const char *format, ...) CLI_PRINTF(2, 3);

/* Standard output. */
void cli_print(const char *format, ...) CLI_PRINTF(1, 2);
/* number with so many decimals, or "-" where it was not measured (0). Returns text. */
const char *cli_measured_text(char text[32], double number, int decimals);
bool cli_write(const char *bytes, size_t size); /* and flush; false once output has failed */
void cli_flush(void);
bool cli_output_failed(void);      /* a closed pipe included */
int cli_output_finish(int status); /* the last call; returns the exit status */

/* JSON. A value that cannot be made (out of memory) is remembered and reported by cli_json_text. */
void cli_json_set(json_t *object, const char *key, json_t *value /* taken */);
void cli_json_append(json_t *array, json_t *value /* taken */);
json_t *cli_json_number(double number);                 /* null unless finite */
json_t *cli_json_measured(double number);               /* null unless above 0 too */
json_t *cli_json_bytes(const char *bytes, size_t size); /* what is not UTF-8 becomes U+FFFD */
json_t *cli_json_string(const char *string);
json_t *cli_json_strings(const char *const *strings, size_t count);
json_t *cli_json_counts(const zmlx_patch_count *counts, size_t count);
/* The object as text, freeing the object; NULL and a message after a failure. The caller frees. */
char *cli_json_text(json_t *object /* taken */, bool indented);
/* The object as one line on standard output. Returns CLI_DONE or CLI_BAD. */
int cli_print_json(json_t *object /* taken */);

/* A bar on standard error, drawn only on a terminal (TERM=dumb is none) and only once half a second has passed. */
typedef struct cli_progress {
    const char *label;
    double started, drawn; /* seconds */
    bool visible;
} cli_progress;
void cli_progress_start(cli_progress *progress, const char *label);
void cli_progress_draw(cli_progress *progress, uint64_t done, uint64_t total);
void cli_progress_end(cli_progress *progress);

/* ^C, SIGTERM and SIGHUP, each unless the caller had it ignored. After cli_catch_interrupt the first one is
 * only remembered and the same again ends the program; after cli_end_on_interrupt it ends the program with
 * a line that says so. The latest call counts. */
void cli_catch_interrupt(void);
void cli_end_on_interrupt(void);
bool cli_interrupted(void);
int cli_interrupt_status(void); /* 128 and the signal's number */

#endif
