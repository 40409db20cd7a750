/* SPDX-License-Identifier: MIT */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"

zmlx_status zmlx_session_new(zmlx_session **session, zmlx_model *model, zmlx_error *error) {
    *session = NULL;
    if (!model) return zm_fail_null(error, "model");
    zmlx_session *result = calloc(1, sizeof *result);
    if (!result) return zm_fail_memory(error);
    result->model = model;
    int n_blocks = model->root->decoder->n_blocks;
    result->caches = calloc((size_t)n_blocks, sizeof *result->caches);
    if (!result->caches) {
        free(result);
        return zm_fail_memory(error);
    }
    for (int i = 0; i < n_blocks; i++)
        zm_block_cache_init(&result->caches[i], model->root->decoder->blocks[i]);
    *session = result;
    return ZMLX_OK;
}

void zmlx_session_free(zmlx_session *session) {
    if (!session) return;
    for (int i = 0; i < session->model->root->decoder->n_blocks; i++) zm_cache_release(&session->caches[i]);
    free(session->caches);
    free(session);
}

size_t zmlx_session_length(const zmlx_session *session) { return session ? session->length : 0; }

static zmlx_status begin(zmlx_session *session, zm_scope *scope, zmlx_error *error) {
    if (session->broken)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "session", "an earlier call failed; start a new session");
    zm_scope_begin(scope, session->model->stream);
    return ZMLX_OK;
}

/* n_tokens: that were fed. */
static zmlx_status end(zmlx_session *session, zm_scope *scope, size_t n_tokens, zmlx_error *error) {
    zmlx_status status = zm_scope_end(scope, error);
    if (status)
        session->broken = true;
    else
        session->length += n_tokens;
    return status;
}

zmlx_status zm_session_build(zmlx_session *session, mlx_array *logits, mlx_array tokens, size_t n_tokens,
                             zmlx_error *error) {
    zm_scope scope;
    ZM_TRY(begin(session, &scope, error));
    zm_causal_lm *model = session->model->root;
    if (logits) zm_scope_keep(&scope, logits, zm_causal_lm_call(model, &scope, tokens, session->caches));
    else zm_decoder_call(model->decoder, &scope, tokens, session->caches);
    return end(session, &scope, n_tokens, error);
}

zmlx_status zm_session_build_greedy(zmlx_session *session, zm_choices *choices, mlx_array tokens, size_t n_tokens,
                                    zmlx_error *error) {
    zm_scope scope;
    ZM_TRY(begin(session, &scope, error));
    zm_choices made = {.wanted = choices->wanted, .row = choices->row};
    zm_causal_lm_greedy(session->model->root, &scope, tokens, session->caches, &made);
    choices->count = made.count;
    for (int i = 0; i < made.count; i++) zm_scope_keep(&scope, &choices->tokens[i], made.tokens[i]);
    mlx_array_free(choices->last_row);
    choices->last_row = (mlx_array){NULL};
    if (zm_is_set(made.last_row)) zm_scope_keep(&scope, &choices->last_row, made.last_row);
    return end(session, &scope, n_tokens + (size_t)made.count - 1, error);
}

void zm_choices_free(zm_choices *choices) {
    for (int i = 0; i < ZM_MOST_CHOICES; i++) mlx_array_free(choices->tokens[i]);
    mlx_array_free(choices->last_row);
    *choices = (zm_choices){.wanted = 0};
}

static zmlx_status evaluate(zmlx_session *session, mlx_array extra, int (*evaluation)(mlx_vector_array),
                            zmlx_error *error) {
    mlx_vector_array outputs = mlx_vector_array_new();
    int failed = 0;
    for (int i = 0; i < session->model->root->decoder->n_blocks; i++) {
        mlx_array arrays[2];
        int count = zm_cache_arrays(&session->caches[i], arrays);
        for (int j = 0; j < count; j++) failed |= mlx_vector_array_append_value(outputs, arrays[j]);
    }
    if (extra.ctx) failed |= mlx_vector_array_append_value(outputs, extra);
    if (!failed) failed = evaluation(outputs);
    mlx_vector_array_free(outputs);
    if (!failed) return ZMLX_OK;
    session->broken = true;
    return zm_mlx_fail(error, "evaluation");
}

zmlx_status zm_session_evaluate(zmlx_session *session, mlx_array extra, zmlx_error *error) {
    return evaluate(session, extra, mlx_eval, error);
}

zmlx_status zm_session_start(zmlx_session *session, zmlx_error *error) {
    return evaluate(session, (mlx_array){0}, mlx_async_eval, error);
}

static zmlx_status check_tokens(const zmlx_session *session, const int32_t *tokens, size_t n_tokens,
                                zmlx_error *error) {
    if (!session) return zm_fail_null(error, "session");
    if (!n_tokens) return zm_fail(error, ZMLX_ERROR_ARGUMENT, "tokens", "there are none");
    if (n_tokens > INT_MAX / 2 - session->length)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "tokens", "%zu are too many", n_tokens);
    if (!tokens) return zm_fail_null(error, "tokens");
    for (size_t i = 0; i < n_tokens; i++)
        if (tokens[i] < 0 || tokens[i] >= session->model->info.vocab_size)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, "tokens", "token %zu is %d; the vocabulary is 0 to %d",
                           i, tokens[i], session->model->info.vocab_size - 1);
    return ZMLX_OK;
}

/* Copies evaluated float32 logits of the last position, or of all. */
static zmlx_status copy_logits(zmlx_session *session, float *destination, mlx_array logits,
                               bool all_positions, zmlx_error *error) {
    zm_scope scope;
    zm_scope_begin(&scope, session->model->stream);
    mlx_array chosen = all_positions ? logits : zm_slice_axis(&scope, logits, 1, -1, INT_MAX, 1);
    chosen = zm_contiguous(&scope, zm_astype(&scope, chosen, MLX_FLOAT32));
    if (!zm_scope_failed(&scope)) {
        const float *data = mlx_array_eval(chosen) ? NULL : mlx_array_data_float32(chosen);
        if (data)
            memcpy(destination, data, mlx_array_nbytes(chosen));
        else
            zm_mlx_fail(&scope.failure, "logits");
    }
    return zm_scope_end(&scope, error);
}

zmlx_status zmlx_session_feed(zmlx_session *session, const int32_t *tokens, size_t n_tokens, float *logits,
                              bool all_positions, zmlx_error *error) {
    ZM_TRY(check_tokens(session, tokens, n_tokens, error));
    int shape[2] = {1, (int)n_tokens};
    mlx_array input = mlx_array_new_data(tokens, shape, 2, MLX_INT32);
    mlx_array output = mlx_array_new();
    zmlx_status status = zm_session_build(session, logits ? &output : NULL, input, n_tokens, error);
    mlx_array_free(input);
    if (!status) status = zm_session_evaluate(session, output, error);
    if (!status && logits) status = copy_logits(session, logits, output, all_positions, error);
    mlx_array_free(output);
    return status;
}
