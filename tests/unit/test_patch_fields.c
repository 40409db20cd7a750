/* SPDX-License-Identifier: MIT */
/* Patterns match on declared fields: each one, set to something a pattern does not know, is a refusal. */
#include "module_testing.h"
#include "patch/patterns/parts.h"

static void expect_refused(const char *pattern, const zm_module *module, const char *expected) {
    const char *reason = NULL;
    zm_match match = zm_patch_pattern_find(pattern)->match(module, &reason);
    assert_int_equal(match, expected ? ZM_MATCH_REFUSED : ZM_MATCH_NO);
    if (expected) assert_string_equal(reason, expected);
}

/* By a call that asks for every pattern. */
static void expect_listed_once(const char *path, const char *reason) {
    const zmlx_patch_report *report;
    zmlx_error error;
    check(zmlx_patch(&report, &model, NULL, &error), &error);
    int n_listed = 0;
    for (size_t i = 0; i < report->n_entries; i++) {
        if (strcmp(report->entries[i].path, path)) continue;
        assert_string_equal(report->entries[i].reason, reason);
        n_listed++;
    }
    assert_int_equal(n_listed, 1);
    zmlx_unpatch(&model);
}

static void test_fields_of_gated_mlps(void **state) {
    (void)state;
    zm_gated_mlp *mlp = tree.swiglu;
    expect_refused("swiglu_mlp", &tree.geglu->base, NULL);
    expect_refused("geglu_mlp", &tree.swiglu->base, NULL);
    expect_refused("swiglu_mlp", &tree.moe[0]->base, NULL);
    expect_refused("moe_mlp", &tree.swiglu->base, NULL);
    mlp->activation = ZM_ACTIVATION_SWIGLU_OAI;
    expect_refused("swiglu_mlp", &mlp->base, "no pattern serves its activation");
    mlp->activation = (zm_activation)17;
    expect_refused("swiglu_mlp", &mlp->base, "no pattern serves its activation");
    expect_refused("geglu_mlp", &mlp->base, NULL);
    expect_listed_once(mlp->base.path, "no pattern serves its activation");
    mlp->activation = ZM_ACTIVATION_SWIGLU;
    zm_linear *down = mlp->down_proj;
    mlp->down_proj = mlp->up_proj;
    expect_refused("swiglu_mlp", &mlp->base, "its projections do not fit together");
    mlp->down_proj = tree.odd;
    expect_refused("swiglu_mlp", &mlp->base, "nvfp4 weights have no CPU kernel");
    mlp->down_proj = tree.moe[0]->experts->down_proj;
    expect_refused("swiglu_mlp", &mlp->base, "a projection is missing or not a linear map");
    mlp->down_proj = NULL;
    expect_refused("swiglu_mlp", &mlp->base, "a projection is missing or not a linear map");
    mlp->down_proj = down;
    mlp->base.forward = doubling_forward;
    expect_refused("swiglu_mlp", &mlp->base, "it has a forward of its own");
    mlp->base.forward = zm_standard_forward(mlp->base.kind);
}

static void test_fields_of_mixtures(void **state) {
    (void)state;
    zm_moe right = *tree.moe[1], moe = right;
    zm_switch_glu experts = *right.experts;
#define REFUSES(change, reason)                       \
    do {                                              \
        change;                                       \
        expect_refused("moe_mlp", &moe.base, reason); \
        moe = right;                                  \
        experts = *right.experts;                     \
    } while (0)
    REFUSES(moe.gating = (zm_gating)9, "its gating is not known");
    REFUSES(moe.expert_bias = tree.moe[0]->expert_bias, "an expert bias does not belong to its gating");
    REFUSES(moe.routed_scaling_factor = 2, "a scaling factor or an epsilon does not belong to its gating");
    REFUSES(moe.normalize_epsilon = 1e-6f, "a scaling factor or an epsilon does not belong to its gating");
    REFUSES(moe.n_groups = 2, "its groups of experts do not fit its gating");
    REFUSES(moe.gating = ZM_GATING_SIGMOID_GROUPS, "its groups of experts do not fit its gating");
    REFUSES(moe.shared_experts = tree.geglu, "its shared experts are of another kind or have another activation");
    REFUSES((moe.shared_experts = tree.swiglu, moe.shared_router = tree.plain),
            "its shared experts have another router");
    REFUSES((moe.shared_experts = tree.swiglu, moe.shared_router = tree.odd), "nvfp4 weights have no CPU kernel");
    REFUSES(moe.top_k = 0, "its number of experts per token is out of range");
    REFUSES(moe.top_k = N_EXPERTS + 1, "its number of experts per token is out of range");
    REFUSES(moe.router = tree.plain, "its router has another number of experts");
    REFUSES(moe.router = NULL, "a projection is missing or not a linear map");
    REFUSES(moe.experts = NULL, "its experts are missing or of another kind");
    REFUSES((moe.experts = &experts, experts.activation = (zm_activation)5),
            "its experts' activation is not known");
    REFUSES((moe.experts = &experts, experts.up_proj = experts.down_proj),
            "its projections do not fit together");
    REFUSES((moe.experts = &experts, experts.up_proj = tree.plain),
            "a projection is missing or not a linear map");
    REFUSES(moe.base.forward = doubling_forward, "it has a forward of its own");
#undef REFUSES
    const char *reason;
    assert_int_equal(zm_patch_moe_mlp_match(&moe.base, &reason), ZM_MATCH_YES);
    moe.shared_experts = tree.swiglu;
    moe.gating = ZM_GATING_SIGMOID_GROUPS, moe.n_groups = moe.top_groups = 1;
    assert_int_equal(zm_patch_moe_mlp_match(&moe.base, &reason), ZM_MATCH_YES);
}

static void test_fields_of_linear_maps(void **state) {
    (void)state;
    expect_refused("quantized_linear", &tree.plain->base, NULL);
    expect_refused("quantized_linear", &tree.moe[0]->experts->up_proj->base, NULL);
    expect_refused("quantized_linear", &tree.odd->base, "nvfp4 weights have no CPU kernel");
    tree.head->base.forward = doubling_forward;
    expect_refused("quantized_linear", &tree.head->base, "it has a forward of its own");
    tree.head->base.forward = zm_standard_forward(ZM_MODULE_LINEAR);
}

static void test_fields_of_convolutions_and_norms(void **state) {
    (void)state;
    zm_depthwise_conv *conv = tree.conv->conv;
    zm_module *module = &tree.conv->base;
    conv->taps = 1;
    expect_refused("short_conv", module, "its convolution is of another kind");
    conv->taps = 3;
    conv->base.forward = doubling_forward;
    expect_refused("short_conv", module, "its convolution is of another kind");
    conv->base.forward = zm_standard_forward(ZM_MODULE_CONV1D);
    tree.conv->conv = NULL;
    expect_refused("short_conv", module, "its convolution is of another kind");
    tree.conv->conv = conv;
    tree.conv->hidden_size = HIDDEN / 2;
    expect_refused("short_conv", module, "its projections do not fit together");
    tree.conv->hidden_size = HIDDEN;
    module->forward = doubling_forward;
    expect_refused("short_conv", module, "it has a forward of its own");
    module->forward = zm_standard_forward(ZM_MODULE_SHORT_CONV);
    expect_refused("short_conv", &tree.norm->base, NULL);
    expect_refused("rmsnorm", module, NULL);
    mlx_array weight = tree.norm->weight;
    tree.norm->weight = (mlx_array){0};
    expect_refused("rmsnorm", &tree.norm->base, "it has no weight");
    tree.norm->weight = weight;
    tree.norm->base.forward = doubling_forward;
    expect_refused("rmsnorm", &tree.norm->base, "it has a forward of its own");
    tree.norm->base.forward = zm_standard_forward(ZM_MODULE_RMS_NORM);
}

/* A module with one change is refused; then it is right again. */
#define REFUSES_CHANGED(pattern, module, right, change, reason) \
    do {                                                        \
        change;                                                 \
        expect_refused(pattern, &(module).base, reason);        \
        (module) = (right);                                     \
    } while (0)

/* An attention of 4 heads of 16 on 2 of keys and values; only the projections' declared sizes count. */
static void test_fields_of_attention(void **state) {
    (void)state;
    zm_linear q = *tree.plain, k = *tree.plain, v = *tree.plain, o = *tree.plain;
    zm_norm norm = *tree.norm;
    q.weight.out_features = o.weight.in_features = 64;
    k.weight.out_features = v.weight.out_features = 32;
    zm_attention right = {.base = {.kind = ZM_MODULE_ATTENTION, .path = "attention"},
                          .q_proj = &q, .k_proj = &k, .v_proj = &v, .o_proj = &o, .q_norm = &norm,
                          .n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .scale = 0.25f, .rope = {.dims = 16}};
    right.base.forward = zm_standard_forward(ZM_MODULE_ATTENTION);
    zm_attention attention = right;
#define REFUSES(change, reason) REFUSES_CHANGED("attention", attention, right, change, reason)
    const char *reason;
    assert_int_equal(zm_patch_attention_match(&right.base, &reason), ZM_MATCH_YES);
    REFUSES(attention.base.forward = doubling_forward, "it has a forward of its own");
    REFUSES(attention.v_proj = NULL, "a projection is missing or not a linear map");
    REFUSES(attention.k_proj = &q, "its projections do not fit together");
    REFUSES(attention.has_output_gate = true, "its projections do not fit together");
    REFUSES(attention.head_dim = 12, "its head size is not a multiple of 16 up to 1024");
    REFUSES(attention.n_kv_heads = 3, "its heads do not fit together");
    REFUSES(attention.rope.dims = 18, "its rotation is not known");
    norm.base.forward = doubling_forward;
    REFUSES((void)0, "a norm of its heads is of another kind");
#undef REFUSES
    expect_refused("attention", &tree.norm->base, NULL);
}

/* A delta net of 2 key heads and 4 value heads of 16; only the projections' declared sizes count. */
static void test_fields_of_delta_nets(void **state) {
    (void)state;
    zm_linear qkvz = *tree.plain, ba = *tree.plain, out = *tree.plain;
    zm_depthwise_conv conv = *tree.conv->conv;
    mlx_array vector = tree.norm->weight;
    qkvz.weight.out_features = 192, ba.weight.out_features = 8, out.weight.in_features = 64;
    conv.channels = 128, conv.taps = 4, conv.bias = (mlx_array){NULL};
    zm_delta_net right = {.base = {.kind = ZM_MODULE_DELTA_NET, .path = "delta_net"}, .in_proj = {&qkvz, &ba},
                          .n_in_proj = 2, .out_proj = &out, .conv = &conv, .A_log = vector, .dt_bias = vector,
                          .norm = tree.norm, .n_k_heads = 2, .n_v_heads = 4, .head_k_dim = 16, .head_v_dim = 16};
    right.base.forward = zm_standard_forward(ZM_MODULE_DELTA_NET);
    zm_delta_net net = right;
#define REFUSES(change, reason) REFUSES_CHANGED("delta_net", net, right, change, reason)
    const char *reason;
    assert_int_equal(zm_patch_delta_net_match(&right.base, &reason), ZM_MATCH_YES);
    REFUSES(net.base.forward = doubling_forward, "it has a forward of its own");
    REFUSES(net.n_in_proj = 3, "its projections are of another kind");
    REFUSES(net.in_proj[1] = NULL, "a projection is missing or not a linear map");
    REFUSES(net.in_proj[1] = &out, "its projections do not fit together");
    REFUSES(net.head_k_dim = 12, "the size of its key heads is no multiple of 16");
    REFUSES(net.n_v_heads = 3, "its heads do not fit together");
    REFUSES(net.A_log = (mlx_array){NULL}, "its decay is missing");
    REFUSES(net.norm = NULL, "the norm of its heads is of another kind");
    conv.taps = 1;
    REFUSES((void)0, "its convolution is of another kind");
#undef REFUSES
    expect_refused("delta_net", &tree.norm->base, NULL);
}

/* 2 heads of 32 and 16 rotated features on a latent of 32. */
static void test_fields_of_latent_attention(void **state) {
    (void)state;
    zm_linear q = *tree.plain, kv = *tree.plain, o = *tree.plain, map = *tree.plain;
    zm_norm norm = *tree.norm;
    q.weight.out_features = 2 * 48;
    kv.weight.out_features = 48;
    o.weight.in_features = 2 * 32;
    map.base.kind = ZM_MODULE_MULTI_LINEAR;
    map.base.forward = zm_standard_forward(ZM_MODULE_MULTI_LINEAR);
    map.weight.in_features = map.weight.out_features = 32;
    map.weight.n_experts = 2;
    zm_latent_attention right = {.base = {.kind = ZM_MODULE_LATENT_ATTENTION, .path = "attention"},
                                 .q_proj = &q, .kv_a_proj_with_mqa = &kv, .kv_a_layernorm = &norm, .embed_q = &map,
                                 .unembed_out = &map, .o_proj = &o, .n_heads = 2, .kv_lora_rank = 32,
                                 .qk_nope_head_dim = 32, .qk_rope_head_dim = 16, .v_head_dim = 32, .scale = 0.25};
    right.base.forward = zm_standard_forward(ZM_MODULE_LATENT_ATTENTION);
    zm_latent_attention attention = right;
#define REFUSES(change, reason) REFUSES_CHANGED("attention", attention, right, change, reason)
    const char *reason;
    assert_int_equal(zm_patch_attention_match(&right.base, &reason), ZM_MATCH_YES);
    REFUSES(attention.base.forward = doubling_forward, "it has a forward of its own");
    REFUSES(attention.q_proj = NULL, "a projection is missing or not a linear map");
    REFUSES(attention.q_proj = &kv, "its projections do not fit together");
    REFUSES(attention.kv_a_layernorm = NULL, "a norm is missing or of another kind");
    REFUSES(attention.embed_q = &q, "a map of its heads is missing or of another kind");
    REFUSES(attention.unembed_out = NULL, "a map of its heads is missing or of another kind");
    REFUSES(attention.v_head_dim = 64, "a map of its heads is missing or of another kind");
    q.weight.out_features = 2 * 40, kv.weight.out_features = 40;
    REFUSES(attention.qk_rope_head_dim = 8, "its latent and rotated features are together no multiple of 16");
#undef REFUSES
    expect_refused("quantized_linear", &map.base, NULL);
}

static void test_fields_of_heads(void **state) {
    (void)state;
    zm_greedy_head head = {.base = {.kind = ZM_MODULE_GREEDY_HEAD, .path = "greedy_head"}, .lm_head = tree.head};
    head.base.forward = zm_standard_forward(ZM_MODULE_GREEDY_HEAD);
    const char *reason;
    assert_int_equal(zm_patch_lm_head_match(&head.base, &reason), ZM_MATCH_YES);
    head.lm_head = tree.odd;
    expect_refused("lm_head", &head.base, "nvfp4 weights have no CPU kernel");
    head.lm_head = NULL;
    expect_refused("lm_head", &head.base, "a projection is missing or not a linear map");
    head.base.forward = doubling_forward;
    expect_refused("lm_head", &head.base, "it has a forward of its own");
    expect_refused("lm_head", &tree.head->base, NULL);
}

static void test_fields_of_blocks(void **state) {
    (void)state;
    zm_block right = {.base = {.kind = ZM_MODULE_BLOCK, .path = "block"},
                      .operator_norm = tree.norm, .feed_forward_norm = tree.norm,
                      .operator = &tree.conv->base, .feed_forward = &tree.swiglu->base};
    right.base.forward = zm_standard_forward(ZM_MODULE_BLOCK);
    zm_block block = right;
    zm_gated_mlp mlp = *tree.swiglu;
    const char *reason;
    assert_int_equal(zm_patch_decoder_block_match(&right.base, &reason), ZM_MATCH_YES);
    right.feed_forward = &tree.moe[0]->base;
    assert_int_equal(zm_patch_decoder_block_match(&right.base, &reason), ZM_MATCH_YES);
#define REFUSES(change, why) REFUSES_CHANGED("decoder_block", block, right, change, why)
    REFUSES(block.base.forward = doubling_forward, "it has a forward of its own");
    REFUSES(block.operator_norm = NULL, "a norm is missing or of another kind");
    REFUSES(block.operator = &tree.plain->base, "its operator is missing or of another kind");
    REFUSES(block.operator = NULL, "its operator is missing or of another kind");
    REFUSES(block.feed_forward = &tree.plain->base, "its feed-forward part is missing or of another kind");
    mlp.activation = ZM_ACTIVATION_SWIGLU_OAI;
    REFUSES(block.feed_forward = &mlp.base, "no pattern serves its activation");
    tree.conv->conv->taps = 1;
    REFUSES((void)0, "its convolution is of another kind");
    tree.conv->conv->taps = 3;
#undef REFUSES
    expect_refused("decoder_block", &tree.conv->base, NULL);
    assert_int_equal(zm_patch_add_rms_norm_match(&block.base, &reason), ZM_MATCH_YES);
    block.operator = NULL;
    expect_refused("add_rms_norm", &block.base, "a part of it is missing");
    block.feed_forward_norm = NULL;
    expect_refused("add_rms_norm", &block.base, "a norm is missing or of another kind");
    block.base.forward = doubling_forward;
    expect_refused("add_rms_norm", &block.base, "it has a forward of its own");
}

static void set_mxfp4(zm_linear *linear, int in, int out) {
    static const uint8_t scales[1] = {127};
    mlx_array_free(linear->weight.scales);
    linear->weight.scales = mlx_array_new_data(scales, (const int[]){1}, 1, MLX_UINT8);
    linear->weight.quantization = (zm_quantization){32, 4, "mxfp4"};
    linear->weight.in_features = in;
    linear->weight.out_features = out;
}

static void set_dtype(mlx_array *array, mlx_dtype dtype) {
    assert_int_equal(mlx_astype(array, *array, dtype, model.stream), 0);
}

/* What the kernels for prompts compute in is said by the weights; in mxfp4 by their bias, and without one it is
 * bfloat16. */
static void test_types_of_prompts(void **state) {
    (void)state;
    static const char other_type[] = "its weights are not of the model's type, or mxfp4 without a bias in another "
                                     "than bfloat16";
    static const char no_cuda[] = "needs an MLX with CUDA and a GPU of compute capability 9.0";
    zm_decoder decoder = {.norm = tree.norm};
    tree.root.decoder = &decoder;
    zm_switch_glu *experts = tree.moe[3]->experts;
    set_mxfp4(experts->gate_proj, 512, 576);
    set_mxfp4(experts->up_proj, 512, 576);
    set_mxfp4(experts->down_proj, 576, 520);
    set_dtype(&tree.norm->weight, MLX_FLOAT16);
    expect_refused("prompt", &tree.moe[3]->base, other_type);
    set_dtype(&tree.head->weight.scales, MLX_BFLOAT16);
    set_dtype(&tree.head->weight.biases, MLX_BFLOAT16);
    expect_refused("prompt", &tree.head->base, other_type);
    set_dtype(&tree.norm->weight, MLX_BFLOAT16);
    const zm_module *served[] = {&tree.moe[3]->base, &tree.head->base};
    for (size_t i = 0; i < 2; i++) {
        const char *reason = NULL;
        if (zm_patch_prompt_match(served[i], &reason) != ZM_MATCH_YES) assert_string_equal(reason, no_cuda);
    }
    expect_refused("prompt", &tree.norm->base, NULL);
}

/* For the decode kernels of a CUDA device. */
static void test_fields_of_mixtures_for_one_token(void **state) {
    (void)state;
    zm_moe *moe = tree.moe[0];
    zm_linear *const linears[] = {moe->router, moe->experts->gate_proj, moe->experts->up_proj, moe->experts->down_proj};
    for (size_t i = 0; i < 4; i++) {
        set_dtype(&linears[i]->weight.scales, MLX_BFLOAT16);
        set_dtype(&linears[i]->weight.biases, MLX_BFLOAT16);
    }
    moe->experts->gate_proj->weight.out_features = moe->experts->up_proj->weight.out_features =
        moe->experts->down_proj->weight.in_features = 128;
    const char *reason = NULL;
    if (!zm_patch_serves_one_token_moe(moe, &reason)) fail_msg("%s", reason);
    set_dtype(&moe->expert_bias, MLX_FLOAT16);
    assert_false(zm_patch_serves_one_token_moe(moe, &reason));
    assert_string_equal(reason, "its expert bias is not float32");
    set_dtype(&moe->expert_bias, MLX_FLOAT32);
    moe->top_k = 9;
    assert_false(zm_patch_serves_one_token_moe(moe, &reason));
    assert_string_equal(reason, "a token has more than 8 experts, or there are more than 256");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_tree, close_model)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_fields_of_gated_mlps),
        TEST(test_fields_of_mixtures),
        TEST(test_fields_of_linear_maps),
        TEST(test_fields_of_attention),
        TEST(test_fields_of_delta_nets),
        TEST(test_fields_of_latent_attention),
        TEST(test_fields_of_blocks),
        TEST(test_types_of_prompts),
        TEST(test_fields_of_mixtures_for_one_token),
        TEST(test_fields_of_heads),
        TEST(test_fields_of_convolutions_and_norms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
