/* SPDX-License-Identifier: MIT */
/* Rows with their signatures, by number and by name. */
#include "kernels/catalog.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/number.h"

static struct {
    pthread_once_t once;
    zm_arena *arena; /* lives as long as the process */
    zm_kernel_entry *entries;
    int count;
    zmlx_error error; /* a wrong row; tests find it */
} catalog = {.once = PTHREAD_ONCE_INIT};

static const char *gradient_text(const zm_row *row) {
    if (row->no_gradient) return "none";
    return row->gradients[0] ? "given" : "derived";
}

static const char *tolerance_text(zm_tolerance_class tolerance) {
    static const char *const names[] = {"exact", "elementwise", "reduction", "quantised"};
    return names[tolerance];
}

static const zm_row *find_row(const zm_row *rows, int n_rows, const char *name) {
    for (int i = 0; i < n_rows; i++)
        if (rows[i].name && !strcmp(rows[i].name, name)) return &rows[i];
    return NULL;
}

/* The row with what it takes over from the one it is a profile of; NULL: there is none, or out of memory. */
static const zm_row *complete(const zm_row *own, const zm_row *rows, int n_rows) {
    if (!own->profile_of) return own;
    const zm_row *base = find_row(rows, n_rows, own->profile_of);
    zm_row *made = base ? zm_arena_alloc(catalog.arena, 1, sizeof *made) : NULL;
    if (!made) return NULL;
    *made = *base;
    made->name = own->name;
    made->profile_of = own->profile_of;
    made->body = own->body;
    made->compose = own->compose;
    made->parts = own->parts;
    made->header = own->header;
    made->is_part = own->is_part;
    if (own->no_gradient) made->no_gradient = own->no_gradient;
    if (own->signature) made->signature = own->signature;
    made->about = zm_arena_printf(catalog.arena, "%s, rounded after each step as MLX's own operations are", base->name);
    return made;
}

static zmlx_status add(zm_kernel_entry *made, const zm_row *rows, int n_rows, const zm_row *own, const char *family) {
    const zm_row *row = own->same_as ? find_row(rows, n_rows, own->same_as) : complete(own, rows, n_rows);
    if (!row || !row->signature || !row->about)
        return zm_fail(&catalog.error, ZMLX_ERROR_FORMAT, own->name, "its row is not complete");
    zm_signature *signature = &made->signature;
    ZM_TRY(zm_signature_parse(signature, catalog.arena, row->signature, &catalog.error));
    made->row = row;
    made->entry = (zmlx_catalog_entry){.name = own->name,
                                       .family = family,
                                       .about = row->about,
                                       .same_as = own->same_as,
                                       .expression = row->body,
                                       .gradient = gradient_text(row),
                                       .tolerance = row->profile_of ? "as MLX" : tolerance_text(row->tolerance),
                                       .inputs = signature->inputs,
                                       .numbers = signature->numbers,
                                       .outputs = signature->outputs,
                                       .n_inputs = (size_t)signature->n_inputs,
                                       .n_numbers = (size_t)signature->n_numbers,
                                       .n_outputs = (size_t)signature->n_outputs};
    return ZMLX_OK;
}

static void make_catalog(void) {
    int n_rows;
    const zm_row *rows = zm_catalog_rows(&n_rows);
    const char *family = "";
    catalog.arena = zm_arena_new();
    catalog.entries = catalog.arena ? zm_arena_alloc(catalog.arena, (size_t)n_rows, sizeof *catalog.entries) : NULL;
    for (int i = 0; catalog.entries && i < n_rows; i++) {
        if (rows[i].family)
            family = rows[i].family;
        else if (!add(&catalog.entries[catalog.count], rows, n_rows, &rows[i], family))
            catalog.count++;
    }
}

zmlx_status zm_catalog_check(zmlx_error *error) {
    pthread_once(&catalog.once, make_catalog);
    if (catalog.error.code && error) *error = catalog.error;
    return catalog.error.code;
}

const zm_kernel_entry *zm_catalog_at(int index) {
    pthread_once(&catalog.once, make_catalog);
    return index >= 0 && index < catalog.count ? &catalog.entries[index] : NULL;
}

const zm_kernel_entry *zm_catalog_lookup(const char *name) {
    const zm_kernel_entry *entry;
    for (int i = 0; (entry = zm_catalog_at(i)); i++)
        if (!strcmp(entry->entry.name, name)) return entry;
    return NULL;
}

const zmlx_catalog_entry *zmlx_catalog_get(size_t index) {
    const zm_kernel_entry *entry;
    for (int i = 0; (entry = zm_catalog_at(i)); i++)
        if (!entry->row->is_part && index-- == 0) return &entry->entry;
    return NULL;
}

const zmlx_catalog_entry *zmlx_catalog_find(const char *name) {
    const zm_kernel_entry *entry = name ? zm_catalog_lookup(name) : NULL;
    return entry && !entry->row->is_part ? &entry->entry : NULL;
}

static const struct {
    const char *name;
    mlx_dtype dtype;
} dtype_names[] = {{"float32", MLX_FLOAT32}, {"float16", MLX_FLOAT16}, {"bfloat16", MLX_BFLOAT16}};

/* The place of word among "a|b|c", or -1. */
static int find_choice(const char *words, const char *word) {
    size_t length;
    const char *known;
    for (int place = 0; (known = zm_choice_word(&length, words, place)); place++)
        if (length == strlen(word) && !memcmp(known, word, length)) return place;
    return -1;
}

static bool parse_value(zmlx_catalog_value *value, zm_number_kind kind, const char *range, const char *text) {
    char *end;
    errno = 0;
    switch (kind) {
    case ZM_NUMBER_SEED:
        value->seed = strtoull(text, &end, 0);
        return isdigit((unsigned char)text[0]) && !*end && !errno;
    case ZM_NUMBER_DTYPE:
        value->number = ZM_DTYPE_OF_DATA;
        if (!strcmp(text, "data")) return true;
        for (size_t i = 0; i < sizeof dtype_names / sizeof *dtype_names; i++)
            if (!strcmp(dtype_names[i].name, text)) {
                value->number = dtype_names[i].dtype;
                return true;
            }
        return false;
    case ZM_NUMBER_CHOICE: value->number = find_choice(range, text); return value->number >= 0;
    default:
        if (kind == ZM_NUMBER_BOOL && (!strcmp(text, "true") || !strcmp(text, "false"))) {
            value->number = text[0] == 't';
            return true;
        }
        value->number = zm_read_number(text, &end);
        return text[0] && !isspace((unsigned char)text[0]) && !*end;
    }
}

void zmlx_catalog_presets(zmlx_catalog_value *values, const zmlx_catalog_entry *entry) {
    if (!entry) return;
    const zm_signature *signature = &((const zm_kernel_entry *)entry)->signature;
    for (int i = 0; i < signature->n_numbers; i++) {
        values[i] = (zmlx_catalog_value){0};
        /* The preset of a choice is its first word. */
        if (signature->kinds[i] == ZM_NUMBER_CHOICE) continue;
        if (!parse_value(&values[i], signature->kinds[i], signature->numbers[i].range, signature->numbers[i].preset))
            values[i].number = NAN; /* none: must be given */
    }
}

zmlx_status zmlx_catalog_set(zmlx_catalog_value *values, const zmlx_catalog_entry *entry, const char *name,
                             const char *text, zmlx_error *error) {
    zm_error_clear(error);
    if (!entry) return zm_fail_null(error, "entry");
    if (!name || !text) return zm_fail_null(error, name ? "text" : "name");
    const zm_signature *signature = &((const zm_kernel_entry *)entry)->signature;
    for (int i = 0; i < signature->n_numbers; i++) {
        const zmlx_catalog_number *number = &signature->numbers[i];
        if (strcmp(number->name, name)) continue;
        zmlx_catalog_value value = values[i];
        if (parse_value(&value, signature->kinds[i], number->range, text)) {
            values[i] = value;
            return ZMLX_OK;
        }
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, entry->name, "%s: expected %s%s%s, got %s", name, number->kind,
                       number->range[0] ? " " : "", number->range, text);
    }
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, entry->name, "there is no number %s", name);
}
