/* SPDX-License-Identifier: MIT */
/* The result of `zmlx validate` as text and as JSON, and the file of --report. */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include <jansson.h>

#include "zmlx/system.h"
#include "zmlx/validate.h"

typedef struct validate_subject {
    const char *folder;
    const zmlx_model *model;
    const zmlx_system_info *system;
    const char *command; /* as it was typed */
    size_t n_prompt;
    const zmlx_validation *validation;
} validate_subject;

extern const char cli_report_nothing_patched[]; /* the line for a validation that patched no module */

void cli_report_print(const validate_subject *subject);
json_t *cli_report_json(const validate_subject *subject); /* the caller's */

/* Says now, before a long run, when path cannot be written. Returns CLI_DONE or CLI_BAD. */
int cli_report_check(const char *path);
/* Writes text: a regular file is replaced at once or keeps its old content. */
int cli_report_write(const char *path, const char *text);

#endif
