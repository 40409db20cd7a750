/* SPDX-License-Identifier: MIT */
/* The generation loop: chunked prefill, then one step computed ahead of the token being read. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/model.h"
#include "model/sample.h"

enum { REPETITION_WINDOW = 20, CLEAR_CACHE_EVERY = 256 };

typedef struct generation_run {
    zmlx_session *session;
    const zmlx_generate_options *options;
    zm_sampler sampler;
    mlx_array recent; /* (1, n) last tokens, for the repetition penalty; empty when off */
    uint64_t step;
    bool undefined; /* there is no next token: the logits are no numbers */
    double last;    /* when the last token came */
    zmlx_error *error;
} generation_run;

static mlx_array tokens_array(const int32_t *tokens, size_t count) {
    int shape[2] = {1, (int)count};
    return mlx_array_new_data(tokens, shape, 2, MLX_INT32);
}

/* Feeds all prompt tokens but the last; only the caches are evaluated. The last chunk is under way when it returns, so
 * that the next step is made meanwhile. */
static zmlx_status prefill(generation_run *run, const int32_t *prompt, size_t n_prompt) {
    const zmlx_generate_options *options = run->options;
    for (size_t done = 0; done + 1 < n_prompt;) {
        size_t count = n_prompt - 1 - done < ZM_PREFILL_CHUNK ? n_prompt - 1 - done : ZM_PREFILL_CHUNK;
        mlx_array chunk = tokens_array(prompt + done, count);
        zmlx_status status = zm_session_build(run->session, NULL, chunk, count, run->error);
        mlx_array_free(chunk);
        ZM_TRY(status);
        done += count;
        if (done + 1 < n_prompt) {
            ZM_TRY(zm_session_evaluate(run->session, (mlx_array){0}, run->error));
            mlx_clear_cache();
        } else {
            ZM_TRY(zm_session_start(run->session, run->error));
        }
        if (options->on_prefill) options->on_prefill(options->context, done, n_prompt);
    }
    return ZMLX_OK;
}

/* Keeps the last tokens for the repetition penalty, and the token that is drawn from logits. */
static zmlx_status sample(generation_run *run, mlx_array *next, mlx_array logits, mlx_array token) {
    zm_scope scope;
    zm_scope_begin(&scope, run->session->model->stream);
    if (zm_is_set(run->recent) && run->step) {
        mlx_array longer = zm_concatenate(&scope, run->recent, token, 1);
        int length = zm_dim(longer, 1);
        int start = length > REPETITION_WINDOW ? length - REPETITION_WINDOW : 0;
        zm_scope_keep(&scope, &run->recent, zm_slice_axis(&scope, longer, 1, start, length, 1));
    }
    mlx_array last = zm_squeeze(&scope, logits, 1);
    zm_scope_keep(&scope, next, zm_sample(&scope, &run->sampler, last, run->recent, run->step++));
    return zm_scope_end(&scope, run->error);
}

/* Starts the step that feeds token (1, 1); next gets the lazy tokens after it, as many as it wants or fewer. */
static zmlx_status start_step(generation_run *run, zm_choices *next, mlx_array token) {
    if (zm_sampler_is_greedy(&run->sampler)) {
        ZM_TRY(zm_session_build_greedy(run->session, next, token, 1, run->error));
    } else {
        mlx_array logits = mlx_array_new();
        zmlx_status status = zm_session_build(run->session, &logits, token, 1, run->error);
        if (!status) status = sample(run, &next->tokens[0], logits, token);
        /* Freed before the evaluation, so that MLX can reuse the buffers behind them. */
        mlx_array_free(logits);
        if (status) return status;
        next->count = 1;
    }
    mlx_vector_array outputs = mlx_vector_array_new_value(next->tokens[next->count - 1]);
    int failed = mlx_async_eval(outputs);
    mlx_vector_array_free(outputs);
    return failed ? zm_mlx_fail(run->error, "evaluation") : ZMLX_OK;
}

/* n_left: how many tokens there may be; n_taken: that came before current. The first ones are wanted one by one:
 * nothing runs while they are made. */
static zmlx_status follow_step(generation_run *run, zm_choices *next, const zm_choices *current, size_t n_taken,
                               size_t n_left) {
    size_t n_wanted = n_taken < 2 ? 1 : ZM_MOST_CHOICES;
    zm_scope scope;
    zm_scope_begin(&scope, run->session->model->stream);
    mlx_array input = mlx_array_new(), token = current->tokens[current->count - 1];
    zm_scope_keep(&scope, &input, zm_reshape2(&scope, zm_astype(&scope, token, MLX_INT32), 1, 1));
    zmlx_status status = zm_scope_end(&scope, run->error);
    next->wanted = (int)(n_left < n_wanted ? n_left : n_wanted);
    next->row = current->last_row;
    if (!status) status = start_step(run, next, input);
    mlx_array_free(input);
    return status;
}

static zmlx_status read_token(generation_run *run, int32_t *token, mlx_array array) {
    uint32_t value;
    if (mlx_array_item_uint32(&value, array)) return zm_mlx_fail(run->error, "evaluation");
    run->undefined = value == ZM_NO_TOKEN;
    *token = (int32_t)value;
    return ZMLX_OK;
}

/* Takes tokens one by one; *ended: there is to be no other. */
static zmlx_status take(generation_run *run, zmlx_generation *result, const zm_choices *tokens, bool *ended) {
    const zmlx_generate_options *options = run->options;
    for (int i = 0; i < tokens->count && !*ended; i++) {
        int32_t token;
        ZM_TRY(read_token(run, &token, tokens->tokens[i]));
        *ended = run->undefined;
        if (run->undefined) break;
        run->last = zm_clock_seconds();
        result->tokens[result->n_tokens++] = token;
        if (result->n_tokens % CLEAR_CACHE_EVERY == 0) mlx_clear_cache();
        if (options->on_token && !options->on_token(options->context, token)) {
            result->finish = ZMLX_FINISH_CANCELLED;
            *ended = true;
        } else if (!options->ignore_eos && zmlx_model_is_eos(run->session->model, token)) {
            result->finish = ZMLX_FINISH_STOP;
            *ended = true;
        }
    }
    return ZMLX_OK;
}

/* Until an end; current holds the first token, under way. */
static zmlx_status decode(generation_run *run, zmlx_generation *result, zm_choices *current, size_t max_tokens,
                          double start) {
    zm_choices next = {.wanted = 0};
    /* Waited for alone: a thread may wake only when the step behind it is over, and the clock would begin there. */
    zmlx_status status = mlx_array_eval(current->tokens[0]) ? zm_mlx_fail(run->error, "evaluation") : ZMLX_OK;
    double first = run->last = zm_clock_seconds();
    const zmlx_generate_options *options = run->options;
    if (!status && options->on_prefill)
        options->on_prefill(options->context, result->n_prompt_tokens, result->n_prompt_tokens);
    size_t n_made = (size_t)current->count;
    bool ended = false;
    result->finish = ZMLX_FINISH_LENGTH;
    while (!status && !ended) {
        next.count = 0;
        if (n_made < max_tokens) status = follow_step(run, &next, current, result->n_tokens, max_tokens - n_made);
        n_made += (size_t)next.count;
        if (!status) status = take(run, result, current, &ended);
        ended = ended || !next.count;
        zm_choices swap = *current;
        *current = next;
        next = swap;
    }
    zm_choices_free(&next);
    result->prefill_seconds = first - start;
    result->decode_seconds = run->last - first;
    return status;
}

static zmlx_status generate(generation_run *run, zmlx_generation *result, const int32_t *prompt,
                            size_t n_prompt) {
    size_t max_tokens = run->options->max_tokens ? run->options->max_tokens : 100;
    double start = zm_clock_seconds();
    ZM_TRY(prefill(run, prompt, n_prompt));
    if (run->sampler.repetition_penalty > 0) {
        size_t count = n_prompt < REPETITION_WINDOW ? n_prompt : REPETITION_WINDOW;
        run->recent = tokens_array(prompt + n_prompt - count, count);
    }
    mlx_array last = tokens_array(prompt + n_prompt - 1, 1);
    zm_choices current = {.wanted = 1};
    zmlx_status status = start_step(run, &current, last);
    mlx_array_free(last);
    if (!status) status = decode(run, result, &current, max_tokens, start);
    zm_choices_free(&current);
    return status;
}

static void finish_figures(zmlx_generation *result) {
    if (result->prefill_seconds > 0)
        result->prefill_tok_s = (double)result->n_prompt_tokens / result->prefill_seconds;
    if (result->n_tokens > 1 && result->decode_seconds > 0)
        result->decode_tok_s = (double)(result->n_tokens - 1) / result->decode_seconds;
    size_t peak = 0;
    mlx_get_peak_memory(&peak);
    result->peak_memory_bytes = peak;
}

zmlx_status zm_check_context(const zmlx_model *model, const char *name, size_t n_prompt, zmlx_error *error) {
    size_t limit = (size_t)model->info.max_position_embeddings;
    if (!limit || n_prompt < limit) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "%zu tokens do not fit the model's context of %zu", n_prompt,
                   limit);
}

static zmlx_status check_arguments(const zmlx_model *model, const int32_t *prompt, size_t n_prompt,
                                   size_t max_tokens, zmlx_error *error) {
    if (!model) return zm_fail_null(error, "model");
    if (!n_prompt) return zm_fail(error, ZMLX_ERROR_ARGUMENT, "prompt", "it is empty");
    if (!prompt) return zm_fail_null(error, "prompt");
    const size_t most = (size_t)1 << 28;
    if (max_tokens > most)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "max_tokens", "%zu are more than %zu", max_tokens, most);
    if (n_prompt > most)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "prompt", "%zu tokens are more than %zu", n_prompt, most);
    for (size_t i = 0; i < n_prompt; i++)
        if (prompt[i] < 0 || prompt[i] >= model->info.vocab_size)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, "prompt", "token %zu is %d; the vocabulary is 0 to %d",
                           i, prompt[i], model->info.vocab_size - 1);
    return zm_check_context(model, "prompt", n_prompt, error);
}

zmlx_status zm_generate(zmlx_generation *generation, bool *undefined, zmlx_model *model, const int32_t *prompt,
                        size_t n_prompt, const zmlx_generate_options *options, zmlx_error *error) {
    *generation = (zmlx_generation){0};
    *undefined = false;
    static const zmlx_generate_options defaults;
    if (!options) options = &defaults;
    size_t max_tokens = options->max_tokens ? options->max_tokens : 100;
    ZM_TRY(check_arguments(model, prompt, n_prompt, max_tokens, error));
    generation_run run = {.options = options, .error = error};
    ZM_TRY(zm_sampler_init(&run.sampler, options, model->info.vocab_size, error));
    ZM_TRY(zmlx_session_new(&run.session, model, error));
    mlx_reset_peak_memory();
    generation->n_prompt_tokens = n_prompt;
    generation->tokens = malloc(max_tokens * sizeof *generation->tokens);
    zmlx_status status =
        generation->tokens ? generate(&run, generation, prompt, n_prompt) : zm_fail_memory(error);
    /* The step computed ahead may still run; it must not outlast the session's arrays. */
    mlx_synchronize(model->stream);
    if (run.recent.ctx) mlx_array_free(run.recent);
    zmlx_session_free(run.session);
    finish_figures(generation);
    *undefined = run.undefined;
    if (status) zmlx_generation_clear(generation);
    return status;
}

zmlx_status zmlx_generate(zmlx_generation *generation, zmlx_model *model, const int32_t *prompt, size_t n_prompt,
                          const zmlx_generate_options *options, zmlx_error *error) {
    bool undefined;
    ZM_TRY(zm_generate(generation, &undefined, model, prompt, n_prompt, options, error));
    if (!undefined) return ZMLX_OK;
    size_t token = generation->n_tokens;
    zmlx_generation_clear(generation);
    return zm_fail(error, ZMLX_ERROR_FORMAT, "model",
                   "the logits of token %zu are NaN or infinite, so there is none to take", token);
}

void zmlx_generation_clear(zmlx_generation *generation) {
    if (!generation) return;
    free(generation->tokens);
    *generation = (zmlx_generation){0};
}
