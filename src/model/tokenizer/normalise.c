/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/normalise.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/tokenizer/unicode.h"
#include "model/tokenizer/utf8.h"

/* Decomposed characters between two boundaries of composition. */
typedef struct sequence {
    utf8proc_int32_t *codes;  /* owned */
    utf8proc_int32_t *sorted; /* owned; scratch for ordering */
    size_t count, capacity;
    bool decompose_only, compatibility;
} sequence;

enum { MAX_DECOMPOSITION = 32 }; /* the longest is 18 */

static bool reserve(sequence *s) {
    if (s->capacity - s->count >= MAX_DECOMPOSITION) return true;
    size_t capacity = s->capacity ? s->capacity * 2 : 256;
    utf8proc_int32_t *codes = realloc(s->codes, capacity * sizeof *codes);
    if (codes) s->codes = codes;
    utf8proc_int32_t *sorted = realloc(s->sorted, capacity * sizeof *sorted);
    if (sorted) s->sorted = sorted;
    if (!codes || !sorted) return false;
    s->capacity = capacity;
    return true;
}

static unsigned combining_class(utf8proc_int32_t code) {
    int class = (int)utf8proc_get_property(code)->combining_class;
    return (unsigned)class & 0xff;
}

/* Orders a run of marks by combining class, equal classes as they were: a counting sort, so that a long
 * run of marks costs no more than its length. */
static void order_marks(sequence *s, size_t start, size_t end) {
    size_t places[257] = {0};
    if (end - start < 2) return;
    for (size_t i = start; i < end; i++) places[combining_class(s->codes[i]) + 1]++;
    for (size_t i = 1; i < 257; i++) places[i] += places[i - 1];
    for (size_t i = start; i < end; i++) s->sorted[places[combining_class(s->codes[i])]++] = s->codes[i];
    memcpy(s->codes + start, s->sorted, (end - start) * sizeof *s->codes);
}

static void order(sequence *s) {
    size_t start = 0;
    for (size_t i = 0; i < s->count; i++)
        if (!combining_class(s->codes[i])) {
            order_marks(s, start, i);
            start = i + 1;
        }
    order_marks(s, start, s->count);
}

static void append_code(zm_text *result, uint32_t code) {
    char bytes[4];
    zm_text_append(result, bytes, zm_utf8_write(bytes, code));
}

static void flush(sequence *s, zm_text *result) {
    order(s);
    utf8proc_ssize_t count = (utf8proc_ssize_t)s->count;
    if (!s->decompose_only && count)
        count = utf8proc_normalize_utf32(s->codes, count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < count; i++) append_code(result, (uint32_t)s->codes[i]);
    s->count = 0;
}

static zmlx_status normalise_unicode(sequence *s, zm_text *result, const char *text, size_t size,
                                     zmlx_error *error) {
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (s->compatibility ? UTF8PROC_COMPAT : 0);
    for (size_t at = 0; at < size;) {
        uint32_t code;
        if (!reserve(s)) return zm_fail_memory(error);
        at += zm_utf8_next(text + at, size - at, &code);
        if (zm_unicode_inert(code)) {
            flush(s, result);
            append_code(result, code);
            continue;
        }
        /* ASCII begins a new sequence: nothing before it composes with it. */
        if (code < 0x80) flush(s, result);
        int boundary_class = 0;
        utf8proc_ssize_t length = utf8proc_decompose_char((utf8proc_int32_t)code, s->codes + s->count,
                                                          (utf8proc_ssize_t)(s->capacity - s->count),
                                                          (utf8proc_option_t)options, &boundary_class);
        if (length < 0 || (size_t)length > s->capacity - s->count)
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, NULL, "utf8proc cannot decompose U+%04X",
                           (unsigned)code);
        s->count += (size_t)length;
    }
    flush(s, result);
    return ZMLX_OK;
}

static bool is_ascii(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)text[i] >= 0x80) return false;
    return true;
}

static zmlx_status replace(const zm_normaliser *normaliser, zm_matcher *matcher, zm_text *result,
                           const char *text, size_t size, bool *at_origin, zmlx_error *error) {
    ZM_TRY(zm_pattern_find(normaliser->pattern, matcher, text, size, error));
    for (size_t i = 0; i < matcher->spans.count; i++) {
        const zm_span *span = &matcher->spans.items[i];
        if (!span->match) {
            zm_text_append(result, text + span->start, span->end - span->start);
            continue;
        }
        zm_text_append(result, normaliser->content, normaliser->content_size);
        ZM_TRY(zm_matcher_check_size(matcher, result->size, error));
        /* The package aligns a replacement with the last character it replaces. */
        uint32_t code;
        if (i == 0 && span->end > span->start &&
            (!normaliser->content_size || zm_utf8_next(text, size, &code) < span->end))
            *at_origin = false;
    }
    return ZMLX_OK;
}

zmlx_status zm_normalise(const zm_normaliser *normaliser, zm_matcher *matcher, zm_text *result,
                         const char *text, size_t size, bool *at_origin, zmlx_error *error) {
    zm_normaliser_kind kind = normaliser->kind;
    if (kind == ZM_NORMALISE_PREPEND) {
        if (size) zm_text_append(result, normaliser->content, normaliser->content_size);
        zm_text_append(result, text, size);
        return ZMLX_OK;
    }
    if (kind == ZM_NORMALISE_REPLACE)
        return replace(normaliser, matcher, result, text, size, at_origin, error);
    if (is_ascii(text, size)) {
        zm_text_append(result, text, size);
        return ZMLX_OK;
    }
    sequence s = {.decompose_only = kind == ZM_NORMALISE_NFD || kind == ZM_NORMALISE_NFKD,
                  .compatibility = kind == ZM_NORMALISE_NFKC || kind == ZM_NORMALISE_NFKD};
    zmlx_status status = normalise_unicode(&s, result, text, size, error);
    free(s.codes);
    free(s.sorted);
    return status;
}
