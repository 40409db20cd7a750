/* SPDX-License-Identifier: MIT */
/* The typed module tree of a loaded model.
 *
 * Every part of a model is a struct that begins with a zm_module: its kind says which struct it is
 * (layers.h), its path is the name in the checkpoint. What a part computes is its forward function; a
 * patch replaces that pointer (and patch_state) after checking kind and fields, and undoes it by putting
 * the old values back. Forward functions read the module's current arrays at every call. */
#ifndef ZM_MODEL_MODULE_H
#define ZM_MODEL_MODULE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "mlx/scope.h"

typedef enum zm_module_kind {
#define ZM_MODULE(name, text) ZM_MODULE_##name,
#include "model/module.def"
#undef ZM_MODULE
    ZM_MODULE_KIND_COUNT
} zm_module_kind;

typedef struct zm_cache zm_cache; /* cache.h */

/* The attention mask of one call: none, causal, or a bool array; as mlx-lm's create_attention_mask. */
typedef struct zm_mask {
    const char *mode; /* "" (none), "causal" or "array" */
    mlx_array array;  /* set when mode is "array" */
} zm_mask;

enum { ZM_MOST_CHOICES = 4 };

/* Tokens that a language model chooses greedily. The arrays are lazy; a call's are its scope's. */
typedef struct zm_choices {
    int wanted;     /* of a call of one token: how many that follow it, up to ZM_MOST_CHOICES; else 1 */
    mlx_array row;  /* that token's of the embedding table, which the call that chose it left, or empty */
    int count;      /* that were made, up to `wanted`: all of them but the last one have been fed, too */
    mlx_array tokens[ZM_MOST_CHOICES]; /* (batch, length) each */
    mlx_array last_row;                /* the last one's of the embedding table, or empty */
} zm_choices;

/* What a call carries besides x. Modules that need neither ignore it; cache is that of the layer. */
typedef struct zm_call {
    zm_mask mask;
    zm_cache *cache; /* NULL: no cache */
    /* Of a language model: NULL, or where it may leave choices instead of giving logits. */
    zm_choices *choices;
} zm_call;

typedef struct zm_module zm_module;
typedef mlx_array (*zm_forward)(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);

typedef struct zm_parameter {
    const char *name; /* within the module: "weight", "scales", ... */
    mlx_array *array; /* the slot in the module's struct */
} zm_parameter;

struct zm_module {
    zm_module_kind kind;
    const char *name; /* last part of path: "feed_forward", "3" in a list */
    const char *path; /* "model.layers.3.feed_forward"; "" for the root */
    zm_module *parent;
    zm_module **children; /* in the checkpoint's order of definition */
    int n_children, children_capacity;
    zm_parameter *parameters;
    int n_parameters, parameters_capacity;
    zm_forward forward;
    void *patch_state; /* of the pattern that replaced forward; NULL while unpatched */
};

/* Kind's text, e.g. "moe". */
const char *zm_module_kind_text(zm_module_kind kind);

/* Initialises module as the next child of parent (NULL for the root) with that name. */
zmlx_status zm_module_init(zm_module *module, zm_module_kind kind, zm_module *parent, const char *name,
                           zm_forward forward, zm_arena *arena, zmlx_error *error);
/* Declares a parameter slot; zm_module_release frees its array. */
zmlx_status zm_module_add_parameter(zm_module *module, const char *name, mlx_array *slot, zm_arena *arena,
                                    zmlx_error *error);
/* Frees the arrays of module and everything below it. */
void zm_module_release(zm_module *module);

/* Calls forward. */
mlx_array zm_module_call(zm_module *module, zm_scope *scope, mlx_array x, const zm_call *call);

/* Depth first, children before parents, in order; stops at the first failure. */
typedef zmlx_status (*zm_module_visitor)(zm_module *module, void *context, zmlx_error *error);
zmlx_status zm_module_visit(zm_module *root, zm_module_visitor visitor, void *context, zmlx_error *error);
/* The module of that path, or NULL. */
zm_module *zm_module_find(zm_module *root, const char *path);

#endif
