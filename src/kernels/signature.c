/* SPDX-License-Identifier: MIT */
/* Parsing signatures. */
#include "kernels/signature.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/number.h"

static const char *const role_names[] = {
#define ZM_ROLE(enumerator, name, accepts) name,
#include "kernels/roles.def"
#undef ZM_ROLE
};
static const char *const kind_names[] = {"float", "int", "bool", "seed", "dtype", "choice"};
enum { N_KINDS = sizeof kind_names / sizeof *kind_names };

typedef struct reader {
    zm_arena *arena;
    const char *text, *at;
    zmlx_error *error;
} reader;

static zmlx_status fail_at(const reader *self, const char *expected) {
    return zm_fail(self->error, ZMLX_ERROR_FORMAT, "signature", "expected %s at `%.30s` of `%s`", expected, self->at,
                   self->text);
}

static void skip_space(reader *self) { self->at += strspn(self->at, " \n"); }

static bool accept(reader *self, const char *word) {
    skip_space(self);
    size_t size = strlen(word);
    if (strncmp(self->at, word, size)) return false;
    if (isalnum((unsigned char)word[size - 1]) && (isalnum((unsigned char)self->at[size]) || self->at[size] == '_'))
        return false;
    self->at += size;
    return true;
}

static const char *copy(const reader *self, const char *begin, const char *end) {
    while (begin < end && begin[0] == ' ') begin++;
    while (end > begin && end[-1] == ' ') end--;
    return zm_arena_copy(self->arena, begin, (size_t)(end - begin));
}

static zmlx_status read_name(const char **name, reader *self) {
    skip_space(self);
    size_t size = 0;
    while (isalnum((unsigned char)self->at[size]) || self->at[size] == '_') size++;
    if (!size) return fail_at(self, "a name");
    *name = zm_arena_copy(self->arena, self->at, size);
    self->at += size;
    return *name ? ZMLX_OK : zm_fail_memory(self->error);
}

/* Up to one of the stops, outside brackets. */
static const char *read_until(reader *self, const char *stops) {
    const char *begin = self->at;
    for (int depth = 0; *self->at && (depth || !strchr(stops, *self->at)); self->at++) {
        if (strchr("([", *self->at)) depth++;
        if (strchr(")]", *self->at)) depth--;
    }
    return copy(self, begin, self->at);
}

static zmlx_status read_dim(zm_pattern *pattern, reader *self) {
    if (pattern->n_dims == ZM_SIGNATURE_MAX_DIMS) return fail_at(self, "fewer dimensions");
    const char *text = read_until(self, ",]");
    if (!text) return zm_fail_memory(self->error);
    const char *bound = strstr(text, ">=");
    size_t size = strlen(text);
    if (size && text[size - 1] == '?') {
        if (pattern->n_dims || pattern->has_rest) return fail_at(self, "? at the first size only, before");
        pattern->is_first_optional = true;
        text = copy(self, text, text + size - 1);
        if (!text) return zm_fail_memory(self->error);
    }
    pattern->least[pattern->n_dims] = bound ? (int)strtol(bound + 2, NULL, 10) : 0;
    if (bound) text = copy(self, text, bound);
    if (!text) return zm_fail_memory(self->error);
    pattern->dims[pattern->n_dims++] = text;
    return ZMLX_OK;
}

static zmlx_status read_pattern(zm_pattern *pattern, const char **shape, reader *self) {
    *pattern = (zm_pattern){0};
    if (!accept(self, "[")) return fail_at(self, "[");
    const char *begin = self->at;
    if (accept(self, "one")) {
        pattern->is_one = true;
    } else if (accept(self, "broadcast")) {
        pattern->broadcasts = true;
    } else if (!accept(self, "]")) {
        pattern->is_flat = accept(self, "flat");
        pattern->is_second_rest = accept(self, "I...");
        pattern->has_rest = pattern->is_second_rest || accept(self, "...");
        if (!pattern->has_rest) ZM_TRY(read_dim(pattern, self));
        while (!pattern->has_tail && accept(self, ",")) {
            pattern->has_tail = accept(self, "...");
            if (!pattern->has_tail) ZM_TRY(read_dim(pattern, self));
        }
    } else {
        self->at--;
    }
    *shape = copy(self, begin, self->at);
    if (!*shape) return zm_fail_memory(self->error);
    return accept(self, "]") ? ZMLX_OK : fail_at(self, "]");
}

static int find_word(const char *const *words, int count, const char *word) {
    for (int i = 0; i < count; i++)
        if (!strcmp(words[i], word)) return i;
    return -1;
}

static zmlx_status read_input(zm_signature *signature, reader *self) {
    int i = signature->n_inputs++, role = ZM_ROLE_DATA;
    if (i == ZM_SIGNATURE_MAX_INPUTS) return fail_at(self, "fewer inputs");
    zmlx_catalog_input *input = &signature->inputs[i];
    ZM_TRY(read_name(&input->name, self));
    input->is_optional = accept(self, "?");
    ZM_TRY(read_pattern(&signature->input_patterns[i], &input->shape, self));
    if (accept(self, ":")) {
        const char *word;
        ZM_TRY(read_name(&word, self));
        role = find_word(role_names, ZM_ROLE_COUNT, word);
        if (role < 0) return fail_at(self, "a role before");
    }
    if (accept(self, "<") && !(signature->bounds[i] = read_until(self, ",;-="))) return zm_fail_memory(self->error);
    if (accept(self, "=")) {
        char *end;
        signature->absent[i] = (float)zm_read_number(self->at, &end);
        if (end == self->at) return fail_at(self, "a number");
        self->at = end;
    }
    signature->roles[i] = (zm_role)role;
    input->role = role_names[role];
    return ZMLX_OK;
}

/* "[0, inf)", "[1, D]". */
static zmlx_status read_range(zm_number_range *range, reader *self) {
    char *end;
    range->low_open = accept(self, "(");
    if (!range->low_open && !accept(self, "[")) return fail_at(self, "[ or (");
    skip_space(self);
    range->low = zm_read_number(self->at, &end);
    if (end == self->at) return fail_at(self, "a number");
    self->at = end;
    if (!accept(self, ",")) return fail_at(self, ",");
    skip_space(self);
    range->high = zm_read_number(self->at, &end);
    if (end == self->at) ZM_TRY(read_name(&range->high_name, self));
    if (end != self->at && !range->high_name) self->at = end;
    range->high_open = accept(self, ")");
    return range->high_open || accept(self, "]") ? ZMLX_OK : fail_at(self, "] or )");
}

static zmlx_status read_number(zm_signature *signature, reader *self) {
    int i = signature->n_numbers++;
    if (i == ZM_SIGNATURE_MAX_NUMBERS) return fail_at(self, "fewer numbers");
    zmlx_catalog_number *number = &signature->numbers[i];
    zm_number_range *range = &signature->ranges[i];
    const char *kind;
    *range = (zm_number_range){.low = -HUGE_VAL, .high = HUGE_VAL};
    ZM_TRY(read_name(&number->name, self));
    if (!accept(self, ":")) return fail_at(self, ":");
    ZM_TRY(read_name(&kind, self));
    int found = find_word(kind_names, N_KINDS, kind);
    if (found < 0) return fail_at(self, "a kind of number before");
    signature->kinds[i] = (zm_number_kind)found;
    number->kind = kind_names[found];
    number->preset = number->range = "";
    skip_space(self);
    if (accept(self, "=")) {
        skip_space(self);
        const char *begin = self->at;
        self->at += strcspn(self->at, " ,;");
        number->preset = copy(self, begin, self->at);
    }
    if (accept(self, "in")) {
        skip_space(self);
        const char *begin = self->at;
        ZM_TRY(read_range(range, self));
        number->range = copy(self, begin, self->at);
    }
    if (found == ZM_NUMBER_CHOICE) number->range = number->preset;
    return number->preset && number->range ? ZMLX_OK : zm_fail_memory(self->error);
}

static zmlx_status read_output(zm_signature *signature, reader *self) {
    int i = signature->n_outputs++;
    if (i == ZM_SIGNATURE_MAX_OUTPUTS) return fail_at(self, "fewer outputs");
    zmlx_catalog_output *output = &signature->outputs[i];
    ZM_TRY(read_name(&output->name, self));
    ZM_TRY(read_pattern(&signature->output_patterns[i], &output->shape, self));
    output->type = "";
    return accept(self, ":") ? read_name(&output->type, self) : ZMLX_OK;
}

const char *zm_choice_word(size_t *length, const char *words, int place) {
    for (*length = strcspn(words, "|"); place > 0 && words[*length]; place--) {
        words += *length + 1;
        *length = strcspn(words, "|");
    }
    return place ? NULL : words;
}

zmlx_status zm_signature_parse(zm_signature *signature, zm_arena *arena, const char *text, zmlx_error *error) {
    reader self = {arena, text, text, error};
    *signature = (zm_signature){0};
    skip_space(&self);
    if (strncmp(self.at, "->", 2)) {
        do ZM_TRY(read_input(signature, &self));
        while (accept(&self, ","));
    }
    if (accept(&self, ";")) {
        do ZM_TRY(read_number(signature, &self));
        while (accept(&self, ","));
    }
    if (!accept(&self, "->")) return fail_at(&self, "->");
    do ZM_TRY(read_output(signature, &self));
    while (accept(&self, ","));
    skip_space(&self);
    return *self.at ? fail_at(&self, "the end") : ZMLX_OK;
}
