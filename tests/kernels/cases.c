/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

static const table_shape lengths[] = {
    {{0}, 0, -1, LAYOUT_PLAIN, DATA_PLAIN},       {{0}, 0, 1, LAYOUT_PLAIN, DATA_PLAIN},
    {{0}, 0, 3, LAYOUT_PLAIN, DATA_PLAIN},        {{2}, 1, 31, LAYOUT_PLAIN, DATA_PLAIN},
    {{3, 2}, 2, 33, LAYOUT_PLAIN, DATA_PLAIN},    {{2, 3}, 2, 1000, LAYOUT_PLAIN, DATA_PLAIN},
    {{2}, 1, 4097, LAYOUT_PLAIN, DATA_PLAIN},     {{0}, 0, 128256, LAYOUT_PLAIN, DATA_PLAIN},
    {{300}, 1, 16, LAYOUT_PLAIN, DATA_PLAIN},     {{3}, 1, 1, LAYOUT_PLAIN, DATA_PLAIN},
    {{0}, 1, 5, LAYOUT_PLAIN, DATA_PLAIN},        {{2}, 1, 0, LAYOUT_PLAIN, DATA_PLAIN},
    {{4, 3}, 2, 33, LAYOUT_TRANSPOSED, DATA_PLAIN}, {{4, 3}, 2, 34, LAYOUT_SLICED, DATA_PLAIN},
    {{5}, 1, 40, LAYOUT_PLAIN, DATA_INFINITE},    {{5}, 1, 40, LAYOUT_PLAIN, DATA_NAN},
    {{5}, 1, 1000, LAYOUT_PLAIN, DATA_OFFSET},
};
/* Of further cases: their numbers matter, not the lengths. */
static const table_shape few[] = {
    {{3}, 1, 33, LAYOUT_PLAIN, DATA_PLAIN},
    {{2}, 1, 1000, LAYOUT_PLAIN, DATA_PLAIN},
    {{5}, 1, 40, LAYOUT_PLAIN, DATA_INFINITE},
};
static const table_shape given[] = {
    {{0}, 0, 0, LAYOUT_PLAIN, DATA_PLAIN},   {{0}, 0, 0, LAYOUT_TRANSPOSED, DATA_PLAIN},
    {{0}, 0, 0, LAYOUT_SLICED, DATA_PLAIN},  {{0}, 0, 0, LAYOUT_PLAIN, DATA_INFINITE},
    {{0}, 0, 0, LAYOUT_PLAIN, DATA_NAN},     {{0}, 0, 0, LAYOUT_PLAIN, DATA_OFFSET},
};

typedef struct visit_state {
    const zm_kernel_entry *entry;
    bool gradient;
    table_visitor *visit;
    void *context;
    table_run base;   /* numbers, absent inputs, sizes of the case */
    bool has_sizes;   /* the case gives some */
} visit_state;

static void assign_list(int *list, int *count, bool *is_known, const char *text) {
    *is_known = true;
    for (*count = 0; *text; text += strspn(text, ",")) {
        char *end;
        list[(*count)++] = (int)strtol(text, &end, 10);
        text = end;
    }
}

static void fail_case(const char *name, const char *text) {
    fprintf(stderr, "%s: wrong case `%s`\n", name, text);
    exit(2);
}

static void assign(visit_state *self, char *text) {
    const zm_signature *signature = &self->entry->signature;
    char *value = strchr(text, '=');
    if (!value) fail_case(self->entry->entry.name, text);
    *value++ = '\0';
    zm_sizes *sizes = &self->base.sizes;
    bool is_rest = !strcmp(text, "..."), is_second = !strcmp(text, "I..."), is_tail = !strcmp(text, "t...");
    self->has_sizes |= is_rest || is_second || is_tail;
    if (is_rest) return assign_list(sizes->rest, &sizes->n_rest, &sizes->has_rest, value);
    if (is_second) return assign_list(sizes->second_rest, &sizes->n_second_rest, &sizes->has_second_rest, value);
    if (is_tail) return assign_list(sizes->tail, &sizes->n_tail, &sizes->has_tail, value);
    for (int i = 0; i < signature->n_inputs; i++)
        if (!strcmp(signature->inputs[i].name, text)) {
            if (value[0] || !signature->inputs[i].is_optional) fail_case(self->entry->entry.name, text);
            self->base.absent[i] = true;
            return;
        }
    for (int i = 0; i < signature->n_numbers; i++)
        if (!strcmp(signature->numbers[i].name, text)) {
            if (zmlx_catalog_set(self->base.values, &self->entry->entry, text, value, NULL))
                fail_case(self->entry->entry.name, text);
            return;
        }
    const char *name = zm_arena_copy(self->base.arena, text, strlen(text));
    zm_sizes_set(&self->base.sizes, name, strtol(value, NULL, 10));
    self->has_sizes = true;
}

/* The size that lengths vary: the last of the first input, where it is a name behind leading dimensions. */
static const char *varying(const zm_kernel_entry *entry, int *factor) {
    const zm_pattern *first = &entry->signature.input_patterns[0];
    *factor = 1;
    if (!first->has_rest || first->n_dims != 1) return NULL;
    const char *name = first->dims[0];
    if (name[0] >= '0' && name[0] <= '9') {
        *factor = (int)strtol(name, NULL, 10);
        name = strchr(name, '*');
        name = name ? name + 1 : NULL;
    }
    return name;
}

/* Names that no case gives get small sizes, each its own. */
static void fill_names(zm_sizes *sizes, const zm_kernel_entry *entry) {
    int next = 3;
    for (int i = 0; i < entry->signature.n_inputs; i++)
        for (int j = 0; j < entry->signature.input_patterns[i].n_dims; j++) {
            const char *dim = entry->signature.input_patterns[i].dims[j];
            int64_t known;
            size_t letters = strspn(dim, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789");
            if (!dim[letters] && (dim[0] < '0' || dim[0] > '9') && !zm_sizes_find(&known, sizes, dim))
                zm_sizes_set(sizes, dim, next++);
        }
}

/* 0-d has no result of several elements. */
static bool gets_longer(const zm_kernel_entry *entry) {
    const zm_pattern *result = &entry->signature.output_patterns[0];
    return result->n_dims == 1 && strchr(result->dims[0], '*');
}

static bool visit_shape(visit_state *self, const table_shape *shape, mlx_dtype dtype, bool wide) {
    table_run run = self->base;
    int factor;
    const char *name = varying(self->entry, &factor);
    run.shape = *shape;
    run.dtype = dtype;
    run.wide_parameters = wide;
    run.gradient = self->gradient;
    for (int i = 0; i < self->entry->signature.n_numbers; i++)
        if (self->entry->signature.kinds[i] == ZM_NUMBER_INT || self->entry->signature.kinds[i] == ZM_NUMBER_BOOL)
            zm_sizes_set(&run.sizes, self->entry->signature.numbers[i].name, (int64_t)run.values[i].number);
    if (!self->has_sizes) {
        bool has_leading = self->entry->signature.input_patterns[0].has_rest;
        if (!has_leading && shape != &lengths[4]) return true;
        run.sizes.has_rest = true;
        run.sizes.n_rest = shape->n_rest;
        memcpy(run.sizes.rest, shape->rest, sizeof shape->rest);
        if (name && shape->columns >= 0)
            zm_sizes_set(&run.sizes, name, shape->columns);
        else if (name)
            zm_sizes_set(&run.sizes, name, 1);
        else if (shape->columns >= 0)
            run.sizes.rest[run.sizes.n_rest++] = shape->columns;
        if (name && shape->columns < 0 && (factor > 1 || gets_longer(self->entry))) return true;
        if (name && shape->columns < self->entry->signature.input_patterns[0].least[0]) return true;
        if (!name && self->entry->signature.input_patterns[0].n_dims) run.sizes.n_rest = 1, run.sizes.rest[0] = 2;
    }
    fill_names(&run.sizes, self->entry);
    return self->visit(self->context, &run);
}

static bool visit_case(visit_state *self, int number, mlx_dtype dtype, bool wide) {
    const table_shape *shapes = self->has_sizes ? given : number ? few : lengths;
    size_t count = self->has_sizes ? sizeof given : number ? sizeof few : sizeof lengths;
    for (size_t i = 0; i < count / sizeof *shapes; i++)
        if (!visit_shape(self, &shapes[i], dtype, wide)) return false;
    return true;
}

void table_visit(const zm_kernel_entry *entry, bool gradient, table_visitor *visit, void *context) {
    const table_run *first = context; /* begins with a run: arena, streams, type */
    const char *cases = entry->row->cases ? entry->row->cases : "";
    for (int number = 0;; number++) {
        visit_state self = {.entry = entry, .gradient = gradient, .visit = visit, .context = context, .base = *first};
        char text[400];
        size_t size = strcspn(cases, "|");
        snprintf(text, sizeof text, "%.*s", (int)size, cases);
        zmlx_catalog_presets(self.base.values, &entry->entry);
        char *rest = NULL;
        for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) assign(&self, word);
        if (!visit_case(&self, number, first->dtype, false)) return;
        bool has_parameters = false;
        for (int i = 0; i < entry->signature.n_inputs; i++)
            has_parameters |= zm_role_is_parameter(entry->signature.roles[i]);
        if ((!number || self.has_sizes) && has_parameters && first->dtype != MLX_FLOAT32 &&
            !visit_shape(&self, self.has_sizes ? &given[0] : &lengths[4], first->dtype, true))
            return;
        if (!cases[size]) return;
        cases += size + 1;
    }
}
