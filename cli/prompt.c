/* SPDX-License-Identifier: MIT */
/* The prompt part of common.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "output.h"

enum { PROMPT_LIMIT = 64 << 20 };

static int fail_file(const char *path, int number) {
    return cli_fail("%s: cannot read: %s", path, strerror(number));
}

static int read_stream(cli_prompt *prompt, FILE *stream, const char *path) {
    size_t capacity = 0;
    do {
        capacity = capacity ? 2 * capacity : 4096;
        char *grown = realloc(prompt->text, capacity);
        if (!grown) return cli_fail_memory();
        prompt->text = grown;
        errno = 0;
        prompt->size += fread(grown + prompt->size, 1, capacity - prompt->size, stream);
        if (ferror(stream)) return fail_file(path, errno);
        if (prompt->size > PROMPT_LIMIT)
            return cli_fail("%s: larger than the limit of %d bytes", path, PROMPT_LIMIT);
    } while (prompt->size == capacity);
    return prompt->size ? CLI_DONE : cli_fail("%s: the prompt is empty", path);
}

static int read_file(cli_prompt *prompt, const char *path) {
    if (!strcmp(path, "-")) return read_stream(prompt, stdin, "standard input");
    FILE *file = fopen(path, "rb");
    if (!file) return fail_file(path, errno);
    int status = read_stream(prompt, file, path);
    fclose(file);
    return status;
}

static int parse_tokens(cli_prompt *prompt, const cli_command *command, const char *text) {
    size_t limit = 1;
    for (const char *byte = text; *byte; byte++) limit += *byte == ',';
    prompt->tokens = malloc(limit * sizeof *prompt->tokens);
    if (!prompt->tokens) return cli_fail_memory();
    const char *position = text;
    for (size_t i = 0; i < limit; i++) {
        size_t digits = strspn(position, "0123456789");
        long token = digits && digits < 11 ? strtol(position, NULL, 10) : -1;
        if (token < 0 || token > INT32_MAX || (position[digits] && position[digits] != ','))
            return cli_fail_usage(
                command, "--prompt-tokens: expected token ids separated by commas, got \"%.80s\"", text);
        prompt->tokens[prompt->n_tokens++] = (int32_t)token;
        position += digits + 1;
    }
    return CLI_DONE;
}

static int copy_text(cli_prompt *prompt, const char *text) {
    prompt->size = strlen(text);
    prompt->text = strdup(text);
    return prompt->text ? CLI_DONE : cli_fail_memory();
}

int cli_prompt_read(cli_prompt *prompt, const cli_command *command, const cli_prompt_values *values,
                    const char *fallback) {
    *prompt = (cli_prompt){0};
    int given = (values->text != NULL) + (values->file != NULL) + (values->tokens != NULL);
    if (given > 1)
        return cli_fail_usage(command, "--prompt, --prompt-file and --prompt-tokens exclude each other");
    if (!given && !fallback)
        return cli_fail_usage(command,
                              "the prompt is missing: give --prompt, --prompt-file or --prompt-tokens");
    if (values->file && !values->file[0])
        return cli_fail_usage(command, "--prompt-file: the file's name is empty");
    if (values->file) {
        prompt->source = values->file;
        return read_file(prompt, values->file);
    }
    if (values->tokens) {
        prompt->source = "--prompt-tokens";
        return parse_tokens(prompt, command, values->tokens);
    }
    prompt->source = "--prompt";
    if (values->text && !values->text[0]) return cli_fail_usage(command, "--prompt: the text is empty");
    return copy_text(prompt, values->text ? values->text : fallback);
}

static int encode_text(cli_prompt *prompt, const zmlx_model *model, const char *folder) {
    const zmlx_tokenizer *tokenizer = zmlx_model_tokenizer(model);
    if (!tokenizer) return cli_fail("%s: no tokenizer.json; give the prompt as --prompt-tokens", folder);
    zmlx_error error;
    if (zmlx_tokenizer_encode_prompt(tokenizer, &prompt->tokens, &prompt->n_tokens, prompt->text,
                                     prompt->size, &error))
        return cli_fail_error(&error);
    return prompt->n_tokens ? CLI_DONE : cli_fail("%s: the text gives no tokens", prompt->source);
}

int cli_prompt_encode(cli_prompt *prompt, const zmlx_model *model, const char *folder, int64_t *max_tokens) {
    const zmlx_model_info *info = zmlx_model_get_info(model);
    if (prompt->text) {
        int status = encode_text(prompt, model, folder);
        if (status) return status;
    }
    for (size_t i = 0; i < prompt->n_tokens; i++)
        if (prompt->tokens[i] < 0 || prompt->tokens[i] >= info->vocab_size)
            return cli_fail("%s: token %d is outside the model's vocabulary of %d", prompt->source,
                            prompt->tokens[i], info->vocab_size);
    size_t context = (size_t)info->max_position_embeddings;
    if (context == 0) return CLI_DONE;
    if (prompt->n_tokens >= context)
        return cli_fail("%s: the prompt of %zu tokens does not fit the model's context of %zu tokens",
                        prompt->source, prompt->n_tokens, context);
    int64_t room = (int64_t)(context - prompt->n_tokens);
    if (*max_tokens > room) {
        cli_note("--max-tokens: %lld lowered to %lld, what the model's context of %zu tokens leaves",
                 (long long)*max_tokens, (long long)room, context);
        *max_tokens = room;
    }
    return CLI_DONE;
}

void cli_prompt_free(cli_prompt *prompt) {
    free(prompt->text);
    free(prompt->tokens);
}
