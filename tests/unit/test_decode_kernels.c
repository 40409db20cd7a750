/* SPDX-License-Identifier: MIT */
/* The parts of decode on a CUDA device one by one: every number that a part's kernels leave, bit by bit, against the
 * MLX operations it stands for, with trained and random weights; and again with one input changed, which must show.
 * Prints the table. Skipped where there is no such device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/random.h"
#include "fused/cuda/decode.h"
#include "model/cache.h"
#include "model/model.h"
#include "model/sample.h"
#include "patch/patterns/parts.h"
#include "shape_cases.h"

enum { SKIPPED = 77, MOST_RESULTS = 3 };

static zmlx_error error;

static void check(zmlx_status status) {
    if (status) fail_msg("%s: %s", error.where, error.message);
}

/* One part of one model. */
typedef struct subject {
    const zm_causal_lm *model;
    mlx_stream stream;
    const zm_block *block;
    int n_keys; /* before the token */
} subject;

/* A run of a part in a scope, by MLX's operations or by the kernels. */
typedef struct run {
    const subject *of;
    zm_scope scope;
    bool kernels, altered;
    uint64_t n_random; /* numbers drawn so far: both sides draw the same */
    mlx_array results[MOST_RESULTS];
    int n_results;
} run;

typedef void (*part_of_decode)(run *this);

static mlx_dtype dtype_of(const run *this) { return this->of->model->decoder->embed_tokens->dtype; }

/* Numbers between -1 and 1 of the model's type. */
static mlx_array random_array(run *this, const int *shape, int n_dims) {
    size_t count = 1;
    for (int i = 0; i < n_dims; i++) count *= (size_t)shape[i];
    uint16_t *data = malloc(count * sizeof *data);
    assert_non_null(data);
    bool is_float16 = dtype_of(this) == MLX_FLOAT16;
    for (size_t i = 0; i < count; i++) {
        float value = (float)(zm_splitmix64(7, this->n_random++) >> 40) * 0x1p-23f - 1.0f;
        data[i] = is_float16 ? zm_float16_from_float(value) : zm_bfloat16_from_float(value);
    }
    mlx_array array = mlx_array_new_data(data, shape, n_dims, dtype_of(this));
    free(data);
    return zm_scope_own(&this->scope, array);
}

/* The same, of which the first number is another if this run's input is altered. */
static mlx_array input(run *this, int size) {
    mlx_array x = random_array(this, (const int[]){1, 1, size}, 3);
    if (!this->altered) return x;
    mlx_array first = zm_slice_axis(&this->scope, x, 2, 0, 1, 1), rest = zm_slice_axis(&this->scope, x, 2, 1, size, 1);
    first = zm_add(&this->scope, first, zm_scalar(&this->scope, 2, dtype_of(this)));
    return zm_concatenate(&this->scope, first, rest, 2);
}

static void add_result(run *this, mlx_array array) {
    assert_true(this->n_results < MOST_RESULTS);
    this->results[this->n_results++] = array;
}

static void begin(run *this, zm_decode *decode) {
    const zm_decoder *decoder = this->of->model->decoder;
    int head_dim = 64, top_k = 1;
    for (int i = 0; i < decoder->n_blocks; i++) {
        const zm_block *block = decoder->blocks[i];
        if (block->operator->kind == ZM_MODULE_ATTENTION) head_dim = ((const zm_attention *)block->operator)->head_dim;
        if (block->feed_forward->kind == ZM_MODULE_MOE) top_k = ((const zm_moe *)block->feed_forward)->top_k;
    }
    const zm_embedding *table = decoder->embed_tokens;
    zm_decode_begin(decode, &this->scope, table->dtype, table->weight.in_features, head_dim, top_k);
}

static void end(run *this, zm_decode *decode) {
    zm_decode_end(decode, this->results);
    this->n_results = decode->n_outputs;
}

static zm_decode_norm norm_of(const zm_norm *norm) { return (zm_decode_norm){norm->weight, norm->eps}; }
static int hidden_size(const run *this) { return this->of->model->decoder->embed_tokens->weight.in_features; }

static void embed(run *this) {
    const zm_embedding *table = this->of->model->decoder->embed_tokens;
    int32_t value = this->altered ? 8 : 7;
    mlx_array token = zm_scope_own(&this->scope, mlx_array_new_data(&value, (const int[]){1, 1}, 2, MLX_INT32));
    if (!this->kernels) {
        add_result(this, zm_module_call((zm_module *)table, &this->scope, token, NULL));
        return;
    }
    zm_decode decode;
    begin(this, &decode);
    zm_decode_publish(&decode);
    zm_decode_embed(&decode, token, &table->weight);
    end(this, &decode);
}

static void norm_linear(run *this) {
    const zm_norm *norm = this->of->model->decoder->norm;
    const zm_linear *head = this->of->model->lm_head;
    mlx_array h = input(this, hidden_size(this));
    if (!this->kernels) {
        h = zm_module_call((zm_module *)norm, &this->scope, h, NULL);
        add_result(this, zm_module_call((zm_module *)head, &this->scope, h, NULL));
        return;
    }
    zm_decode decode;
    begin(this, &decode);
    const int shape[] = {1, 1, head->weight.out_features};
    zm_place to = zm_decode_output(&decode, dtype_of(this), 3, shape);
    zm_decode_head(&decode, zm_decode_input(&decode, h), norm_of(norm), &head->weight, to);
    end(this, &decode);
}

static void linear_add(run *this) {
    const zm_module *operator = this->of->block->operator;
    const zm_linear *linear = operator->kind == ZM_MODULE_ATTENTION ? ((const zm_attention *)operator)->o_proj
                                                                    : ((const zm_short_conv *)operator)->out_proj;
    mlx_array x = input(this, linear->weight.in_features),
              h = random_array(this, (const int[]){1, 1, hidden_size(this)}, 3);
    if (!this->kernels) {
        add_result(this, zm_add(&this->scope, h, zm_module_call((zm_module *)linear, &this->scope, x, NULL)));
        return;
    }
    zm_decode decode;
    begin(this, &decode);
    zm_place from = zm_decode_input(&decode, x), before = zm_decode_input(&decode, h);
    zm_decode_publish(&decode);
    zm_decode_linear_add(&decode, from, &linear->weight, before);
    end(this, &decode);
}

/* h + module(norm(h)). */
static mlx_array add_module(run *this, const zm_norm *norm, const zm_module *module, mlx_array h, zm_cache *cache) {
    zm_call call = {.mask = {.mode = ""}, .cache = cache};
    mlx_array normed = zm_module_call((zm_module *)norm, &this->scope, h, NULL);
    return zm_add(&this->scope, h, zm_module_call((zm_module *)module, &this->scope, normed, cache ? &call : NULL));
}

static void short_conv(run *this) {
    const zm_block *block = this->of->block;
    const zm_short_conv *module = (const zm_short_conv *)block->operator;
    mlx_array h = input(this, hidden_size(this)),
              state = random_array(this, (const int[]){1, 2, module->hidden_size}, 3);
    if (!this->kernels) {
        zm_cache cache;
        zm_cache_init(&cache, ZM_CACHE_ARRAY, 0);
        zm_scope_keep(&this->scope, &cache.state, state);
        h = add_module(this, block->operator_norm, block->operator, h, &cache);
        add_result(this, zm_scope_own(&this->scope, cache.state));
        add_result(this, h);
        return;
    }
    zm_decode decode;
    begin(this, &decode);
    zm_place from = zm_decode_input(&decode, h);
    zm_place y = zm_decode_conv(&decode, from, norm_of(block->operator_norm), &module->in_proj->weight,
                                module->conv->weight, zm_decode_overwrite(&decode, state));
    zm_decode_publish(&decode);
    zm_decode_linear_add(&decode, y, &module->out_proj->weight, from);
    end(this, &decode);
}

/* A cache of n_keys random rows. */
static zm_cache filled_cache(run *this) {
    const zm_attention *attention = (const zm_attention *)this->of->block->operator;
    int window = this->of->block->sliding_window, n_keys = this->of->n_keys;
    if (window && n_keys > window) n_keys = window;
    zm_cache cache;
    zm_cache_init(&cache, window ? ZM_CACHE_ROTATING : ZM_CACHE_KV, window);
    const int shape[] = {1, attention->n_kv_heads, n_keys, attention->head_dim};
    if (n_keys) {
        mlx_array keys = random_array(this, shape, 4), values = random_array(this, shape, 4);
        zm_cache_update(&cache, &this->scope, &keys, &values);
    }
    return cache;
}

static void attention_kernels(run *this, mlx_array h, zm_cache *cache) {
    const zm_block *block = this->of->block;
    const zm_attention *attention = (const zm_attention *)block->operator;
    zm_cache_tokens token = {1, attention->n_kv_heads, 1, attention->head_dim, attention->head_dim, dtype_of(this)};
    zm_cache_rows rows = zm_cache_reserve(cache, &this->scope, &token);
    zm_decode decode;
    begin(this, &decode);
    zm_place from = zm_decode_input(&decode, h);
    zm_place keys = zm_decode_overwrite(&decode, rows.keys), values = zm_decode_overwrite(&decode, rows.values);
    zm_place qkv = zm_decode_qkv(&decode, from, norm_of(block->operator_norm), &attention->q_proj->weight,
                                 &attention->k_proj->weight, &attention->v_proj->weight, rows.n_rows);
    zm_decode_norm q_norm = {.eps = 0}, k_norm = {.eps = 0};
    if (attention->q_norm) q_norm = norm_of(attention->q_norm), k_norm = norm_of(attention->k_norm);
    zm_decode_attention_arguments arguments = {
        .q_norm = attention->q_norm ? &q_norm : NULL,
        .k_norm = attention->k_norm ? &k_norm : NULL,
        .freqs = attention->rope.freqs,
        .base = attention->rope.base,
        .position_scale = attention->rope.scale,
        .scale = attention->scale,
        .input_scale = attention->rope.input_scale,
        .sinks = attention->sinks,
        .offset = cache->offset,
        .n_keys = rows.n_rows,
        .row = rows.first,
        .n_rows = zm_dim(rows.keys, 2),
        .keys = keys,
        .values = values,
        .n_heads = attention->n_heads,
        .n_kv_heads = attention->n_kv_heads,
    };
    zm_decode_publish(&decode);
    zm_decode_attention(&decode, qkv, &arguments, &attention->o_proj->weight, from);
    end(this, &decode);
}

/* The caches' rows, then the sum. */
static void attention(run *this) {
    const zm_block *block = this->of->block;
    mlx_array h = input(this, hidden_size(this));
    zm_cache cache = filled_cache(this);
    if (this->kernels) {
        attention_kernels(this, h, &cache);
    } else {
        h = add_module(this, block->operator_norm, block->operator, h, &cache);
        add_result(this, cache.keys);
        add_result(this, cache.values);
        add_result(this, h);
    }
    zm_scope_own(&this->scope, cache.keys);
    zm_scope_own(&this->scope, cache.values);
}

static void gated_mlp(run *this) {
    const zm_block *block = this->of->block;
    const zm_gated_mlp *mlp = (const zm_gated_mlp *)block->feed_forward;
    mlx_array h = input(this, hidden_size(this));
    if (!this->kernels) {
        add_result(this, add_module(this, block->feed_forward_norm, block->feed_forward, h, NULL));
        return;
    }
    zm_decode decode;
    begin(this, &decode);
    zm_place from = zm_decode_input(&decode, h);
    zm_decode_publish(&decode);
    zm_decode_mlp(&decode, from, norm_of(block->feed_forward_norm), &mlp->gate_proj->weight, &mlp->up_proj->weight,
                  &mlp->down_proj->weight, mlp->activation);
    end(this, &decode);
}

static void experts(run *this) {
    const zm_block *block = this->of->block;
    const zm_moe *moe = (const zm_moe *)block->feed_forward;
    mlx_array h = input(this, hidden_size(this));
    if (!this->kernels) {
        add_result(this, add_module(this, block->feed_forward_norm, block->feed_forward, h, NULL));
        return;
    }
    zm_moe_arguments arguments = zm_patch_moe_arguments(moe);
    zm_decode decode;
    begin(this, &decode);
    zm_place from = zm_decode_input(&decode, h);
    zm_decode_publish(&decode);
    zm_decode_moe(&decode, from, norm_of(block->feed_forward_norm), &arguments);
    end(this, &decode);
}

static mlx_array random_logits(run *this) {
    mlx_array x = input(this, this->of->model->lm_head->weight.out_features);
    return zm_multiply(&this->scope, x, zm_scalar(&this->scope, 16, dtype_of(this)));
}

static void choose(run *this, mlx_array logits) {
    if (!this->kernels) {
        add_result(this, zm_choose_greedily(&this->scope, logits));
        return;
    }
    zm_decode decode;
    begin(this, &decode);
    zm_place from = zm_decode_input(&decode, logits);
    const zm_weight *table = &this->of->model->decoder->embed_tokens->weight;
    zm_decode_choice choice = {.to = zm_decode_output(&decode, MLX_UINT32, 2, (const int[]){1, 1})};
    zm_decode_choose(&decode, from, this->of->model->lm_head->weight.out_features, table, &choice);
    end(this, &decode);
}

static void choice(run *this) {
    mlx_array logits = random_logits(this);
    choose(this, this->altered ? zm_negative(&this->scope, logits) : logits);
}

/* The largest logit is infinite; altered: it is not. */
static void no_choice(run *this) {
    mlx_array logits = random_logits(this),
              below = zm_subtract(&this->scope, logits, zm_max(&this->scope, logits, 2, true));
    choose(this, this->altered ? logits : zm_divide(&this->scope, logits, below));
}

/* The numbers of a run's results, as float32, one behind the other. */
static float *numbers_of(run *this, size_t *count) {
    float *numbers = NULL;
    *count = 0;
    for (int i = 0; i < this->n_results; i++) {
        mlx_array array = zm_contiguous(&this->scope, zm_astype(&this->scope, this->results[i], MLX_FLOAT32));
        if (zm_scope_failed(&this->scope)) break;
        assert_int_equal(mlx_array_eval(array), 0);
        size_t size = mlx_array_size(array);
        numbers = realloc(numbers, (*count + size) * sizeof *numbers);
        assert_non_null(numbers);
        memcpy(numbers + *count, mlx_array_data_float32(array), size * sizeof *numbers);
        *count += size;
    }
    return numbers;
}

static float *compute(const subject *of, part_of_decode part, bool kernels, bool altered, size_t *count) {
    run this = {.of = of, .kernels = kernels, .altered = altered};
    zm_scope_begin(&this.scope, of->stream);
    part(&this);
    float *numbers = numbers_of(&this, count);
    check(zm_scope_end(&this.scope, &error));
    return numbers;
}

static size_t n_different(const float *a, const float *b, size_t count) {
    size_t different = 0;
    for (size_t i = 0; i < count; i++) different += memcmp(a + i, b + i, sizeof *a) != 0;
    return different;
}

static void compare(const char *model, const char *kernels, const subject *of, part_of_decode part) {
    size_t count, own_count, altered_count;
    float *reference = compute(of, part, false, false, &count);
    float *own = compute(of, part, true, false, &own_count), *altered = compute(of, part, true, true, &altered_count);
    assert_int_equal(count, own_count);
    assert_int_equal(count, altered_count);
    size_t different = n_different(reference, own, count), control = n_different(reference, altered, count);
    print_message("%-20s %-46s %8zu %9zu %9zu\n", model, kernels, count, different, control);
    free(reference);
    free(own);
    free(altered);
    assert_int_equal(different, 0);
    assert_true(control > 0);
}

static const zm_block *first_block(const zm_decoder *decoder, bool by_operator, zm_module_kind kind) {
    for (int i = 0; i < decoder->n_blocks; i++) {
        const zm_block *block = decoder->blocks[i];
        if ((by_operator ? block->operator : block->feed_forward)->kind == kind) return block;
    }
    return NULL;
}

static void compare_attentions(const char *name, const subject *model) {
    enum { LEAST_CUDNN_KEYS = 256 };
    static const int lengths[] = {0, 99, 254, 700, 1023, 1500, 5000};
    const char *cudnn = getenv("MLX_CUDA_USE_CUDNN_SDPA");
    bool vector_attention = cudnn && !strcmp(cudnn, "0");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        if (!vector_attention && lengths[i] + 1 >= LEAST_CUDNN_KEYS) continue;
        subject of = {model->model, model->stream, first_block(model->model->decoder, true, ZM_MODULE_ATTENTION),
                      lengths[i]};
        char text[64];
        snprintf(text, sizeof text, "norm_linear, attention, linear_add: %d keys", lengths[i] + 1);
        compare(name, text, &of, attention);
    }
}

/* The model's experts as other families' routers choose them. */
static void compare_gatings(const char *name, const subject *of) {
    static const struct {
        zm_gating gating;
        const char *title;
    } rules[] = {
        {ZM_GATING_SIGMOID_BIAS, "experts by sigmoids and biases"},
        {ZM_GATING_SOFTMAX_THEN_TOP_K, "experts by softmax"},
        {ZM_GATING_TOP_K_THEN_SOFTMAX_LOW, "experts by logits, the first of equals"},
        {ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH, "experts by logits, the last of equals"},
    };
    enum { MOST_EXPERTS = 256 };
    zm_moe *moe = (zm_moe *)of->block->feed_forward, kept = *moe;
    float biases[MOST_EXPERTS];
    assert_true(moe->n_experts <= MOST_EXPERTS);
    for (int i = 0; i < moe->n_experts; i++)
        biases[i] = (float)(zm_splitmix64(11, (uint64_t)i) >> 40) * 0x1p-26f;
    mlx_array bias = mlx_array_new_data(biases, &moe->n_experts, 1, MLX_FLOAT32);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        bool sigmoid = rules[i].gating == ZM_GATING_SIGMOID_BIAS;
        moe->gating = rules[i].gating;
        moe->expert_bias = sigmoid ? bias : (mlx_array){NULL};
        moe->normalize_epsilon = sigmoid ? 1e-6f : 0.0f;
        moe->routed_scaling_factor = sigmoid ? 1.5f : 1.0f;
        compare(name, rules[i].title, of, experts);
    }
    *moe = kept;
    mlx_array_free(bias);
}

static void compare_model(const char *name, const char *folder, zmlx_dtype dtype) {
    zmlx_model *model;
    zmlx_model_options options = {.device = ZMLX_DEVICE_GPU, .dtype = dtype};
    check(zmlx_model_load(&model, folder, &options, &error));
    const zm_decoder *decoder = model->root->decoder;
    subject of = {.model = model->root, .stream = model->stream, .block = decoder->blocks[0]};
    compare(name, "embed", &of, embed);
    compare(name, "norm_linear", &of, norm_linear);
    compare(name, "linear_add", &of, linear_add);
    compare_attentions(name, &of);
    if ((of.block = first_block(decoder, true, ZM_MODULE_SHORT_CONV)))
        compare(name, "conv, linear_add", &of, short_conv);
    if ((of.block = first_block(decoder, false, ZM_MODULE_GATED_MLP)))
        compare(name, "mlp_in, linear_add", &of, gated_mlp);
    if ((of.block = first_block(decoder, false, ZM_MODULE_MOE))) {
        compare(name, "router, experts_in, experts_out", &of, experts);
        compare_gatings(name, &of);
    }
    compare(name, "choose", &of, choice);
    compare(name, "choose: an infinite logit", &of, no_choice);
    zmlx_model_free(model);
}

static void test_trained(void **state) {
    (void)state;
    print_message("%-20s %-46s %8s %9s %9s\n", "weights", "kernels", "numbers", "different", "control");
    static const char *const names[] = {"lfm2-moe-tiny-4bit", "llama-tiny-4bit"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char folder[256], name[64];
        snprintf(folder, sizeof folder, "%s/models/%s", ZMLX_SOURCE_FOLDER, names[i]);
        compare_model(names[i], folder, ZMLX_DTYPE_BFLOAT16);
        snprintf(name, sizeof name, "%s, f16", names[i]);
        compare_model(name, folder, ZMLX_DTYPE_FLOAT16);
    }
}

static void compare_shape(const shape_case *self, const char *folder) {
    char name[64];
    snprintf(name, sizeof name, "%s, %d bits%s", self->shape, self->options.bits,
             self->dtype == ZMLX_DTYPE_FLOAT16 ? ", f16" : "");
    compare_model(name, folder, self->dtype);
}

static void test_random(void **state) {
    (void)state;
    static const shape_case cases[] = {
        {"lfm2-8b-a1b", {.bits = 4, .n_layers = 3}, ZMLX_DTYPE_BFLOAT16},
        {"lfm2-8b-a1b", {.bits = 8, .n_layers = 3}, ZMLX_DTYPE_BFLOAT16},
        {"llama-3.2-1b", {.bits = 4, .n_layers = 1}, ZMLX_DTYPE_BFLOAT16},
        {"qwen3-4b", {.bits = 4, .n_layers = 1}, ZMLX_DTYPE_BFLOAT16},
        {"qwen3-30b-a3b", {.bits = 4, .n_layers = 1}, ZMLX_DTYPE_BFLOAT16},
        {"mixtral-8x7b", {.bits = 4, .n_layers = 1}, ZMLX_DTYPE_BFLOAT16},
        {"gpt-oss-20b", {.bits = 4, .n_layers = 2}, ZMLX_DTYPE_BFLOAT16},
    };
    visit_shapes(cases, sizeof cases / sizeof *cases, compare_shape);
}

static void test_float16(void **state) {
    (void)state;
    static const shape_case cases[] = {
        {"lfm2-8b-a1b", {.bits = 4, .n_layers = 3}, ZMLX_DTYPE_FLOAT16},
        {"lfm2-8b-a1b", {.bits = 8, .n_layers = 3}, ZMLX_DTYPE_FLOAT16},
        {"qwen3-4b", {.bits = 4, .n_layers = 1}, ZMLX_DTYPE_FLOAT16},
        {"qwen3-30b-a3b", {.bits = 4, .n_layers = 1}, ZMLX_DTYPE_FLOAT16},
        {"mixtral-8x7b", {.bits = 4, .n_layers = 1}, ZMLX_DTYPE_FLOAT16},
        {"gpt-oss-20b", {.bits = 4, .n_layers = 2}, ZMLX_DTYPE_FLOAT16},
    };
    visit_shapes(cases, sizeof cases / sizeof *cases, compare_shape);
}

static void test_other_widths(void **state) {
    (void)state;
    static const shape_case cases[] = {
        {"lfm2-8b-a1b", {.bits = 2, .n_layers = 3}, ZMLX_DTYPE_BFLOAT16},
        {"lfm2-8b-a1b", {.bits = 3, .n_layers = 3}, ZMLX_DTYPE_BFLOAT16},
        {"lfm2-8b-a1b", {.bits = 5, .n_layers = 3}, ZMLX_DTYPE_BFLOAT16},
        {"lfm2-8b-a1b", {.bits = 6, .n_layers = 3}, ZMLX_DTYPE_BFLOAT16},
        {"qwen3-4b", {.bits = 3, .n_layers = 1}, ZMLX_DTYPE_FLOAT16},
        {"qwen3-30b-a3b", {.bits = 3, .n_layers = 1}, ZMLX_DTYPE_FLOAT16},
        {"qwen3-30b-a3b", {.bits = 6, .n_layers = 1}, ZMLX_DTYPE_BFLOAT16},
        {"gpt-oss-20b", {.bits = 3, .n_layers = 2}, ZMLX_DTYPE_BFLOAT16},
    };
    visit_shapes(cases, sizeof cases / sizeof *cases, compare_shape);
}

/* Three heads of one group: blocks of attention have one of them each. */
static void test_odd_groups(void **state) {
    (void)state;
    static const char config[] =
        "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":512,\"hidden_size\":256,"
        "\"intermediate_size\":512,\"num_hidden_layers\":1,\"num_attention_heads\":3,\"num_key_value_heads\":1,"
        "\"head_dim\":128,\"rms_norm_eps\":1e-5,\"rope_theta\":10000,\"max_position_embeddings\":8192,"
        "\"tie_word_embeddings\":true}";
    char folder[TEMPORARY_SIZE], path[TEMPORARY_SIZE + 16];
    assert_non_null(mkdtemp(temporary_template(folder)));
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(config, file);
    assert_int_equal(fclose(file), 0);
    const shape_case cases[] = {{path, {.bits = 4}, ZMLX_DTYPE_BFLOAT16}};
    visit_shapes(cases, 1, compare_shape);
    temporary_remove(folder);
}

/* What the driver refuses, it says in words. */
static void test_driver_errors(void **state) {
    (void)state;
    static const char call[] = "cuModuleLoadData: ";
    zm_cuda_module *module;
    assert_int_equal(zm_cuda_module_load(&module, "no cubin", &error), ZMLX_ERROR_UNSUPPORTED);
    assert_int_equal(strncmp(error.message, call, sizeof call - 1), 0);
    assert_non_null(strstr(error.message, " (CUDA error "));
    assert_null(strchr(error.message, '\n'));
}

/* An argument chooses tests by a pattern of cmocka's. */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (!zm_chain_available()) {
        print_message("no CUDA device: skipped\n");
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trained),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_float16),
        cmocka_unit_test(test_other_widths),
        cmocka_unit_test(test_odd_groups),
        cmocka_unit_test(test_driver_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
