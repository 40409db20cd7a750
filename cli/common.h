/* SPDX-License-Identifier: MIT */
/* What several commands do: load the model, read the prompt, choose patterns. Functions that return int
 * return CLI_DONE to go on, or the exit status after their message. */
#ifndef CLI_COMMON_H
#define CLI_COMMON_H

#include "command.h"
#include "options.h"
#include "zmlx/patch.h"

/* With a progress bar where loading takes long. */
int cli_model_load(zmlx_model **model, const char *folder, const cli_general *general);

/* The prompt options; values holds them in a member `prompt`. */
typedef struct cli_prompt_values {
    const char *text, *file, *tokens;
} cli_prompt_values;

#define CLI_PROMPT_OPTIONS(type)                                                   \
    {"prompt", CLI_TEXT, offsetof(type, prompt.text), "TEXT", "the prompt", 0, 0}, \
        {"prompt-file", CLI_TEXT, offsetof(type, prompt.file), "FILE",             \
         "the prompt is FILE's content (- is standard input)", 0, 0},              \
        {"prompt-tokens", CLI_TEXT, offsetof(type, prompt.tokens), "1,2,3",        \
         "the prompt as token ids", 0, 0}

typedef struct cli_prompt {
    const char *source; /* shown in messages */
    char *text;         /* owned; NULL when given as tokens */
    size_t size;
    int32_t *tokens; /* owned */
    size_t n_tokens;
} cli_prompt;

/* What needs no model: exactly one option (or fallback, may be NULL), file read, ids parsed. */
int cli_prompt_read(cli_prompt *prompt, const cli_command *command, const cli_prompt_values *values,
                    const char *fallback);
/* Tokens, all within the vocabulary and few enough for the model's context with one more; *max_tokens is
 * lowered, with a note, to what the context leaves. */
int cli_prompt_encode(cli_prompt *prompt, const zmlx_model *model, const char *folder, int64_t *max_tokens);
void cli_prompt_free(cli_prompt *prompt);

/* --patterns and --exclude: "auto", "none" or names separated by commas. */
typedef struct cli_patterns {
    bool automatic;
    char *storage; /* owned: what names point into */
    const char **names;
    size_t count;
    zmlx_activations activations;
} cli_patterns;

/* activations: what the option below was set to, 0 where it was not. */
int cli_patterns_parse(cli_patterns *patterns, const cli_command *command, const char *text, int activations,
                       bool allow_none);
/* The fields of zmlx_patch_options for the choice; patterns must outlive the options. */
zmlx_patch_options cli_patterns_options(const cli_patterns *patterns);

/* How fused products take their activations; values holds it in a member `activations`. */
#define CLI_ACTIVATIONS_OPTION(type)                                                     \
    {"activations", CLI_CHOICE, offsetof(type, activations), "float32|int8",             \
     "of fused products on the CPU; int8 is faster\nand approximate (float32)", 0, 0}
void cli_patterns_free(cli_patterns *patterns);

#endif
