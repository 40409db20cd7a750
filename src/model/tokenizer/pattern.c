/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/pattern.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "model/tokenizer/utf8.h"

enum {
    FIRST_STEPS = 20000000, /* for a text however short */
    STEPS_PER_BYTE = 500   /* the usual patterns take 5 to 30 */
};

struct zm_pattern {
    char *literal; /* owned; NULL for a regular expression */
    size_t literal_size;
    pcre2_code *code; /* owned */
};

void zm_pattern_free(zm_pattern *pattern) {
    if (!pattern) return;
    free(pattern->literal);
    pcre2_code_free(pattern->code);
    free(pattern);
}

static zmlx_status compile(zm_pattern *pattern, const zm_text *source, const char *where, zmlx_error *error) {
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return zm_fail_memory(error);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK |
                       PCRE2_NEVER_BACKSLASH_C | PCRE2_AUTO_CALLOUT;
    int code;
    PCRE2_SIZE offset;
    pattern->code =
        pcre2_compile((PCRE2_SPTR)zm_text_string(source), source->size, options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (pattern->code) return ZMLX_OK;
    char reason[160];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
    return zm_fail(error, ZMLX_ERROR_FORMAT, where, "the pattern does not compile: %s", reason);
}

zmlx_status zm_pattern_literal(zm_pattern **pattern, const char *bytes, size_t size, zmlx_error *error) {
    *pattern = NULL;
    zm_pattern *made = calloc(1, sizeof *made);
    if (!made) return zm_fail_memory(error);
    zmlx_status status = ZMLX_OK;
    if (size) {
        made->literal = malloc(size);
        made->literal_size = size;
        if (made->literal)
            memcpy(made->literal, bytes, size);
        else
            status = zm_fail_memory(error);
    } else { /* matches between any two characters */
        zm_text nothing = {0};
        status = compile(made, &nothing, NULL, error);
    }
    if (status)
        zm_pattern_free(made);
    else
        *pattern = made;
    return status;
}

zmlx_status zm_pattern_regex(zm_pattern **pattern, const char *bytes, size_t size, const char *where,
                             zmlx_error *error) {
    *pattern = NULL;
    zm_pattern *made = calloc(1, sizeof *made);
    if (!made) return zm_fail_memory(error);
    zm_text source = {0};
    zmlx_status status = zm_regex_translate(&source, bytes, size, where, error);
    if (!status && source.failed) status = zm_fail_memory(error);
    if (!status) status = compile(made, &source, where, error);
    zm_text_free(&source);
    if (status)
        zm_pattern_free(made);
    else
        *pattern = made;
    return status;
}

void zm_matcher_free(zm_matcher *matcher) {
    zm_spans_free(&matcher->spans);
    pcre2_match_data_free(matcher->match_data);
    pcre2_match_context_free(matcher->match_context);
    *matcher = (zm_matcher){0};
}

zmlx_status zm_matcher_check_size(const zm_matcher *matcher, size_t size, zmlx_error *error) {
    if (size <= matcher->text_limit) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, NULL, "the tokenizer makes the text grow beyond %zu bytes",
                   matcher->text_limit);
}

/* Called before each item of the expression is tried: the distance moved since the last call is the work
 * done in between. */
static int count_steps(pcre2_callout_block *block, void *data) {
    zm_matcher *matcher = data;
    size_t position = block->current_position;
    size_t moved = position > matcher->last_position ? position - matcher->last_position
                                                     : matcher->last_position - position;
    matcher->last_position = position;
    if (matcher->steps_left < moved + 1) return PCRE2_ERROR_CALLOUT;
    matcher->steps_left -= moved + 1;
    return 0;
}

static bool prepare(zm_matcher *matcher) {
    if (matcher->match_data) return true;
    matcher->match_data = pcre2_match_data_create(1, NULL);
    matcher->match_context = pcre2_match_context_create(NULL);
    if (!matcher->match_data || !matcher->match_context) return false;
    matcher->steps_left = FIRST_STEPS;
    pcre2_set_callout(matcher->match_context, count_steps, matcher);
    pcre2_set_match_limit(matcher->match_context, UINT32_MAX);
    pcre2_set_depth_limit(matcher->match_context, UINT32_MAX);
    pcre2_set_heap_limit(matcher->match_context, 512 * 1024); /* KiB */
    return true;
}

static void find_literal(const zm_pattern *pattern, zm_spans *spans, const char *text, size_t size) {
    size_t at = 0;
    while (at < size) {
        const char *found = memmem(text + at, size - at, pattern->literal, pattern->literal_size);
        size_t start = found ? (size_t)(found - text) : size;
        if (start > at) zm_spans_add(spans, at, start, false);
        if (!found) return;
        at = start + pattern->literal_size;
        zm_spans_add(spans, start, at, true);
    }
}

static zmlx_status find_regex(const zm_pattern *pattern, zm_matcher *matcher, const char *text, size_t size,
                              zmlx_error *error) {
    if (!prepare(matcher)) return zm_fail_memory(error);
    matcher->steps_left += (uint64_t)size * STEPS_PER_BYTE;
    size_t at = 0, covered = 0;
    bool any = false;
    while (at <= size) {
        matcher->last_position = at;
        int code = pcre2_match(pattern->code, (PCRE2_SPTR)text, size, at, PCRE2_NO_UTF_CHECK,
                               matcher->match_data, matcher->match_context);
        if (code == PCRE2_ERROR_NOMATCH) break;
        if (code == PCRE2_ERROR_NOMEMORY) return zm_fail_memory(error);
        if (code < 0)
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, NULL,
                           "a pattern of the tokenizer takes too many steps on this text");
        const PCRE2_SIZE *found = pcre2_get_ovector_pointer(matcher->match_data);
        size_t start = found[0], end = found[1];
        if (start == end && any && end == covered) { /* an empty match where the last one ended */
            uint32_t code_point;
            if (at >= size) break;
            at += zm_utf8_next(text + at, size - at, &code_point);
            continue;
        }
        if (start < covered || end < start) break; /* \K in a look-around cannot be written here */
        if (start > covered) zm_spans_add(&matcher->spans, covered, start, false);
        zm_spans_add(&matcher->spans, start, end, true);
        at = covered = end;
        any = true;
    }
    if (covered < size) zm_spans_add(&matcher->spans, covered, size, false);
    return ZMLX_OK;
}

zmlx_status zm_pattern_find(const zm_pattern *pattern, zm_matcher *matcher, const char *text, size_t size,
                            zmlx_error *error) {
    matcher->spans.count = 0;
    if (size) {
        if (pattern->literal)
            find_literal(pattern, &matcher->spans, text, size);
        else
            ZM_TRY(find_regex(pattern, matcher, text, size, error));
    }
    return matcher->spans.failed ? zm_fail_memory(error) : ZMLX_OK;
}
