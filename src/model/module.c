/* SPDX-License-Identifier: MIT */
#include "model/module.h"

#include <string.h>

static const char *const kind_texts[] = {
#define ZM_MODULE(name, text) text,
#include "model/module.def"
#undef ZM_MODULE
};

const char *zm_module_kind_text(zm_module_kind kind) {
    if ((int)kind < 0 || kind >= ZM_MODULE_KIND_COUNT) return "unknown";
    return kind_texts[kind];
}

/* Makes room for one more element; old storage stays in the arena. NULL when out of memory. */
static void *grow(void *elements, int count, int *capacity, size_t size, zm_arena *arena) {
    if (count < *capacity) return elements;
    int new_capacity = *capacity ? 2 * *capacity : 4;
    void *larger = zm_arena_alloc(arena, (size_t)new_capacity, size);
    if (!larger) return NULL;
    if (count) memcpy(larger, elements, (size_t)count * size);
    *capacity = new_capacity;
    return larger;
}

static zmlx_status add_child(zm_module *parent, zm_module *child, zm_arena *arena, zmlx_error *error) {
    zm_module **children =
        grow(parent->children, parent->n_children, &parent->children_capacity, sizeof *children, arena);
    if (!children) return zm_fail_memory(error);
    parent->children = children;
    children[parent->n_children++] = child;
    return ZMLX_OK;
}

zmlx_status zm_module_init(zm_module *module, zm_module_kind kind, zm_module *parent, const char *name,
                           zm_forward forward, zm_arena *arena, zmlx_error *error) {
    module->kind = kind;
    module->parent = parent;
    module->forward = forward;
    module->name = zm_arena_copy(arena, name, strlen(name));
    if (parent && parent->path[0])
        module->path = zm_arena_printf(arena, "%s.%s", parent->path, name);
    else
        module->path = module->name;
    if (!module->name || !module->path) return zm_fail_memory(error);
    return parent ? add_child(parent, module, arena, error) : ZMLX_OK;
}

zmlx_status zm_module_add_parameter(zm_module *module, const char *name, mlx_array *slot, zm_arena *arena,
                                    zmlx_error *error) {
    zm_parameter *parameters = grow(module->parameters, module->n_parameters, &module->parameters_capacity,
                                    sizeof *parameters, arena);
    if (!parameters) return zm_fail_memory(error);
    module->parameters = parameters;
    parameters[module->n_parameters++] = (zm_parameter){name, slot};
    return ZMLX_OK;
}

void zm_module_release(zm_module *module) {
    if (!module) return;
    for (int i = 0; i < module->n_children; i++) zm_module_release(module->children[i]);
    for (int i = 0; i < module->n_parameters; i++) {
        mlx_array_free(*module->parameters[i].array);
        *module->parameters[i].array = (mlx_array){0};
    }
}

mlx_array zm_module_call(zm_module *module, zm_scope *scope, mlx_array x, const zm_call *call) {
    if (!module->forward)
        return zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, module->path, "a %s cannot be called",
                             zm_module_kind_text(module->kind));
    return module->forward(module, scope, x, call);
}

zmlx_status zm_module_visit(zm_module *root, zm_module_visitor visitor, void *context, zmlx_error *error) {
    for (int i = 0; i < root->n_children; i++)
        ZM_TRY(zm_module_visit(root->children[i], visitor, context, error));
    return visitor(root, context, error);
}

zm_module *zm_module_find(zm_module *root, const char *path) {
    if (!strcmp(root->path, path)) return root;
    for (int i = 0; i < root->n_children; i++) {
        zm_module *child = root->children[i];
        size_t size = strlen(child->path);
        bool leads_there = !strncmp(path, child->path, size) && (path[size] == '.' || path[size] == '\0');
        if (leads_there) return zm_module_find(child, path);
    }
    return NULL;
}
