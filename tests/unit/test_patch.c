/* SPDX-License-Identifier: MIT */
/* Patterns on module trees built by hand: what matches, what is computed, how it is undone. */
#include "module_testing.h"

static zmlx_error error;

enum { N_PATCHED = 10 }; /* by the default patterns */

/* The modules that the default patterns replace. */
static size_t patched_modules(zm_module *modules[N_PATCHED], const char *patterns[N_PATCHED]) {
    zm_module *list[] = {&tree.swiglu->base, &tree.geglu->base,  &tree.dense->base,  &tree.moe[0]->base,
                         &tree.moe[1]->base, &tree.moe[2]->base, &tree.moe[3]->base, &tree.conv->base,
                         &tree.norm->base,   &tree.head->base};
    const char *names[] = {"swiglu_mlp", "geglu_mlp", "swiglu_mlp", "moe_mlp", "moe_mlp",
                           "moe_mlp",    "moe_mlp",   "short_conv", "rmsnorm", "quantized_linear"};
    memcpy(modules, list, sizeof list);
    if (patterns) memcpy(patterns, names, sizeof names);
    return N_PATCHED;
}

static zmlx_status count_patched(zm_module *module, void *context, zmlx_error *unused) {
    (void)unused;
    bool standard = module->forward == zm_standard_forward(module->kind);
    assert_int_equal(standard, module->patch_state == NULL);
    *(int *)context += !standard;
    return ZMLX_OK;
}

static int n_patched(void) {
    int count = 0;
    assert_int_equal(zm_module_visit(&model.root->base, count_patched, &count, NULL), ZMLX_OK);
    return count;
}

static const zmlx_patch_report *patch(const zmlx_patch_options *options) {
    const zmlx_patch_report *report;
    check(zmlx_patch(&report, &model, options, &error), &error);
    return report;
}

static const zmlx_patch_report *patch_only(const char *pattern) {
    return patch(&(zmlx_patch_options){.patterns = &pattern, .n_patterns = 1});
}

static void test_replaces_and_reports(void **state) {
    (void)state;
    zm_module *modules[N_PATCHED];
    const char *patterns[N_PATCHED];
    size_t n_modules = patched_modules(modules, patterns);
    const zmlx_patch_report *report = patch(NULL);
    assert_ptr_equal(zmlx_patch_get_report(&model), report);
    assert_int_equal(n_patched(), n_modules);
    assert_int_equal(report->patched_count, n_modules);
    assert_int_equal(report->skipped_count, 1);
    for (size_t i = 0; i < n_modules; i++) {
        const zm_patch_state *patch_state = modules[i]->patch_state;
        assert_non_null(patch_state);
        assert_string_equal(patch_state->pattern->name, patterns[i]);
        assert_ptr_equal(modules[i]->forward, patch_state->pattern->forward);
    }
    char *text = zmlx_patch_report_text(report, true);
    assert_string_equal(text,
                        "[zmlx.patch] Applying 11 patterns: ['swiglu_mlp', 'geglu_mlp', 'moe_mlp', "
                        "'short_conv', 'delta_net', 'attention', 'rmsnorm', 'quantized_linear', "
                        "'lm_head', 'decoder_block', 'add_rms_norm']\n"
                        "  [zmlx.patch] swiglu: swiglu_mlp\n"
                        "  [zmlx.patch] dense: swiglu_mlp\n"
                        "  [zmlx.patch] geglu: geglu_mlp\n"
                        "  [zmlx.patch] moe0: moe_mlp\n"
                        "  [zmlx.patch] moe1: moe_mlp\n"
                        "  [zmlx.patch] moe2: moe_mlp\n"
                        "  [zmlx.patch] moe3: moe_mlp\n"
                        "  [zmlx.patch] conv: short_conv\n"
                        "  [zmlx.patch] norm: rmsnorm\n"
                        "  [zmlx.patch] head: quantized_linear\n"
                        "  [zmlx.patch] odd: quantized_linear skipped: nvfp4 weights have no CPU kernel\n"
                        "Patched 10 modules:\n"
                        "  geglu_mlp: 1\n"
                        "  moe_mlp: 4\n"
                        "  quantized_linear: 1\n"
                        "  rmsnorm: 1\n"
                        "  short_conv: 1\n"
                        "  swiglu_mlp: 2\n"
                        "  Skipped: 1\n");
    free(text);
}

/* Patched outputs agree with the standard forward; one wrong weight is seen. */
static void test_outputs(void **state) {
    (void)state;
    static const int tokens[] = {1, 2, 5, 31, 32};
    zm_module *modules[N_PATCHED];
    size_t n_modules = patched_modules(modules, NULL), count;
    for (size_t i = 0; i < n_modules; i++) {
        for (size_t j = 0; j < sizeof tokens / sizeof *tokens; j++) {
            float *expected = output_of(modules[i], 1, tokens[j], 7 * (uint32_t)j, &count);
            patch(NULL);
            float *patched = output_of(modules[i], 1, tokens[j], 7 * (uint32_t)j, &count);
            zmlx_unpatch(&model);
            double difference = relative_error(patched, expected, count);
            if (difference > 1e-5) fail_msg("%s, %d tokens: %g", modules[i]->path, tokens[j], difference);
            free(expected);
            free(patched);
        }
    }
}

/* One scale of one matrix, off by 1 %: seen in the output. */
static void test_wrong_weight_is_seen(void **state) {
    (void)state;
    zm_linear *wrong[] = {tree.swiglu->gate_proj, tree.geglu->down_proj, tree.moe[0]->experts->up_proj,
                          tree.moe[3]->experts->down_proj, tree.head};
    zm_module *modules[] = {&tree.swiglu->base, &tree.geglu->base, &tree.moe[0]->base, &tree.moe[3]->base,
                            &tree.head->base};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        size_t count;
        float *expected = output_of(modules[i], 1, 16, 5, &count);
        patch(NULL);
        mlx_array *slot = &wrong[i]->weight.scales, right = mlx_array_new();
        mlx_array_set(&right, *slot);
        zm_scope scope;
        zm_scope_begin(&scope, model.stream);
        zm_scope_keep(&scope, slot, zm_multiply(&scope, right, zm_scalar(&scope, 1.01, MLX_FLOAT32)));
        end_scope(&scope);
        float *patched = output_of(modules[i], 1, 16, 5, &count);
        assert_true(relative_error(patched, expected, count) > 1e-3);
        mlx_array_set(slot, right);
        mlx_array_free(right);
        zmlx_unpatch(&model);
        free(expected);
        free(patched);
    }
}

static int n_original_calls;

static mlx_array counted_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    n_original_calls++;
    return zm_standard_forward(self->kind)(self, scope, x, call);
}

/* Calls of module that reach the original forward, for an input of n_rows * n_columns tokens. */
static int original_calls(zm_module *module, int n_rows, int n_columns) {
    zm_patch_state *patch_state = module->patch_state;
    zm_forward original = patch_state->original;
    size_t count;
    n_original_calls = 0;
    patch_state->original = counted_forward;
    free(output_of(module, n_rows, n_columns, 3, &count));
    patch_state->original = original;
    return n_original_calls;
}

static void test_guard_counts_tokens(void **state) {
    (void)state;
    zm_module *modules[N_PATCHED];
    size_t n_modules = patched_modules(modules, NULL), count;
    for (size_t i = 0; i < n_modules; i++) {
        float *expected = output_of(modules[i], 1, 33, 3, &count);
        patch(NULL);
        assert_int_equal(original_calls(modules[i], 1, 33), 0); /* without a limit */
        zmlx_unpatch(&model);
        patch(&(zmlx_patch_options){.max_fused_tokens = 32});
        assert_int_equal(original_calls(modules[i], 1, 32), 0);
        assert_int_equal(original_calls(modules[i], 1, 33), 1);
        bool one_sequence = modules[i]->kind == ZM_MODULE_SHORT_CONV; /* is all it serves */
        assert_int_equal(original_calls(modules[i], 2, 16), one_sequence);
        assert_int_equal(original_calls(modules[i], 3, 11), 1);
        float *above = output_of(modules[i], 1, 33, 3, &count);
        assert_memory_equal(above, expected, count * sizeof *above);
        zmlx_unpatch(&model);
        free(expected);
        free(above);
    }
    patch(&(zmlx_patch_options){.max_fused_tokens = 4});
    assert_int_equal(original_calls(&tree.moe[2]->base, 1, 4), 0);
    assert_int_equal(original_calls(&tree.moe[2]->base, 1, 5), 1);
    zmlx_unpatch(&model);
    patch(&(zmlx_patch_options){.max_fused_tokens = -1});
    assert_int_equal(original_calls(&tree.moe[2]->base, 1, 1), 1);
}

static void test_other_types_take_the_original(void **state) {
    (void)state;
    patch(NULL);
    zm_scope scope;
    zm_scope_begin(&scope, model.stream);
    static const int shape[2] = {1, HIDDEN};
    static const mlx_dtype others[] = {MLX_FLOAT16, MLX_BFLOAT16, MLX_FLOAT64, MLX_INT32, MLX_COMPLEX64};
    assert_true(zm_patch_serves_call(&tree.swiglu->base, zm_zeros(&scope, shape, 2, MLX_FLOAT32)));
    for (int i = 0; i < 5; i++)
        assert_false(zm_patch_serves_call(&tree.swiglu->base, zm_zeros(&scope, shape, 2, others[i])));
    assert_false(zm_patch_serves_call(&tree.swiglu->base, (mlx_array){0}));
    end_scope(&scope);
}

static void test_unpatch_is_exact(void **state) {
    (void)state;
    zm_module *modules[N_PATCHED];
    size_t n_modules = patched_modules(modules, NULL), count;
    for (size_t i = 0; i < n_modules; i++) {
        float *expected = output_of(modules[i], 1, 3, 11, &count);
        for (int round = 0; round < 2; round++) {
            patch(NULL);
            assert_ptr_not_equal(modules[i]->forward, zm_standard_forward(modules[i]->kind));
            zmlx_unpatch(&model);
            assert_int_equal(n_patched(), 0);
            assert_null(zmlx_patch_get_report(&model));
            assert_null(model.patch_record);
            assert_null(model.patch_free);
            float *after = output_of(modules[i], 1, 3, 11, &count);
            assert_memory_equal(after, expected, count * sizeof *after);
            free(after);
        }
        free(expected);
    }
    zmlx_unpatch(&model);
    zmlx_unpatch(NULL);
}

static void test_twice_changes_nothing(void **state) {
    (void)state;
    patch(NULL);
    void *before = tree.moe[0]->base.patch_state;
    const zmlx_patch_report *report = patch(NULL);
    assert_int_equal(report->patched_count, 0);
    assert_int_equal(report->n_notes, 1);
    assert_ptr_equal(tree.moe[0]->base.patch_state, before);
    assert_int_equal(n_patched(), N_PATCHED);
    zmlx_unpatch(&model);
    assert_int_equal(n_patched(), 0);
}

static void test_dry_run_changes_nothing(void **state) {
    (void)state;
    const zmlx_patch_report *report = patch(&(zmlx_patch_options){.dry_run = true});
    assert_int_equal(report->patched_count, N_PATCHED);
    assert_int_equal(n_patched(), 0);
    assert_null(zmlx_patch_get_report(&model));
    const zmlx_patch_report *real = patch_only("swiglu_mlp");
    report = patch(&(zmlx_patch_options){.dry_run = true});
    assert_int_equal(report->patched_count, 8);
    assert_int_equal(n_patched(), 2);
    assert_ptr_equal(zmlx_patch_get_report(&model), real);
    zmlx_unpatch(&model);
}

static void test_unknown_names_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"swiglu_mlp", "swiglu"};
    zmlx_patch_options wrong_pattern = {.patterns = names, .n_patterns = 2};
    zmlx_patch_options wrong_exclude = {.exclude = names, .n_exclude = 2};
    const zmlx_patch_report *report = (const zmlx_patch_report *)&tree;
    assert_int_equal(zmlx_patch(&report, &model, &wrong_pattern, &error), ZMLX_ERROR_ARGUMENT);
    assert_null(report);
    assert_string_equal(error.message, "unknown pattern 'swiglu'; known are: swiglu_mlp, geglu_mlp, moe_mlp, "
                                       "short_conv, delta_net, attention, rmsnorm, quantized_linear, "
                                       "lm_head, decoder_block, add_rms_norm, decode, prompt");
    assert_int_equal(zmlx_patch(&report, &model, &wrong_exclude, &error), ZMLX_ERROR_ARGUMENT);
    static const char *const others[] = {"layernorm"};
    zmlx_patch_options other_name = {.patterns = others, .n_patterns = 1};
    assert_int_equal(zmlx_patch(&report, &model, &other_name, &error), ZMLX_ERROR_ARGUMENT);
    assert_ptr_equal(strstr(error.message, "unknown pattern 'layernorm' (no family here has layer norms); known are: "),
                     error.message);
    assert_int_equal(n_patched(), 0);
}

static void test_choice_of_patterns(void **state) {
    (void)state;
    static const char *const excluded[] = {"moe_mlp", "quantized_linear"};
    static const char *const doubled[] = {"moe_mlp", "geglu_mlp", "moe_mlp"};
    assert_int_equal(patch(&(zmlx_patch_options){.exclude = excluded, .n_exclude = 2})->patched_count, 5);
    zmlx_unpatch(&model);
    const zmlx_patch_report *report = patch(&(zmlx_patch_options){.patterns = doubled, .n_patterns = 3});
    assert_int_equal(report->n_patterns, 2);
    assert_string_equal(report->patterns[0], "moe_mlp");
    assert_int_equal(report->patched_count, 5);
    assert_int_equal(report->n_notes, 0);
    zmlx_unpatch(&model);
    report = patch(&(zmlx_patch_options){.patterns = doubled, .n_patterns = 0});
    assert_int_equal(report->patched_count, 0);
    assert_int_equal(report->n_patterns, 0);
    char *text = zmlx_patch_report_text(report, false);
    assert_string_equal(text, "[zmlx.patch] Applying 0 patterns: []\nPatched 0 modules:\n");
    free(text);
}

static void expect_nothing_by_default(const char *note) {
    const zmlx_patch_report *report = patch(NULL);
    assert_int_equal(report->patched_count, 0);
    assert_int_equal(report->n_patterns, 0);
    assert_int_equal(report->n_notes, 1);
    assert_string_equal(report->notes[0], note);
    zmlx_unpatch(&model);
}

#define ALL_PATTERNS \
    "['swiglu_mlp', 'geglu_mlp', 'moe_mlp', 'short_conv', 'delta_net', 'attention', 'rmsnorm', 'quantized_linear', " \
    "'lm_head', 'decoder_block', 'add_rms_norm']"
#define OVERRIDE \
    "Override with --patterns " \
    "swiglu_mlp,geglu_mlp,moe_mlp,short_conv,delta_net,attention,rmsnorm,quantized_linear,lm_head,decoder_block," \
    "add_rms_norm"
#define HALF_PRECISION \
    "not proven in this type: MLX's CPU kernels accumulate in it, so equal tokens cannot be promised"

static void test_only_proven_by_default(void **state) {
    (void)state;
    static const zm_family other = {.model_type = "other", .group = "other"};
    model.dtype = MLX_BFLOAT16;
    expect_nothing_by_default("[zmlx.patch] lfm model detected — excluded " ALL_PATTERNS " (" HALF_PRECISION
                              "). " OVERRIDE);
    const zmlx_patch_report *report = patch_only("moe_mlp");
    assert_int_equal(report->patched_count, 4);
    assert_string_equal(report->notes[0],
                        "[zmlx.patch] WARNING: ['moe_mlp'] on this lfm model: " HALF_PRECISION
                        ". Check with: zmlx validate MODEL --patterns moe_mlp --dtype bfloat16");
    zmlx_unpatch(&model);
    model.dtype = MLX_FLOAT32;
    model.family = &other;
    expect_nothing_by_default("[zmlx.patch] other model detected — excluded " ALL_PATTERNS
                              " (not proven for this family). " OVERRIDE);
    model.family = NULL;
    expect_nothing_by_default("[zmlx.patch] unknown model family: left alone. Override with --patterns P1,P2");
    assert_int_equal(patch_only("moe_mlp")->patched_count, 4);
    zmlx_unpatch(&model);
    /* A llama by another name. */
    model.family = zm_family_find("mistral");
    report = patch(NULL);
    assert_int_equal(report->patched_count, N_PATCHED);
    assert_int_equal(report->n_notes, 0);
    zmlx_unpatch(&model);
    model.device = ZMLX_DEVICE_GPU;
    expect_nothing_by_default(
        "[zmlx.patch] llama model detected — excluded ['decode', 'prompt'] (not proven for this family). "
        "Override with --patterns decode,prompt");
    strcpy(model.mlx_version, "0.1.2");
    report = patch(NULL);
    assert_int_equal(report->n_patterns, 0);
    assert_non_null(strstr(report->notes[0], "excluded ['decode', 'prompt'] (proven with MLX "));
    zmlx_unpatch(&model);
    report = patch_only("moe_mlp");
    assert_int_equal(report->patched_count, 0);
    assert_string_equal(report->notes[0], "[zmlx.patch] WARNING: ['moe_mlp'] not applied to this llama model "
                                          "(no kernels for this device).");
}

/* Arrays and parts that change after patching count. */
static void test_reads_current_parameters(void **state) {
    (void)state;
    size_t count;
    patch(NULL);
    free(output_of(&tree.moe[0]->base, 1, 4, 5, &count));
    int shape[1] = {N_EXPERTS};
    mlx_array bias = random_array(shape, 1, 1234, 2.0f);
    mlx_array_set(&tree.moe[0]->expert_bias, bias);
    mlx_array_free(bias);
    mlx_array_set(&tree.moe[0]->experts->up_proj->weight.scales,
                  tree.moe[0]->experts->gate_proj->weight.scales);
    tree.moe[0]->top_k = 2;
    float *patched = output_of(&tree.moe[0]->base, 1, 4, 5, &count);
    zmlx_unpatch(&model);
    float *expected = output_of(&tree.moe[0]->base, 1, 4, 5, &count);
    assert_true(relative_error(patched, expected, count) < 1e-5);
    free(patched);
    free(expected);
}

/* An adapter around a part, added after patching, is honoured; a module that has one is not patched. */
static void test_adapters(void **state) {
    (void)state;
    size_t count;
    zm_module *part = &tree.swiglu->up_proj->base;
    patch_only("swiglu_mlp");
    part->forward = doubling_forward;
    float *patched = output_of(&tree.swiglu->base, 1, 4, 5, &count);
    zmlx_unpatch(&model);
    float *expected = output_of(&tree.swiglu->base, 1, 4, 5, &count);
    assert_memory_equal(patched, expected, count * sizeof *patched);
    const zmlx_patch_report *report = patch_only("swiglu_mlp");
    assert_int_equal(report->patched_count, 1);
    assert_int_equal(report->skipped_count, 1);
    assert_string_equal(report->entries[0].reason, "a projection has a forward of its own");
    zmlx_unpatch(&model);
    part->forward = zm_standard_forward(part->kind);
    free(patched);
    free(expected);
}

/* Linear maps first: the MLPs around them are patched all the same, and everything is undone. */
static void test_nested_patches(void **state) {
    (void)state;
    static const char *const order[] = {"quantized_linear", "swiglu_mlp", "moe_mlp"};
    size_t count;
    float *expected = output_of(&tree.swiglu->base, 1, 40, 5, &count);
    const zmlx_patch_report *report = patch(
        &(zmlx_patch_options){.patterns = order, .n_patterns = 3, .max_fused_tokens = 32});
    assert_non_null(tree.swiglu->up_proj->base.patch_state);
    assert_non_null(tree.swiglu->base.patch_state);
    assert_non_null(tree.moe[0]->router->base.patch_state);
    /* 3 + 3 + 2 projections, 3 quantised routers, the head; 2 MLPs; 4 mixtures. */
    assert_int_equal(report->patched_count, 18);
    float *above = output_of(&tree.swiglu->base, 1, 40, 5, &count);
    assert_memory_equal(above, expected, count * sizeof *above);
    zmlx_unpatch(&model);
    assert_int_equal(n_patched(), 0);
    free(expected);
    free(above);
}

static void test_root_is_examined(void **state) {
    (void)state;
    zm_gated_mlp *mlp = new_mlp(NULL, "", ZM_ACTIVATION_SWIGLU, 4);
    model.root = (zm_causal_lm *)&mlp->base;
    const zmlx_patch_report *report = patch(NULL);
    assert_int_equal(report->patched_count, 1);
    char *text = zmlx_patch_report_text(report, true);
    assert_non_null(strstr(text, "  [zmlx.patch] (root): swiglu_mlp\n"));
    assert_non_null(strstr(text, "Patched 1 module:\n"));
    free(text);
    zmlx_unpatch(&model);
    zm_module_release(&mlp->base);
    model.root = &tree.root;
}

/* Two calls on one cache: 5 tokens, then 1. The caller frees. */
static float *with_cache(bool patched_first, bool patched_then, size_t *count, int *offset) {
    zm_module *module = &tree.conv->base;
    zm_cache cache;
    zm_cache_init(&cache, ZM_CACHE_ARRAY, 0);
    zm_call call = {.mask = {.mode = ""}, .cache = &cache};
    mlx_array y = {0};
    int shape[3] = {1, 5, HIDDEN};
    for (int i = 0; i < 2; i++) {
        if (i ? patched_then : patched_first) patch(NULL);
        shape[1] = i ? 1 : 5;
        zm_scope scope;
        zm_scope_begin(&scope, model.stream);
        mlx_array x = zm_scope_own(&scope, random_array(shape, 3, 70 + (uint32_t)i, 1.5f));
        zm_scope_keep(&scope, &y, zm_contiguous(&scope, zm_module_call(module, &scope, x, &call)));
        end_scope(&scope);
        assert_int_equal(mlx_array_eval(y), 0);
        zmlx_unpatch(&model);
    }
    *offset = cache.offset;
    *count = mlx_array_size(y);
    float *copy = malloc(*count * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, mlx_array_data_float32(y), *count * sizeof *copy);
    mlx_array_free(y);
    zm_cache_release(&cache);
    return copy;
}

/* Patched and standard convolutions keep the same state, so a sequence may change between them. */
static void test_convolution_state(void **state) {
    (void)state;
    size_t count;
    int offset;
    float *expected = with_cache(false, false, &count, &offset);
    assert_int_equal(offset, 6);
    for (int i = 1; i < 4; i++) {
        float *mixed = with_cache(i & 1, i & 2, &count, &offset);
        assert_int_equal(offset, 6);
        assert_true(relative_error(mixed, expected, count) < 1e-5);
        free(mixed);
    }
    free(expected);
}

static void test_list_of_patterns(void **state) {
    (void)state;
    size_t count;
    const zmlx_pattern_info *list = zmlx_pattern_list(&count);
    assert_int_equal(count, ZM_PATTERN_COUNT);
    for (size_t i = 0; i < count; i++) {
        assert_ptr_equal(zm_patch_pattern_find(list[i].name), zm_patch_pattern_at(i));
        assert_true(strlen(list[i].summary) > 5);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_tree, close_model)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_replaces_and_reports),
        TEST(test_outputs),
        TEST(test_wrong_weight_is_seen),
        TEST(test_guard_counts_tokens),
        TEST(test_other_types_take_the_original),
        TEST(test_unpatch_is_exact),
        TEST(test_twice_changes_nothing),
        TEST(test_dry_run_changes_nothing),
        TEST(test_unknown_names_are_refused),
        TEST(test_choice_of_patterns),
        TEST(test_only_proven_by_default),
        TEST(test_reads_current_parameters),
        TEST(test_adapters),
        TEST(test_nested_patches),
        TEST(test_root_is_examined),
        TEST(test_convolution_state),
        TEST(test_list_of_patterns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
