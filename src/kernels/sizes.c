/* SPDX-License-Identifier: MIT */
/* Shapes of a call against the patterns of a signature. */
#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/signature.h"

void zm_sizes_set(zm_sizes *sizes, const char *name, int64_t value) {
    for (int i = 0; i < sizes->count; i++)
        if (!strcmp(sizes->names[i], name)) {
            sizes->values[i] = value;
            return;
        }
    if (sizes->count == ZM_MAX_SIZES) return;
    sizes->names[sizes->count] = name;
    sizes->values[sizes->count++] = value;
}

bool zm_sizes_find(int64_t *value, const zm_sizes *sizes, const char *name) {
    for (int i = 0; i < sizes->count; i++)
        if (!strcmp(sizes->names[i], name)) {
            *value = sizes->values[i];
            return true;
        }
    return false;
}

/* A formula being evaluated; known turns false at a name without value and at a number past 64 bits. */
typedef struct formula {
    const char *at;
    const zm_sizes *sizes;
    bool known;
} formula;

static int64_t sum(formula *self);

/* INT64_MAX where there are more: leading dimensions of an empty array may be of any size. */
static int64_t count_elements(const int *shape, int n_dims) {
    int64_t count = 1;
    bool is_past = false;
    for (int i = 0; i < n_dims; i++) {
        if (!shape[i]) return 0;
        is_past = is_past || __builtin_mul_overflow(count, shape[i], &count);
    }
    return is_past ? INT64_MAX : count;
}

static int64_t factor(formula *self) {
    self->at += strspn(self->at, " ");
    if (*self->at == '(') {
        self->at++;
        int64_t value = sum(self);
        self->at += strspn(self->at, " ");
        self->at += *self->at == ')';
        return value;
    }
    if (isdigit((unsigned char)*self->at)) {
        char *end;
        int64_t value = strtoll(self->at, &end, 10);
        self->at = end;
        return value;
    }
    char name[32];
    size_t size = 0;
    for (; (isalnum((unsigned char)self->at[0]) || self->at[0] == '_') && size + 1 < sizeof name; self->at++)
        name[size++] = self->at[0];
    name[size] = '\0';
    int64_t value = 0;
    if (!strcmp(name, "ROWS") && self->sizes->has_rest) return count_elements(self->sizes->rest, self->sizes->n_rest);
    if (!size || !zm_sizes_find(&value, self->sizes, name)) self->known = false;
    return value;
}

static int64_t product(formula *self) {
    int64_t value = factor(self);
    for (;;) {
        self->at += strspn(self->at, " ");
        char operation = *self->at;
        if (operation != '*' && operation != '/') return value;
        self->at++;
        int64_t other = factor(self);
        if (operation == '*')
            self->known &= !__builtin_mul_overflow(value, other, &value);
        else if (other > 0)
            value = value / other + (value % other > 0); /* rounded up */
        else
            self->known = false;
    }
}

static int64_t sum(formula *self) {
    int64_t value = product(self);
    for (;;) {
        self->at += strspn(self->at, " ");
        char operation = *self->at;
        if (operation != '+' && operation != '-') return value;
        self->at++;
        int64_t other = product(self);
        value += operation == '+' ? other : -other;
    }
}

bool zm_sizes_evaluate(int64_t *value, const zm_sizes *sizes, const char *text) {
    formula self = {text, sizes, true};
    *value = sum(&self);
    return self.known;
}

/* "D" or "2*D": the name, and its factor. */
static const char *single_name(int64_t *factor_of, const char *text) {
    char *end;
    *factor_of = 1;
    if (isdigit((unsigned char)text[0])) {
        *factor_of = strtoll(text, &end, 10);
        if (*end != '*') return NULL;
        text = end + 1;
    }
    for (const char *c = text; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '_') return NULL;
    return isalpha((unsigned char)text[0]) ? text : NULL;
}

void zm_shape_describe(char text[128], const int *shape, int n_dims) {
    size_t length = (size_t)snprintf(text, 128, "(");
    for (int i = 0; i < n_dims && length < 110; i++)
        length += (size_t)snprintf(text + length, 128 - length, i ? ", %d" : "%d", shape[i]);
    snprintf(text + length, 128 - length, n_dims == 1 ? ",)" : ")");
}

bool zm_dims_broadcast(int *shape, int *n_dims, const int *other, int n_other) {
    int n_all = *n_dims > n_other ? *n_dims : n_other, made[ZM_SIGNATURE_MAX_DIMS] = {0};
    for (int i = 1; i <= n_all; i++) {
        int a = i <= *n_dims ? shape[*n_dims - i] : 1, b = i <= n_other ? other[n_other - i] : 1;
        if (a != b && a != 1 && b != 1) return false;
        made[n_all - i] = a == 1 ? b : a;
    }
    memcpy(shape, made, (size_t)n_all * sizeof *shape);
    *n_dims = n_all;
    return true;
}

/* The expected shape as far as it is known: "(..., 64)", "(2, D)". */
static void describe(char text[128], const zm_pattern *pattern, const zm_sizes *sizes) {
    size_t length = (size_t)snprintf(text, 128, "(");
    int n = 0;
    const int *rest = pattern->is_second_rest ? sizes->second_rest : sizes->rest;
    int n_rest = pattern->is_second_rest ? sizes->n_second_rest : sizes->n_rest;
    bool is_known = pattern->is_second_rest ? sizes->has_second_rest : sizes->has_rest;
    if (pattern->has_rest && !is_known)
        length += (size_t)snprintf(text + length, 128 - length, "%s", n++ ? ", ..." : "...");
    for (int i = 0; pattern->has_rest && is_known && i < n_rest && length < 90; i++)
        length += (size_t)snprintf(text + length, 128 - length, n++ ? ", %d" : "%d", rest[i]);
    for (int i = 0; i < pattern->n_dims && length < 80; i++) {
        int64_t value;
        if (zm_sizes_evaluate(&value, sizes, pattern->dims[i]))
            length += (size_t)snprintf(text + length, 128 - length, n++ ? ", %lld" : "%lld", (long long)value);
        else
            length += (size_t)snprintf(text + length, 128 - length, n++ ? ", %.20s" : "%.20s", pattern->dims[i]);
    }
    if (pattern->has_tail && !sizes->has_tail)
        length += (size_t)snprintf(text + length, 128 - length, n++ ? ", ..." : "...");
    for (int i = 0; pattern->has_tail && sizes->has_tail && i < sizes->n_tail && length < 100; i++)
        length += (size_t)snprintf(text + length, 128 - length, n++ ? ", %d" : "%d", sizes->tail[i]);
    snprintf(text + length, 128 - length, n == 1 ? ",)" : ")");
}

static zmlx_status misfit(const zm_sizes *sizes, const zm_pattern *pattern, const int *shape, int n_dims,
                          const char *where, const char *name, zmlx_error *error) {
    char expected[128], got[128];
    describe(expected, pattern, sizes);
    zm_shape_describe(got, shape, n_dims);
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, where, "%s: expected %s %s, got %s", name,
                   pattern->is_second_rest && sizes->has_second_rest ? "a shape that broadcasts with" : "shape",
                   expected, got);
}

/* Leading or trailing dimensions. */
static bool meet_list(int *list, int *known, bool *is_known, const int *shape, int count) {
    if (*is_known) return count == *known && (!count || !memcmp(shape, list, (size_t)count * sizeof *shape));
    if (count) memcpy(list, shape, (size_t)count * sizeof *shape);
    *known = count;
    *is_known = true;
    return true;
}

static bool meet_dim(zm_sizes *sizes, const char *text, int size) {
    int64_t value, factor_of;
    if (zm_sizes_evaluate(&value, sizes, text)) return value == size;
    const char *name = single_name(&factor_of, text);
    if (!name || !factor_of || size % factor_of) return false;
    zm_sizes_set(sizes, name, size / factor_of);
    return true;
}

zmlx_status zm_pattern_meet(zm_sizes *sizes, const zm_pattern *pattern, const int *shape, int n_dims, const char *where,
                            const char *name, zmlx_error *error) {
    if (pattern->broadcasts) return ZMLX_OK;
    if (pattern->is_one) {
        char got[128];
        if (count_elements(shape, n_dims) == 1) return ZMLX_OK;
        zm_shape_describe(got, shape, n_dims);
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, where, "%s: expected one element, got shape %s", name, got);
    }
    int n_missing = pattern->is_first_optional && n_dims == pattern->n_dims - 1;
    if (pattern->is_flat) {
        int64_t flat = count_elements(shape, n_dims);
        if (flat <= INT_MAX && meet_dim(sizes, pattern->dims[0], (int)flat)) return ZMLX_OK;
        return misfit(sizes, pattern, shape, n_dims, where, name, error);
    }
    int others = n_dims - pattern->n_dims + n_missing, n_rest = pattern->has_rest ? others : 0;
    if (pattern->has_rest && pattern->has_tail) n_rest = sizes->has_rest ? sizes->n_rest : 0;
    int n_tail = others - n_rest;
    bool fits = n_rest >= 0 && (pattern->has_tail ? n_tail >= 0 : n_tail == 0);
    if (fits && others > ZM_SIGNATURE_MAX_DIMS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, where, "%s: more than %d dimensions", name, ZM_SIGNATURE_MAX_DIMS);
    if (fits && pattern->has_rest && pattern->is_second_rest) {
        fits = zm_dims_broadcast(sizes->second_rest, &sizes->n_second_rest, shape, n_rest);
        sizes->has_second_rest |= fits;
    } else if (fits && pattern->has_rest) {
        fits = meet_list(sizes->rest, &sizes->n_rest, &sizes->has_rest, shape, n_rest);
    }
    if (fits && pattern->has_tail)
        fits = meet_list(sizes->tail, &sizes->n_tail, &sizes->has_tail, shape + n_dims - n_tail, n_tail);
    for (int i = n_missing; i < pattern->n_dims && fits; i++)
        fits = meet_dim(sizes, pattern->dims[i], shape[n_rest + i - n_missing]);
    if (!fits) return misfit(sizes, pattern, shape, n_dims, where, name, error);
    for (int i = n_missing; i < pattern->n_dims; i++)
        if (shape[n_rest + i - n_missing] < pattern->least[i])
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, where, "%s: %s is %d; it must be at least %d", name,
                           pattern->dims[i], shape[n_rest + i - n_missing], pattern->least[i]);
    return ZMLX_OK;
}

bool zm_pattern_shape(int *shape, int *n_dims, const zm_pattern *pattern, const zm_sizes *sizes) {
    *n_dims = 0;
    if (pattern->is_one) {
        shape[(*n_dims)++] = 1;
        return true;
    }
    if (pattern->has_rest || pattern->broadcasts)
        for (int i = 0; i < (pattern->is_second_rest ? sizes->n_second_rest : sizes->n_rest); i++)
            shape[(*n_dims)++] = pattern->is_second_rest ? sizes->second_rest[i] : sizes->rest[i];
    for (int i = 0; i < pattern->n_dims; i++) {
        int64_t value;
        if (!zm_sizes_evaluate(&value, sizes, pattern->dims[i]) || value < 0 || value > INT_MAX) return false;
        if (*n_dims == ZM_SIGNATURE_MAX_DIMS) return false;
        shape[(*n_dims)++] = (int)value;
    }
    for (int i = 0; pattern->has_tail && i < sizes->n_tail; i++) {
        if (*n_dims == ZM_SIGNATURE_MAX_DIMS) return false;
        shape[(*n_dims)++] = sizes->tail[i];
    }
    return true;
}

bool zm_number_in_range(const zm_signature *signature, int i, double value, const zm_sizes *sizes) {
    const zm_number_range *range = &signature->ranges[i];
    double high = range->high;
    int64_t size;
    if (range->high_name && sizes && zm_sizes_find(&size, sizes, range->high_name)) high = (double)size;
    else if (range->high_name) high = HUGE_VAL;
    if (!(range->low_open ? value > range->low : value >= range->low)) return false;
    return range->high_open ? value < high : value <= high;
}
