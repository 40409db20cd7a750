/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/decode.h"

#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/utf8.h"

enum { MAX_STRING = 16 << 20 }; /* bytes one string may grow to by replacement */

zmlx_status zm_decode_chain_init(zm_decode_chain *chain, const zm_decode_step *steps, size_t count,
                                 bool join_with_spaces, zmlx_error *error) {
    *chain = (zm_decode_chain){.steps = steps, .count = count, .join_with_spaces = join_with_spaces};
    chain->matcher.text_limit = MAX_STRING;
    chain->states = calloc(count + 1, sizeof *chain->states);
    return chain->states ? ZMLX_OK : zm_fail_memory(error);
}

void zm_decode_chain_free(zm_decode_chain *chain) {
    for (size_t i = 0; chain->states && i < chain->count; i++) {
        zm_text_free(&chain->states[i].held);
        zm_text_free(&chain->states[i].scratch);
    }
    free(chain->states);
    zm_matcher_free(&chain->matcher);
    zm_text_free(&chain->output);
    *chain = (zm_decode_chain){0};
}

static zmlx_status pass(zm_decode_chain *chain, size_t index, const char *text, size_t size,
                        zmlx_error *error);

static zmlx_status pass_scratch(zm_decode_chain *chain, size_t index, zmlx_error *error) {
    const zm_text *scratch = &chain->states[index].scratch;
    if (scratch->failed) return zm_fail_memory(error);
    return pass(chain, index + 1, zm_text_string(scratch), scratch->size, error);
}

static zmlx_status replace(zm_decode_chain *chain, size_t index, const char *text, size_t size,
                           zmlx_error *error) {
    const zm_decode_step *step = &chain->steps[index];
    zm_text *scratch = &chain->states[index].scratch;
    const zm_spans *spans = &chain->matcher.spans;
    zm_text_clear(scratch);
    ZM_TRY(zm_pattern_find(step->pattern, &chain->matcher, text, size, error));
    for (size_t i = 0; i < spans->count; i++) {
        const zm_span *span = &spans->items[i];
        if (span->match)
            zm_text_append(scratch, step->content, step->content_size);
        else
            zm_text_append(scratch, text + span->start, span->end - span->start);
        ZM_TRY(zm_matcher_check_size(&chain->matcher, scratch->size, error));
    }
    return pass_scratch(chain, index, error);
}

static int hex_value(char byte) {
    if (byte >= '0' && byte <= '9') return byte - '0';
    if (byte >= 'a' && byte <= 'f') return byte - 'a' + 10;
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

/* The byte that "<0x..>" stands for, or -1. "+7" is a number to the package, so it is one here. */
static int byte_token(const char *text, size_t size) {
    if (size != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
    int low = hex_value(text[4]), high = text[3] == '+' ? 0 : hex_value(text[3]);
    return low < 0 || high < 0 ? -1 : high * 16 + low;
}

static bool is_utf8(const char *text, size_t size) {
    for (size_t at = 0; at < size;) {
        uint32_t code;
        bool valid, incomplete;
        at += zm_utf8_read(text + at, size - at, &code, &valid, &incomplete);
        if (!valid) return false;
    }
    return true;
}

/* A run of bytes has ended. */
static zmlx_status end_run(zm_decode_chain *chain, size_t index, zmlx_error *error) {
    zm_text *held = &chain->states[index].held;
    size_t size = held->size;
    zmlx_status status = ZMLX_OK;
    if (!size) return ZMLX_OK;
    if (is_utf8(held->data, size))
        status = pass(chain, index + 1, held->data, size, error);
    else
        for (size_t i = 0; i < size && !status; i++)
            status = pass(chain, index + 1, "\xef\xbf\xbd", 3, error);
    zm_text_clear(held);
    return status;
}

static zmlx_status byte_fallback(zm_decode_chain *chain, size_t index, const char *text, size_t size,
                                 zmlx_error *error) {
    zm_text *held = &chain->states[index].held;
    int byte = byte_token(text, size);
    if (byte < 0) {
        ZM_TRY(end_run(chain, index, error));
        return pass(chain, index + 1, text, size, error);
    }
    char value = (char)byte;
    zm_text_append(held, &value, 1);
    return held->failed ? zm_fail_memory(error) : ZMLX_OK;
}

/* Takes content away at the front of the one string that all became, part by part. */
static zmlx_status strip_fused(zm_decode_chain *chain, size_t index, const char *text, size_t size,
                               zmlx_error *error) {
    const zm_decode_step *step = &chain->steps[index];
    zm_decode_state *state = &chain->states[index];
    while (!state->done && size) {
        state->done = state->seen >= step->start || size < step->content_size ||
                      memcmp(text, step->content, step->content_size) != 0;
        if (state->done) break;
        text += step->content_size;
        size -= step->content_size;
        state->seen++;
    }
    return pass(chain, index + 1, text, size, error);
}

static zmlx_status strip(zm_decode_chain *chain, size_t index, const char *text, size_t size,
                         zmlx_error *error) {
    const zm_decode_step *step = &chain->steps[index];
    size_t length = step->content_size;
    for (uint64_t i = 0; i < step->start && size >= length && !memcmp(text, step->content, length); i++) {
        text += length;
        size -= length;
    }
    for (uint64_t i = 0; i < step->stop && size >= length; i++) {
        if (memcmp(text + size - length, step->content, length)) break;
        size -= length;
    }
    return pass(chain, index + 1, text, size, error);
}

/* The bytes that a string of GPT-2's alphabet stands for; a string with another character in it stands
 * for itself. */
static void append_bytes(zm_text *held, const char *text, size_t size) {
    size_t before = held->size;
    for (size_t at = 0; at < size;) {
        uint32_t code;
        at += zm_utf8_next(text + at, size - at, &code);
        int byte = zm_character_to_byte(code);
        if (byte < 0) {
            held->size = before;
            zm_text_append(held, text, size);
            return;
        }
        char value = (char)byte;
        zm_text_append(held, &value, 1);
    }
}

static zmlx_status byte_level(zm_decode_chain *chain, size_t index, const char *text, size_t size,
                              zmlx_error *error) {
    zm_text *held = &chain->states[index].held, *scratch = &chain->states[index].scratch;
    append_bytes(held, text, size);
    if (held->failed) return zm_fail_memory(error);
    zm_text_clear(scratch);
    if (!held->size) return ZMLX_OK;
    size_t used = zm_utf8_append_complete(scratch, held->data, held->size);
    memmove(held->data, held->data + used, held->size - used);
    held->size -= used;
    return scratch->size ? pass_scratch(chain, index, error) : ZMLX_OK;
}

static zmlx_status metaspace(zm_decode_chain *chain, size_t index, const char *text, size_t size,
                             zmlx_error *error) {
    const zm_decode_step *step = &chain->steps[index];
    zm_decode_state *state = &chain->states[index];
    bool drop = step->drop_first && state->seen == 0;
    state->seen++;
    zm_text_clear(&state->scratch);
    for (size_t at = 0; at < size;) {
        uint32_t code;
        size_t length = zm_utf8_next(text + at, size - at, &code);
        if (length != step->content_size || memcmp(text + at, step->content, length))
            zm_text_append(&state->scratch, text + at, length);
        else if (!drop)
            zm_text_append(&state->scratch, " ", 1);
        at += length;
    }
    return pass_scratch(chain, index, error);
}

static zmlx_status apply(zm_decode_chain *chain, size_t index, const char *text, size_t size,
                         zmlx_error *error) {
    switch (chain->steps[index].kind) {
    case ZM_DECODE_REPLACE: return replace(chain, index, text, size, error);
    case ZM_DECODE_BYTE_FALLBACK: return byte_fallback(chain, index, text, size, error);
    case ZM_DECODE_FUSE: return pass(chain, index + 1, text, size, error);
    case ZM_DECODE_STRIP: return strip(chain, index, text, size, error);
    case ZM_DECODE_BYTE_LEVEL: return byte_level(chain, index, text, size, error);
    case ZM_DECODE_METASPACE: return metaspace(chain, index, text, size, error);
    }
    return ZMLX_OK;
}

/* After a fusing step most steps must see the whole string: it is held back until the end. */
static bool needs_whole(const zm_decode_step *step) {
    if (!step->fused || step->kind == ZM_DECODE_FUSE) return false;
    return step->kind != ZM_DECODE_STRIP || step->stop > 0;
}

/* Gives step index one string (or, after a fusing step, the next part of the one string). */
static zmlx_status pass(zm_decode_chain *chain, size_t index, const char *text, size_t size,
                        zmlx_error *error) {
    if (index == chain->count) {
        zm_text_append(&chain->output, text, size);
        return chain->output.failed ? zm_fail_memory(error) : ZMLX_OK;
    }
    const zm_decode_step *step = &chain->steps[index];
    if (needs_whole(step)) {
        zm_text *held = &chain->states[index].held;
        zm_text_append(held, text, size);
        return held->failed ? zm_fail_memory(error) : ZMLX_OK;
    }
    if (step->fused && step->kind == ZM_DECODE_STRIP) return strip_fused(chain, index, text, size, error);
    return apply(chain, index, text, size, error);
}

zmlx_status zm_decode_push(zm_decode_chain *chain, const char *text, size_t size, zmlx_error *error) {
    if (chain->join_with_spaces && chain->n_tokens) zm_text_append(&chain->output, " ", 1);
    chain->n_tokens++;
    return pass(chain, 0, text, size, error);
}

zmlx_status zm_decode_finish(zm_decode_chain *chain, zmlx_error *error) {
    for (size_t i = 0; i < chain->count; i++) {
        const zm_decode_step *step = &chain->steps[i];
        zm_decode_state *state = &chain->states[i];
        if (needs_whole(step)) {
            zm_text whole = state->held;
            state->held = (zm_text){0};
            zmlx_status status = apply(chain, i, zm_text_string(&whole), whole.size, error);
            zm_text_free(&whole);
            if (status) return status;
        }
        if (step->kind == ZM_DECODE_BYTE_FALLBACK) ZM_TRY(end_run(chain, i, error));
        if (step->kind == ZM_DECODE_BYTE_LEVEL && state->held.size) {
            zm_text_clear(&state->scratch);
            zm_utf8_append_repaired(&state->scratch, state->held.data, state->held.size);
            zm_text_clear(&state->held);
            ZM_TRY(pass_scratch(chain, i, error));
        }
    }
    return ZMLX_OK;
}
