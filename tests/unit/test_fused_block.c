/* SPDX-License-Identifier: MIT */
/* A block as one node gives the bits of its parts as nodes, which have tests of their own, joined by MLX's sums. */
#include "fused_node_testing.h"

enum { HIDDEN = 64, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, ROWS = 64, LENGTH = 5, FIRST = 20, EXPERTS = 6, TAPS = 3 };

/* Of a delta net. */
enum { KEY_DIM = 16, VALUE_HEADS = 2, VALUE_DIM = HIDDEN / VALUE_HEADS, CHANNELS = 2 * KEY_DIM + HIDDEN };

typedef struct parts {
    zm_weight q, k, v, o, in_proj, out_proj, gate, up, down, router, expert_gate, expert_up, expert_down;
    bool shared; /* the mixture has groups and, for all tokens, the MLP */
    zm_weight qkvz, ba;
    mlx_array delta_conv, factors, delta_norm, delta_last, memory;
    mlx_array norms[2], freqs, keys, values, conv, last, expert_bias, x;
} parts;

static zm_weight weight(zm_scope *scope, int n_experts, int out, int in) {
    return random_weight(scope, n_experts, out, in, (zm_quantization){32, 4, "affine"}, MLX_FLOAT32);
}

static mlx_array array(zm_scope *scope, const int *shape, int n_dims, mlx_dtype dtype) {
    return random_array(scope, shape, n_dims, dtype, 1);
}

static parts random_parts(zm_scope *scope, mlx_dtype dtype) {
    const int cache[] = {1, KV_HEADS, ROWS, HEAD_DIM}, row[] = {HIDDEN};
    parts of = {.q = weight(scope, 0, HEADS * HEAD_DIM, HIDDEN),
                .k = weight(scope, 0, KV_HEADS * HEAD_DIM, HIDDEN),
                .v = weight(scope, 0, KV_HEADS * HEAD_DIM, HIDDEN),
                .o = weight(scope, 0, HIDDEN, HEADS * HEAD_DIM),
                .in_proj = weight(scope, 0, 3 * HIDDEN, HIDDEN),
                .out_proj = weight(scope, 0, HIDDEN, HIDDEN),
                .gate = weight(scope, 0, 96, HIDDEN),
                .up = weight(scope, 0, 96, HIDDEN),
                .down = weight(scope, 0, HIDDEN, 96),
                .router = weight(scope, 0, EXPERTS, HIDDEN),
                .expert_gate = weight(scope, EXPERTS, 32, HIDDEN),
                .expert_up = weight(scope, EXPERTS, 32, HIDDEN),
                .expert_down = weight(scope, EXPERTS, HIDDEN, 32),
                .qkvz = weight(scope, 0, CHANNELS + HIDDEN, HIDDEN),
                .ba = weight(scope, 0, 2 * VALUE_HEADS, HIDDEN)};
    of.delta_conv = array(scope, (const int[]){CHANNELS, TAPS, 1}, 3, MLX_FLOAT32);
    of.factors = array(scope, (const int[]){VALUE_HEADS}, 1, MLX_FLOAT32);
    of.delta_norm = array(scope, (const int[]){VALUE_DIM}, 1, MLX_FLOAT32);
    of.delta_last = array(scope, (const int[]){1, TAPS - 1, CHANNELS}, 3, dtype);
    of.memory = array(scope, (const int[]){1, VALUE_HEADS, VALUE_DIM, KEY_DIM}, 4, MLX_FLOAT32);
    for (int i = 0; i < 2; i++) of.norms[i] = array(scope, row, 1, i ? MLX_FLOAT32 : dtype);
    of.freqs = array(scope, (const int[]){HEAD_DIM / 2}, 1, MLX_FLOAT32);
    of.keys = array(scope, cache, 4, dtype);
    of.values = array(scope, cache, 4, dtype);
    of.conv = array(scope, (const int[]){HIDDEN, TAPS, 1}, 3, MLX_FLOAT32);
    of.last = array(scope, (const int[]){1, TAPS - 1, HIDDEN}, 3, dtype);
    of.expert_bias = array(scope, (const int[]){EXPERTS}, 1, MLX_FLOAT32);
    of.x = array(scope, (const int[]){1, LENGTH, HIDDEN}, 3, dtype);
    return of;
}

static zm_attention_arguments attention_of(const parts *of) {
    return (zm_attention_arguments){.q_proj = &of->q, .k_proj = &of->k, .v_proj = &of->v, .o_proj = &of->o,
                                    .rotation = {of->freqs, false, 1, 1}, .n_heads = HEADS, .n_kv_heads = KV_HEADS,
                                    .head_dim = HEAD_DIM, .scale = 0.25f, .keys = of->keys, .values = of->values,
                                    .offset = FIRST, .first_row = FIRST, .n_rows = FIRST + LENGTH};
}

static zm_short_conv_arguments short_conv_of(const parts *of) {
    return (zm_short_conv_arguments){&of->in_proj, &of->out_proj, of->conv, {NULL}, of->last, TAPS};
}

static zm_delta_net_arguments delta_net_of(const parts *of) {
    return (zm_delta_net_arguments){.in_proj = {&of->qkvz, &of->ba}, .n_in_proj = 2, .out_proj = &of->out_proj,
                                    .conv_weight = of->delta_conv, .A_log = of->factors, .dt_bias = of->factors,
                                    .norm = of->delta_norm, .norm_eps = 1e-5f, .n_k_heads = 1,
                                    .n_v_heads = VALUE_HEADS, .head_k_dim = KEY_DIM, .head_v_dim = VALUE_DIM,
                                    .taps = TAPS, .last = of->delta_last, .memory = of->memory};
}

static zm_gated_mlp_arguments gated_mlp_of(const parts *of) {
    return (zm_gated_mlp_arguments){&of->gate, &of->up, &of->down, ZM_ACTIVATION_SWIGLU};
}

static zm_moe_arguments moe_of(const parts *of) {
    zm_moe_arguments made = {.router = &of->router, .expert_bias = of->expert_bias, .gate = &of->expert_gate,
                              .up = &of->expert_up, .down = &of->expert_down, .activation = ZM_ACTIVATION_SWIGLU,
                              .gating = ZM_GATING_SIGMOID_BIAS, .top_k = 2, .normalize_top_k = true,
                              .normalize_epsilon = 1e-6f, .routed_scaling_factor = 1};
    if (!of->shared) return made;
    made.gating = ZM_GATING_SIGMOID_GROUPS, made.n_groups = 3, made.top_groups = 2;
    made.shared_gate = &of->gate, made.shared_up = &of->up, made.shared_down = &of->down;
    return made;
}

/* What the arguments of a block point to. */
typedef struct pointed {
    zm_attention_arguments attention;
    zm_short_conv_arguments short_conv;
    zm_gated_mlp_arguments gated_mlp;
    zm_moe_arguments moe;
    zm_delta_net_arguments delta_net;
} pointed;

/* which: bits 0 and 2 the operator (attention, short_conv; delta_net), bit 1 the feed-forward part (gated_mlp or
 * moe). */
static zm_block_arguments block_of(pointed *to, const parts *of, int which) {
    *to = (pointed){attention_of(of), short_conv_of(of), gated_mlp_of(of), moe_of(of), delta_net_of(of)};
    return (zm_block_arguments){.operator_norm = of->norms[0], .feed_forward_norm = of->norms[1],
                                .operator_eps = 1e-5f, .feed_forward_eps = 1e-6f,
                                .attention = which & 5 ? NULL : &to->attention,
                                .delta_net = which & 4 ? &to->delta_net : NULL,
                                .short_conv = which & 1 ? &to->short_conv : NULL,
                                .gated_mlp = which & 2 ? NULL : &to->gated_mlp, .moe = which & 2 ? &to->moe : NULL};
}

static mlx_array block(zm_scope *scope, mlx_array kept[2], const parts *of, int which) {
    pointed to;
    zm_block_arguments arguments = block_of(&to, of, which);
    return zm_fused_block(scope, kept, of->x, &arguments, compute);
}

static mlx_array delta_net_alone(zm_scope *scope, mlx_array kept[2], const parts *of, mlx_array x) {
    zm_delta_net_arguments arguments = delta_net_of(of);
    return zm_fused_delta_net(scope, &kept[0], &kept[1], x, &arguments, compute);
}

static mlx_array chain(zm_scope *scope, mlx_array kept[2], const parts *of, int which) {
    zm_attention_arguments attention = attention_of(of);
    zm_short_conv_arguments short_conv = short_conv_of(of);
    zm_gated_mlp_arguments gated_mlp = gated_mlp_of(of);
    zm_moe_arguments moe = moe_of(of);
    /* The node writes into the buffers it is given; the block needs them as they were. */
    attention.keys = zm_add(scope, of->keys, zm_scalar_like(scope, 0, of->keys));
    attention.values = zm_add(scope, of->values, zm_scalar_like(scope, 0, of->values));
    mlx_array normed = zm_fused_rms_norm(scope, of->x, of->norms[0], 1e-5f), h;
    if (which & 4) h = delta_net_alone(scope, kept, of, normed);
    else if (which & 1) h = zm_fused_short_conv(scope, &kept[0], normed, &short_conv, compute);
    else h = zm_fused_attention(scope, &kept[0], &kept[1], normed, &attention, compute);
    h = zm_add(scope, of->x, h);
    normed = zm_fused_rms_norm(scope, h, of->norms[1], 1e-6f);
    mlx_array y = which & 2 ? zm_fused_moe(scope, normed, &moe, compute)
                            : zm_fused_gated_mlp(scope, normed, &gated_mlp, compute);
    return zm_add(scope, h, y);
}

static void equals_its_parts(void **state) {
    (void)state;
    static const mlx_dtype types[] = {MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16};
    for (int t = 0; t < 3; t++)
        for (int kind = 0; kind < 7; kind++) {
            static const int whiches[] = {0, 1, 2, 3, 2, 4, 6};
            int which = whiches[kind];
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            parts of = random_parts(&scope, types[t]);
            of.shared = kind == 4 || kind == 6;
            mlx_array expected_kept[2] = {{NULL}, {NULL}}, kept[2];
            mlx_array expected = chain(&scope, expected_kept, &of, which);
            assert_int_equal(mlx_array_eval(expected), 0);
            mlx_array y = block(&scope, kept, &of, which);
            expect_same(&scope, y, expected, 0);
            expect_same(&scope, kept[0], expected_kept[0], 0);
            if (!(which & 1)) expect_same(&scope, kept[1], expected_kept[1], 0);
            assert_int_equal(zm_is_set(kept[1]), !(which & 1));
            end_well(&scope);
        }
}

/* A prompt's last block: what only its output needs is not computed. */
static void cache_alone_leaves_feed_forward_out(void **state) {
    (void)state;
    for (int which = 0; which < 5; which++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of = random_parts(&scope, MLX_FLOAT32);
        mlx_array kept[2], y = block(&scope, kept, &of, which);
        assert_int_equal(mlx_array_eval(kept[0]), 0);
        zm_view view;
        assert_true(zm_view_of(&view, kept[0]));
        assert_false(zm_view_of(&view, y));
        assert_int_equal(mlx_array_eval(y), 0);
        assert_true(zm_view_of(&view, y));
        end_well(&scope);
    }
}

enum { BLOCKS = 7 };
static const int kinds[BLOCKS] = {3, 0, 1, 2, 6, 4, 3};

/* Gives the bytes behind a field that are no other's another value. */
static void change_padding(bool *field) {
    static unsigned char value;
    ((unsigned char *)field)[sizeof *field] = ++value;
}

/* Blocks in one node give the bits of one node each. */
static void compare_blocks(zm_scope *scope, parts *of, int n_blocks, zm_blocks_plan **plan) {
    pointed to[BLOCKS];
    zm_block_arguments arguments[BLOCKS];
    mlx_array kept[BLOCKS][2], expected_kept[BLOCKS][2], x = of[0].x, expected = x;
    for (int i = 0; i < n_blocks; i++) {
        parts copy = of[i]; /* the nodes write into the buffers they are given */
        copy.x = expected;
        copy.keys = zm_add(scope, of[i].keys, zm_scalar_like(scope, 0, of[i].keys));
        copy.values = zm_add(scope, of[i].values, zm_scalar_like(scope, 0, of[i].values));
        expected = block(scope, expected_kept[i], &copy, kinds[i]);
        arguments[i] = block_of(&to[i], &of[i], kinds[i]);
        change_padding(&to[i].attention.rotation.traditional);
        change_padding(&to[i].moe.normalize_top_k);
    }
    assert_int_equal(mlx_array_eval(expected), 0);
    mlx_array y = zm_fused_blocks(scope, kept, x, arguments, n_blocks, compute, plan);
    expect_same(scope, y, expected, 0);
    for (int i = 0; i < n_blocks; i++)
        for (int j = 0; j < 2; j++) {
            assert_int_equal(zm_is_set(kept[i][j]), zm_is_set(expected_kept[i][j]));
            if (zm_is_set(kept[i][j])) expect_same(scope, kept[i][j], expected_kept[i][j], 0);
        }
}

/* In every type, alone and several with all kinds of parts; the plan of earlier calls with the same weights, with other
 * weights in the same handles, without a state, and with a weight that is not evaluated. */
static void blocks_equal_one_by_one(void **state) {
    (void)state;
    static const mlx_dtype types[] = {MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16};
    for (int t = 0; t < 3; t++)
        for (int n_blocks = 1; n_blocks <= BLOCKS; n_blocks += 2) {
            zm_scope scope;
            parts of[BLOCKS];
            zm_blocks_plan *plan = NULL;
            zm_scope_begin(&scope, stream);
            for (int i = 0; i < n_blocks; i++) of[i] = random_parts(&scope, types[t]);
            of[n_blocks - 1].shared = n_blocks > 1;
            for (int call = 0; call < 5; call++) {
                parts new = random_parts(&scope, types[t]);
                zm_blocks_plan *before = plan;
                parts *last = &of[n_blocks - 1];
                of[0].x = new.x;
                last->keys = new.keys;
                last->values = new.values;
                last->last = call == 3 ? (mlx_array){NULL} : new.last;
                if (n_blocks == BLOCKS) of[4].memory = call == 3 ? (mlx_array){NULL} : new.memory;
                if (call == 2) assert_int_equal(mlx_array_set(&last->expert_down.weight, new.expert_down.weight), 0);
                if (call == 2) assert_int_equal(mlx_array_set(&last->down.weight, new.down.weight), 0);
                if (call == 4)
                    last->norms[0] = zm_multiply(&scope, last->norms[0], zm_scalar_like(&scope, 2, last->norms[0]));
                compare_blocks(&scope, of, n_blocks, &plan);
                if (call == 1) assert_ptr_equal(plan, before);
            }
            zm_blocks_plan_free(plan);
            end_well(&scope);
        }
}

/* With the plan of a call whose arrays had as many elements, what would be refused without one is refused too. */
static void a_plan_serves_its_shapes_alone(void **state) {
    (void)state;
    for (int wrong = 0; wrong < 3; wrong++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of = random_parts(&scope, MLX_FLOAT32);
        zm_blocks_plan *plan = NULL;
        compare_blocks(&scope, &of, 1, &plan);
        assert_non_null(plan);
        pointed to;
        mlx_array kept[1][2];
        if (wrong == 0) of.x = array(&scope, (const int[]){1, 2 * LENGTH, HIDDEN / 2}, 3, MLX_FLOAT32);
        if (wrong == 1) of.last = array(&scope, (const int[]){1, TAPS, HIDDEN}, 3, MLX_FLOAT32);
        if (wrong == 2) of.last = zm_astype(&scope, of.last, MLX_INT32);
        zm_block_arguments arguments = block_of(&to, &of, kinds[0]);
        assert_false(zm_is_set(zm_fused_blocks(&scope, kept, of.x, &arguments, 1, compute, &plan)));
        zmlx_error error;
        assert_int_not_equal(zm_scope_end(&scope, &error), ZMLX_OK);
        zm_blocks_plan_free(plan);
    }
}

/* One wrong block among right ones. */
static void a_wrong_block_is_refused(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    parts of[2] = {random_parts(&scope, MLX_FLOAT32), random_parts(&scope, MLX_FLOAT32)};
    of[1].down = of[1].up;
    pointed to[2];
    zm_block_arguments arguments[2] = {block_of(&to[0], &of[0], 0), block_of(&to[1], &of[1], 0)};
    mlx_array kept[2][2];
    zm_blocks_plan *plan = NULL;
    assert_false(zm_is_set(zm_fused_blocks(&scope, kept, of[0].x, arguments, 2, compute, &plan)));
    assert_null(plan);
    for (int i = 0; i < 2; i++) assert_true(!zm_is_set(kept[i][0]) && !zm_is_set(kept[i][1]));
    zmlx_error error;
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, "zmlx.gated_mlp");
}

static void wrong_parts_are_refused(void **state) {
    (void)state;
    static const char *const places[] = {"zmlx.block", "zmlx.block", "zmlx.block", "zmlx.gated_mlp", "zmlx.attention"};
    for (int wrong = 0; wrong < 5; wrong++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        parts of = random_parts(&scope, MLX_FLOAT32);
        if (wrong == 0) of.x = array(&scope, (const int[]){2, LENGTH, HIDDEN}, 3, MLX_FLOAT32);
        if (wrong == 1) of.norms[1] = of.freqs;
        if (wrong == 2) of.down = weight(&scope, 0, HIDDEN / 2, 96);
        if (wrong == 3) of.down = of.up;
        if (wrong == 4) of.keys = of.x;
        mlx_array kept[2];
        assert_false(zm_is_set(block(&scope, kept, &of, 0)));
        zmlx_error error;
        assert_int_not_equal(zm_scope_end(&scope, &error), ZMLX_OK);
        assert_string_equal(error.where, places[wrong]);
    }
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    parts of = random_parts(&scope, MLX_FLOAT32);
    zm_block_arguments none = {.operator_norm = of.norms[0], .feed_forward_norm = of.norms[1]};
    mlx_array kept[2];
    assert_false(zm_is_set(zm_fused_block(&scope, kept, of.x, &none, compute)));
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_ERROR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_its_parts),
        cmocka_unit_test(cache_alone_leaves_feed_forward_out),
        cmocka_unit_test(wrong_parts_are_refused),
        cmocka_unit_test(blocks_equal_one_by_one),
        cmocka_unit_test(a_plan_serves_its_shapes_alone),
        cmocka_unit_test(a_wrong_block_is_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
