/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "output.h"
#include "zmlx/model.h"

typedef struct generate_values {
    cli_general general;
    cli_prompt_values prompt;
    const char *patterns;
    int64_t max_tokens, top_k, seed;
    double temperature, top_p, min_p, repetition_penalty;
    int activations;
    bool ignore_eos, stats;
} generate_values;

#define AT(member) offsetof(generate_values, member)
static const cli_option options[] = {
    CLI_PROMPT_OPTIONS(generate_values),
    {"max-tokens", CLI_INTEGER, AT(max_tokens), "N", "most tokens to generate (100)", 1, 1e9},
    {"patterns", CLI_TEXT, AT(patterns), "auto|none|P1,P2",
     "what to patch: the proven patterns of this\nmodel, nothing, or these (auto)", 0, 0},
    CLI_ACTIVATIONS_OPTION(generate_values),
    {"temp", CLI_NUMBER, AT(temperature), "T", "temperature; 0 takes the likeliest token (0)", 0, 1e6},
    {"top-p", CLI_NUMBER, AT(top_p), "P",
     "sample from the likeliest tokens that together\nreach P; 0 is off (0)", 0, 1},
    {"top-k", CLI_INTEGER, AT(top_k), "K", "sample from the K likeliest tokens; 0 is off (0)", 0, INT32_MAX},
    {"min-p", CLI_NUMBER, AT(min_p), "P",
     "sample from tokens at least P times as likely\nas the likeliest; 0 is off (0)", 0, 1},
    {"repetition-penalty", CLI_NUMBER, AT(repetition_penalty), "X",
     "divides the logits of the last 20 tokens;\n0 is off (0)", 0, 1e6},
    {"seed", CLI_INTEGER, AT(seed), "S", "of the sampler (0)", 0, 9007199254740992.0},
    {"ignore-eos", CLI_FLAG, AT(ignore_eos), NULL, "go on after the end-of-text token", 0, 0},
    {"stats", CLI_FLAG, AT(stats), NULL, "speed and memory, on standard error", 0, 0},
    CLI_GENERAL_OPTIONS(generate_values),
};

static const cli_page page = {
    .arguments = "MODEL",
    .about = "MODEL is a folder with config.json, model*.safetensors and, for text, tokenizer.json.\n"
             "The prompt is taken as it is, without a chat template; names of special tokens in it become\n"
             "those tokens. The text is written as it is made; ^C stops it and keeps what there is.\n",
    .options = options,
    .n_options = CLI_COUNT(options),
};

/* The text on its way from tokens to its reader: standard output, or a buffer for JSON. */
typedef struct text_stream {
    const zmlx_model *model;
    const zmlx_tokenizer *tokenizer;
    zmlx_decoder *decoder; /* NULL without a tokenizer */
    FILE *buffer;          /* NULL: standard output */
    char *text;            /* of buffer */
    size_t size;
    bool ignore_eos, has_begun;
    cli_progress prefill;
    zmlx_status status; /* of the decoder */
    zmlx_error error;
} text_stream;

typedef struct generate_job {
    const generate_values *values;
    const char *folder;
    int64_t max_tokens;
    zmlx_model *model;
    cli_prompt prompt;
    cli_patterns patterns;
    const zmlx_patch_report *report; /* NULL: nothing patched */
    text_stream stream;
    zmlx_generation generation;
} generate_job;

static bool stream_write(text_stream *stream, const char *text, size_t size) {
    if (!stream->buffer) return size == 0 ? !cli_output_failed() : cli_write(text, size);
    return fwrite(text, 1, size, stream->buffer) == size;
}

static bool on_token(void *context, int32_t token) {
    text_stream *stream = context;
    cli_progress_end(&stream->prefill);
    if (!stream->has_begun) cli_catch_interrupt(); /* from here on there is something to keep */
    stream->has_begun = true;
    bool hidden = !stream->ignore_eos && zmlx_model_is_eos(stream->model, token);
    /* A model's vocabulary may be padded beyond its tokenizer's: such ids have no text. */
    if (stream->decoder && !hidden && zmlx_tokenizer_token_text(stream->tokenizer, token)) {
        const char *text;
        size_t size;
        stream->status = zmlx_decoder_push(stream->decoder, &text, &size, token, &stream->error);
        if (stream->status || !stream_write(stream, text, size)) return false;
    }
    return !cli_interrupted();
}

static void on_prefill(void *context, size_t done, size_t total) {
    text_stream *stream = context;
    cli_progress_draw(&stream->prefill, done, total);
}

static int stream_open(text_stream *stream, generate_job *job) {
    stream->model = job->model;
    stream->ignore_eos = job->values->ignore_eos;
    stream->tokenizer = zmlx_model_tokenizer(job->model);
    cli_progress_start(&stream->prefill, "prompt");
    if (stream->tokenizer && zmlx_decoder_new(&stream->decoder, stream->tokenizer, &stream->error))
        return cli_fail_error(&stream->error);
    if (!job->values->general.json) return CLI_DONE;
    stream->buffer = open_memstream(&stream->text, &stream->size);
    return stream->buffer ? CLI_DONE : cli_fail_memory();
}

/* Writes the text still held back and completes the buffer. */
static int stream_close(text_stream *stream) {
    const char *text = "";
    size_t size = 0;
    if (stream->decoder && !stream->status)
        stream->status = zmlx_decoder_finish(stream->decoder, &text, &size, &stream->error);
    if (stream->status) return cli_fail_error(&stream->error);
    bool good = stream_write(stream, text, size);
    if (!stream->buffer) return CLI_DONE;
    good = fclose(stream->buffer) == 0 && good;
    stream->buffer = NULL;
    return good ? CLI_DONE : cli_fail_memory();
}

static int apply_patterns(generate_job *job) {
    zmlx_patch_options choice = cli_patterns_options(&job->patterns);
    if (choice.patterns && choice.n_patterns == 0) return CLI_DONE;
    zmlx_error error;
    if (zmlx_patch(&job->report, job->model, &choice, &error)) return cli_fail_error(&error);
    char *text = zmlx_patch_report_text(job->report, false);
    if (!text) return cli_fail_memory();
    fputs(text, stderr);
    free(text);
    return CLI_DONE;
}

static int generate(generate_job *job, const cli_command *command) {
    const generate_values *values = job->values;
    zmlx_generate_options choice = {
        .max_tokens = (size_t)job->max_tokens,
        .temperature = values->temperature,
        .top_k = (int)values->top_k,
        .top_p = values->top_p,
        .min_p = values->min_p,
        .repetition_penalty = values->repetition_penalty,
        .seed = (uint64_t)values->seed,
        .ignore_eos = values->ignore_eos,
        .on_token = on_token,
        .on_prefill = on_prefill,
        .context = &job->stream,
    };
    zmlx_error error;
    zmlx_status status = zmlx_generate(&job->generation, job->model, job->prompt.tokens, job->prompt.n_tokens,
                                       &choice, &error);
    cli_progress_end(&job->stream.prefill);
    if (status && !strcmp(error.where, "temperature")) snprintf(error.where, sizeof error.where, "temp");
    return status ? cli_fail_option(command, &page, &error) : stream_close(&job->stream);
}

static json_t *describe(const generate_job *job) {
    static const char *const finishes[] = {
        [ZMLX_FINISH_LENGTH] = "length", [ZMLX_FINISH_STOP] = "stop", [ZMLX_FINISH_CANCELLED] = "cancelled"};
    const zmlx_generation *generation = &job->generation;
    json_t *object = json_object(), *tokens = json_array();
    for (size_t i = 0; i < generation->n_tokens; i++)
        cli_json_append(tokens, json_integer(generation->tokens[i]));
    cli_json_set(object, "tokens", tokens);
    cli_json_set(object, "text", cli_json_bytes(job->stream.text, job->stream.size));
    cli_json_set(object, "prompt_tokens", json_integer((json_int_t)generation->n_prompt_tokens));
    cli_json_set(object, "prefill_tok_s", cli_json_measured(generation->prefill_tok_s));
    cli_json_set(object, "decode_tok_s", cli_json_measured(generation->decode_tok_s));
    cli_json_set(object, "peak_memory_bytes", json_integer((json_int_t)generation->peak_memory_bytes));
    cli_json_set(object, "patched",
                 job->report ? cli_json_counts(job->report->counts, job->report->n_counts) : json_object());
    cli_json_set(object, "finish", json_string(finishes[generation->finish]));
    return object;
}

static void show_stats(const zmlx_generation *generation) {
    char prefill[32], decode[32];
    fprintf(stderr,
            "prompt       %zu tokens, %s tok/s\n"
            "generation   %zu tokens, %s tok/s\n"
            "peak memory  %.3f GB\n",
            generation->n_prompt_tokens, cli_measured_text(prefill, generation->prefill_tok_s, 1),
            generation->n_tokens, cli_measured_text(decode, generation->decode_tok_s, 1),
            1e-9 * (double)generation->peak_memory_bytes);
}

static int show(const generate_job *job) {
    const zmlx_generation *generation = &job->generation;
    int status = CLI_DONE;
    if (job->values->general.json)
        status = cli_print_json(describe(job));
    else
        cli_print("\n");
    cli_flush();
    if (job->values->stats && !cli_output_failed()) show_stats(generation);
    if (status || !cli_interrupted()) return status;
    cli_note("cancelled after %zu tokens", generation->n_tokens);
    return cli_interrupt_status();
}

static int run_job(generate_job *job, const cli_command *command) {
    const generate_values *values = job->values;
    int status = cli_patterns_parse(&job->patterns, command, values->patterns, values->activations, true);
    if (!status) status = cli_prompt_read(&job->prompt, command, &values->prompt, NULL);
    if (!status) status = cli_model_load(&job->model, job->folder, &values->general);
    if (!status) status = cli_prompt_encode(&job->prompt, job->model, job->folder, &job->max_tokens);
    if (!status) cli_end_on_interrupt();
    if (!status) status = apply_patterns(job);
    if (!status) status = stream_open(&job->stream, job);
    if (!status) status = generate(job, command);
    return status ? status : show(job);
}

int cli_generate(const cli_command *command, int argc, char **argv) {
    generate_values values = {.patterns = "auto", .max_tokens = 100};
    generate_job job = {.values = &values};
    int status;
    if (!cli_parse(command, &page, &values, &job.folder, argc, argv, &status)) return status;
    job.max_tokens = values.max_tokens;
    status = run_job(&job, command);
    if (job.stream.buffer) fclose(job.stream.buffer);
    free(job.stream.text);
    zmlx_decoder_free(job.stream.decoder);
    zmlx_generation_clear(&job.generation);
    zmlx_model_free(job.model);
    cli_prompt_free(&job.prompt);
    cli_patterns_free(&job.patterns);
    return status;
}
