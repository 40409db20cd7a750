/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/split.h"

#include <string.h>

#include "model/tokenizer/unicode.h"
#include "model/tokenizer/utf8.h"

static bool printable(unsigned byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* The bytes that have no visible character take U+0100, U+0101, ... in order: 0x00 to 0x20, 0x7f to
 * 0xa0, 0xad. */
uint32_t zm_byte_to_character(unsigned char byte) {
    if (printable(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    if (byte == 0xad) return 0x143;
    return 0x121u + byte - 0x7fu;
}

int zm_character_to_byte(uint32_t code) {
    if (code < 0x100) return printable(code) ? (int)code : -1;
    if (code <= 0x120) return (int)(code - 0x100);
    if (code <= 0x142) return (int)(code - 0x121 + 0x7f);
    return code == 0x143 ? 0xad : -1;
}

/* Adds the part of the text just written to out that begins at start. */
static void add_piece(zm_pieces *out, size_t start, bool at_origin) {
    zm_pieces_add(out, (zm_piece){.offset = start,
                                  .size = out->text.size - start,
                                  .token = ZM_NO_TOKEN,
                                  .at_origin = at_origin});
}

static void add_part(zm_pieces *out, const char *text, size_t start, size_t end, bool at_origin) {
    size_t offset = out->text.size;
    zm_text_append(&out->text, text + start, end - start);
    add_piece(out, offset, at_origin && start == 0);
}

static void add_byte_level(zm_pieces *out, const char *text, size_t start, size_t end, bool at_origin) {
    size_t offset = out->text.size, used = 0;
    char buffer[256];
    for (size_t i = start; i < end; i++) {
        if (used + 4 > sizeof buffer) {
            zm_text_append(&out->text, buffer, used);
            used = 0;
        }
        used += zm_utf8_write(buffer + used, zm_byte_to_character((unsigned char)text[i]));
    }
    zm_text_append(&out->text, buffer, used);
    add_piece(out, offset, at_origin && start == 0);
}

/* The parts that the spans make under one of the merging behaviours, as in the package: a span that is
 * not merged begins a part. */
static void merge_spans(const zm_splitter *splitter, zm_spans *spans) {
    bool previous = false;
    size_t count = 0;
    zm_split_behaviour behaviour = splitter->behaviour;
    if (behaviour == ZM_SPLIT_MERGED_WITH_NEXT) { /* from the end, filling the array's end */
        size_t first = spans->count;
        for (size_t i = spans->count; i-- > 0;) {
            zm_span span = spans->items[i];
            bool match = span.match != splitter->invert;
            if (match && !previous && first < spans->count)
                spans->items[first].start = span.start;
            else
                spans->items[--first] = span;
            previous = match;
        }
        memmove(spans->items, spans->items + first, (spans->count - first) * sizeof *spans->items);
        spans->count -= first;
        return;
    }
    for (size_t i = 0; i < spans->count; i++) {
        zm_span span = spans->items[i];
        bool match = span.match != splitter->invert;
        bool merge = behaviour == ZM_SPLIT_CONTIGUOUS ? match == previous : match && !previous;
        if (merge && count)
            spans->items[count - 1].end = span.end;
        else
            spans->items[count++] = span;
        previous = match;
    }
    spans->count = count;
}

static void add_spans(const zm_splitter *splitter, zm_spans *spans, zm_pieces *out, const char *text,
                      bool at_origin) {
    bool removed = splitter->behaviour == ZM_SPLIT_REMOVED;
    if (splitter->behaviour != ZM_SPLIT_ISOLATED && !removed) merge_spans(splitter, spans);
    for (size_t i = 0; i < spans->count; i++) {
        const zm_span *span = &spans->items[i];
        if (removed && span->match != splitter->invert) continue;
        add_part(out, text, span->start, span->end, at_origin);
    }
}

static void find_digits(zm_spans *spans, const char *text, size_t size) {
    size_t covered = 0;
    spans->count = 0;
    for (size_t at = 0; at < size;) {
        uint32_t code;
        size_t length = zm_utf8_next(text + at, size - at, &code);
        if (zm_unicode_number(code)) {
            if (covered < at) zm_spans_add(spans, covered, at, false);
            zm_spans_add(spans, at, at + length, true);
            covered = at + length;
        }
        at += length;
    }
    if (covered < size) zm_spans_add(spans, covered, size, false);
}

static zmlx_status split_byte_level(const zm_splitter *splitter, zm_matcher *matcher, zm_text *scratch,
                                    zm_pieces *out, const char *text, size_t size, bool at_origin,
                                    zmlx_error *error) {
    if (splitter->add_prefix_space && text[0] != ' ') {
        zm_text_clear(scratch);
        zm_text_append(scratch, " ", 1);
        zm_text_append(scratch, text, size);
        if (scratch->failed) return zm_fail_memory(error);
        text = scratch->data;
        size++;
    }
    if (!splitter->pattern) {
        add_byte_level(out, text, 0, size, at_origin);
        return ZMLX_OK;
    }
    ZM_TRY(zm_pattern_find(splitter->pattern, matcher, text, size, error));
    for (size_t i = 0; i < matcher->spans.count; i++)
        add_byte_level(out, text, matcher->spans.items[i].start, matcher->spans.items[i].end, at_origin);
    return ZMLX_OK;
}

static void split_metaspace(const zm_splitter *splitter, zm_pieces *out, const char *text, size_t size,
                            bool at_origin) {
    const char *replacement = splitter->replacement;
    size_t length = splitter->replacement_size, start = out->text.size;
    bool begins = (size >= length && !memcmp(text, replacement, length)) || text[0] == ' ';
    bool first = at_origin;
    if (!begins &&
        (splitter->prepend == ZM_PREPEND_ALWAYS || (splitter->prepend == ZM_PREPEND_FIRST && at_origin)))
        zm_text_append(&out->text, replacement, length);
    for (size_t at = 0; at < size;) {
        bool marked = size - at >= length && !memcmp(text + at, replacement, length);
        size_t step = 1;
        if ((marked || text[at] == ' ') && splitter->split && out->text.size > start) {
            add_piece(out, start, first);
            start = out->text.size;
            first = false;
        }
        if (marked) step = length;
        if (marked || text[at] == ' ')
            zm_text_append(&out->text, replacement, length);
        else
            zm_text_append(&out->text, text + at, 1);
        at += step;
    }
    add_piece(out, start, first);
}

zmlx_status zm_split(const zm_splitter *splitter, zm_matcher *matcher, const zm_pieces *in, zm_pieces *out,
                     zmlx_error *error) {
    zm_text scratch = {0};
    zmlx_status status = ZMLX_OK;
    zm_pieces_clear(out);
    for (size_t i = 0; i < in->count && !status; i++) {
        zm_piece piece = in->items[i];
        const char *text = in->text.data + piece.offset;
        if (piece.token != ZM_NO_TOKEN) {
            piece.offset = piece.size = 0;
            zm_pieces_add(out, piece);
            continue;
        }
        switch (splitter->kind) {
        case ZM_SPLIT_PATTERN:
            status = zm_pattern_find(splitter->pattern, matcher, text, piece.size, error);
            if (!status) add_spans(splitter, &matcher->spans, out, text, piece.at_origin);
            break;
        case ZM_SPLIT_DIGITS:
            find_digits(&matcher->spans, text, piece.size);
            add_spans(splitter, &matcher->spans, out, text, piece.at_origin);
            break;
        case ZM_SPLIT_BYTE_LEVEL:
            status =
                split_byte_level(splitter, matcher, &scratch, out, text, piece.size, piece.at_origin, error);
            break;
        case ZM_SPLIT_METASPACE: split_metaspace(splitter, out, text, piece.size, piece.at_origin); break;
        }
        if (!status) status = zm_matcher_check_size(matcher, out->text.size, error);
    }
    zm_text_free(&scratch);
    if (!status && (out->failed || out->text.failed || matcher->spans.failed)) status = zm_fail_memory(error);
    return status;
}
