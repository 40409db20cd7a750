/* SPDX-License-Identifier: MIT */
/* The module tree: paths, order of visits, finding, calling, releasing. */
#include "mlx_testing.h"

#include "model/layers.h"

enum { N_BLOCKS = 9 }; /* more than the first capacity of a list of children */

typedef struct tree {
    zm_arena *arena;
    zm_module root, decoder, list, blocks[N_BLOCKS], norms[N_BLOCKS][2];
    mlx_array weights[N_BLOCKS][2];
} tree;

static mlx_array negate(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    (void)self, (void)call;
    return zm_negative(scope, x);
}

static void add(tree *made, zm_module *module, zm_module_kind kind, zm_module *parent, const char *name) {
    zmlx_error error;
    zm_forward forward = kind == ZM_MODULE_LIST ? NULL : negate;
    assert_int_equal(zm_module_init(module, kind, parent, name, forward, made->arena, &error), ZMLX_OK);
}

static void plant(tree *made) {
    *made = (tree){.arena = zm_arena_new()};
    add(made, &made->root, ZM_MODULE_CAUSAL_LM, NULL, "");
    add(made, &made->decoder, ZM_MODULE_DECODER, &made->root, "model");
    add(made, &made->list, ZM_MODULE_LIST, &made->decoder, "layers");
    for (int i = 0; i < N_BLOCKS; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        add(made, &made->blocks[i], ZM_MODULE_BLOCK, &made->list, name);
        for (int n = 0; n < 2; n++) {
            add(made, &made->norms[i][n], ZM_MODULE_RMS_NORM, &made->blocks[i], n ? "ffn_norm" : "norm");
            made->weights[i][n] = mlx_array_new_float32(1);
            assert_int_equal(zm_module_add_parameter(&made->norms[i][n], "weight", &made->weights[i][n],
                                                     made->arena, NULL),
                             ZMLX_OK);
        }
    }
}

static void fell(tree *made) {
    zm_module_release(&made->root);
    zm_arena_free(made->arena);
}

typedef struct walk {
    const char *paths[64];
    int count, stop_after;
} walk;

static zmlx_status note(zm_module *module, void *context, zmlx_error *error) {
    walk *seen = context;
    for (int i = 0; i < module->n_children; i++) {
        bool found = false;
        for (int j = 0; j < seen->count; j++) found |= seen->paths[j] == module->children[i]->path;
        assert_true(found);
    }
    seen->paths[seen->count++] = module->path;
    if (seen->count == seen->stop_after) return zm_fail(error, ZMLX_ERROR_CANCELLED, module->path, "enough");
    return ZMLX_OK;
}

static void test_visit(void **state) {
    (void)state;
    tree made;
    plant(&made);
    walk all = {.count = 0};
    assert_int_equal(zm_module_visit(&made.root, note, &all, NULL), ZMLX_OK);
    assert_int_equal(all.count, 3 * N_BLOCKS + 3);
    assert_string_equal(all.paths[0], "model.layers.0.norm");
    assert_string_equal(all.paths[1], "model.layers.0.ffn_norm");
    assert_string_equal(all.paths[2], "model.layers.0");
    assert_string_equal(all.paths[3 * N_BLOCKS - 1], "model.layers.8");
    assert_string_equal(all.paths[3 * N_BLOCKS], "model.layers");
    assert_string_equal(all.paths[3 * N_BLOCKS + 2], "");
    fell(&made);
}

static void test_visit_stops_at_a_failure(void **state) {
    (void)state;
    tree made;
    plant(&made);
    walk some = {.stop_after = 4};
    zmlx_error error;
    assert_int_equal(zm_module_visit(&made.root, note, &some, &error), ZMLX_ERROR_CANCELLED);
    assert_int_equal(some.count, 4);
    assert_string_equal(error.where, "model.layers.1.norm");
    fell(&made);
}

static void test_find(void **state) {
    (void)state;
    tree made;
    plant(&made);
    assert_ptr_equal(zm_module_find(&made.root, ""), &made.root);
    assert_ptr_equal(zm_module_find(&made.root, "model.layers"), &made.list);
    assert_ptr_equal(zm_module_find(&made.root, "model.layers.8"), &made.blocks[8]);
    assert_ptr_equal(zm_module_find(&made.root, "model.layers.1.ffn_norm"), &made.norms[1][1]);
    assert_ptr_equal(zm_module_find(&made.list, "model.layers.3"), &made.blocks[3]);
    static const char *const absent[] = {"m", "mode", "modell", "model.layers.9", "model.layers.80",
                                         "model.layers.1.ffn", "model.", "layers"};
    for (int i = 0; i < COUNT(absent); i++) assert_null(zm_module_find(&made.root, absent[i]));
    assert_string_equal(made.blocks[3].name, "3");
    assert_ptr_equal(made.blocks[3].parent, &made.list);
    fell(&made);
}

static void test_release_empties_the_slots(void **state) {
    (void)state;
    tree made;
    plant(&made);
    zm_module_release(&made.blocks[0]);
    assert_false(zm_is_set(made.weights[0][0]));
    assert_true(zm_is_set(made.weights[1][0]));
    zm_module_release(&made.root);
    for (int i = 0; i < N_BLOCKS; i++) assert_false(zm_is_set(made.weights[i][1]));
    zm_module_release(NULL);
    fell(&made);
}

static void test_call(void **state) {
    (void)state;
    tree made;
    plant(&made);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_scalar(&scope, 3, MLX_FLOAT32);
    expect_values(&scope, zm_module_call(&made.decoder, &scope, x, NULL), VALUES(-3), 0);
    assert_false(zm_is_set(zm_module_call(&made.list, &scope, x, NULL)));
    zmlx_error error;
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, "model.layers");
    fell(&made);
}

static void test_kinds(void **state) {
    (void)state;
    assert_string_equal(zm_module_kind_text(ZM_MODULE_SWITCH_GLU), "switch_glu");
    assert_string_equal(zm_module_kind_text(ZM_MODULE_KIND_COUNT), "unknown");
    /* Experts are called through zm_switch_glu_call, a list not at all. */
    for (int kind = 0; kind < ZM_MODULE_KIND_COUNT; kind++) {
        bool callable = kind != ZM_MODULE_LIST && kind != ZM_MODULE_SWITCH_LINEAR &&
                        kind != ZM_MODULE_SWITCH_GLU;
        assert_int_equal(zm_standard_forward((zm_module_kind)kind) != NULL, callable);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_visit),  cmocka_unit_test(test_visit_stops_at_a_failure),
        cmocka_unit_test(test_find),   cmocka_unit_test(test_release_empties_the_slots),
        cmocka_unit_test(test_call),   cmocka_unit_test(test_kinds),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
