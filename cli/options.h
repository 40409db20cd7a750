/* SPDX-License-Identifier: MIT */
/* One table of options a command: the parser and the help page read it. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "command.h"
#include "zmlx/status.h"

typedef enum cli_option_kind {
    CLI_FLAG,    /* bool */
    CLI_TEXT,    /* const char * */
    CLI_INTEGER, /* int64_t */
    CLI_NUMBER,  /* double */
    CLI_TEXTS,   /* cli_texts: may be given several times */
    CLI_CHOICE   /* int: 1 for the first word, 2 for the second, ... */
} cli_option_kind;

enum { CLI_MAX_TEXTS = 16 };
typedef struct cli_texts {
    const char *items[CLI_MAX_TEXTS];
    size_t count;
} cli_texts;

typedef struct cli_option {
    const char *name; /* without the dashes */
    cli_option_kind kind;
    size_t offset;     /* of the variable within the command's values */
    const char *value; /* as the help page shows it; of a choice the words themselves: "cpu|gpu" */
    const char *help;
    double minimum, maximum; /* of an integer or a number */
} cli_option;

typedef struct cli_page {
    const char *arguments; /* positional ones: "MODEL" or "SHAPE DIR" or ""; a last "[NAME]" may be left out */
    const char *about;     /* paragraphs for the help page, each line ends with a newline */
    const cli_option *options;
    size_t n_options;
} cli_page;

/* Fills values and the positional arguments. Returns true to go on; else *status is the exit status:
 * the help page was printed or the use was wrong. */
bool cli_parse(const cli_command *command, const cli_page *page, void *values, const char **positional,
               int argc, char **argv, int *status);

/* An error of the library as a message; one about an option ("top_k") names it as typed ("--top-k"). */
int cli_fail_option(const cli_command *command, const cli_page *page, const zmlx_error *error);

#define CLI_COUNT(array) (sizeof(array) / sizeof(array)[0])

/* The general options; values holds them in a member `general`. */
typedef struct cli_general {
    bool json;
    int device, dtype; /* 0: default */
    int64_t n_threads; /* 0: default */
} cli_general;

enum { CLI_MAX_THREADS = 256 }; /* the library's limit */

#define CLI_JSON_OPTION(type) \
    {"json", CLI_FLAG, offsetof(type, general.json), NULL, "print one JSON object and nothing else", 0, 0}
#define CLI_THREADS_OPTION(type)                                   \
    {"threads", CLI_INTEGER, offsetof(type, general.n_threads), "N", \
     "threads of the CPU kernels, at most 256\n(default: the processors)", 1, CLI_MAX_THREADS}
#define CLI_GENERAL_OPTIONS(type)                                                            \
    CLI_JSON_OPTION(type),                                                                   \
        {"device", CLI_CHOICE, offsetof(type, general.device), "cpu|gpu",                    \
         "where to run (default: gpu where MLX has one)", 0, 0},                             \
        {"dtype", CLI_CHOICE, offsetof(type, general.dtype), "float32|float16|bfloat16",     \
         "type of activations (default: float32 on the\nCPU, the checkpoint's type on a GPU)", 0, 0}, \
        CLI_THREADS_OPTION(type)

#endif
