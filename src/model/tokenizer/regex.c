/* SPDX-License-Identifier: MIT */
/* Rewrites a regular expression from Oniguruma's Ruby syntax into PCRE2's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/pattern.h"
#include "model/tokenizer/unicode.h"
#include "model/tokenizer/utf8.h"

enum { MAX_EXPRESSION = 16384, MAX_DEPTH = 100, MAX_REPEAT = 65535 };

/* White_Space, and what is not. */
static const char space_class[] = "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"
                                  "\\x{202f}\\x{205f}\\x{3000}";
static const char not_space_class[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

/* The categories that PCRE2 and the package agree on but for the code points assigned later. (Mn and Mc
 * changed for an older one.) */
static const char *const categories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Me", "N",  "Nd", "Nl",
                                         "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm",
                                         "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};

typedef struct parser {
    const char *bytes;
    size_t size, at;
    zm_text *out;
    size_t atom;              /* where in out the last atom began */
    bool has_atom;            /* a quantifier may follow */
    size_t groups[MAX_DEPTH]; /* where in out the open groups began */
    size_t depth;
    const char *where;
    zmlx_error *error;
} parser;

static zmlx_status refuse(const parser *p, const char *what) {
    return zm_fail(p->error, ZMLX_ERROR_UNSUPPORTED, p->where, "the pattern uses %s at byte %zu", what,
                   p->at);
}

static zmlx_status malformed(const parser *p, const char *what) {
    return zm_fail(p->error, ZMLX_ERROR_FORMAT, p->where, "the pattern has %s at byte %zu", what, p->at);
}

static void put(parser *p, const char *text) { zm_text_append_string(p->out, text); }

static int peek(const parser *p, size_t ahead) {
    return p->size - p->at > ahead ? (unsigned char)p->bytes[p->at + ahead] : -1;
}

static bool starts(const parser *p, const char *text) {
    size_t length = strlen(text);
    return p->size - p->at >= length && !memcmp(p->bytes + p->at, text, length);
}

static bool is_letter(int byte) { return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z'); }
static bool is_digit(int byte) { return byte >= '0' && byte <= '9'; }

/* A literal character, safe inside and outside a class. */
static void put_character(parser *p, uint32_t code) {
    char bytes[4];
    if (code >= 0x80 || is_letter((int)code) || is_digit((int)code))
        zm_text_append(p->out, bytes, zm_utf8_write(bytes, code));
    else
        zm_text_printf(p->out, "\\x{%x}", (unsigned)code);
}

static void put_category(parser *p, const char *name) {
    zm_text_printf(p->out, "\\p{%s}", name);
    for (size_t i = 0; i < zm_later_range_count; i++) {
        const zm_later_range *later = &zm_later_ranges[i];
        if (strncmp(later->category, name, strlen(name))) continue;
        zm_text_printf(p->out, "\\x{%x}-\\x{%x}", (unsigned)later->first, (unsigned)later->last);
    }
}

static void put_word(parser *p) {
    static const char *const parts[] = {"L", "M", "Nd", "Nl", "Pc"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) put_category(p, parts[i]);
    put(p, "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}");
}

/* After "\p" or "\P": the name in braces. *category points into the list; *negated also by '^'. */
static zmlx_status read_property(parser *p, const char **category, bool *negated) {
    if (peek(p, 0) != '{') return refuse(p, "a property without braces");
    size_t start = p->at + 1, end = start;
    while (end < p->size && p->bytes[end] != '}') end++;
    if (end == p->size) return malformed(p, "an unclosed property");
    if (start < end && p->bytes[start] == '^') {
        *negated = !*negated;
        start++;
    }
    for (size_t i = 0; i < sizeof categories / sizeof *categories; i++)
        if (strlen(categories[i]) == end - start && !memcmp(categories[i], p->bytes + start, end - start)) {
            *category = categories[i];
            p->at = end + 1;
            return ZMLX_OK;
        }
    char what[64];
    snprintf(what, sizeof what, "the property \"%.*s\"", (int)(end - start < 40 ? end - start : 40),
             p->bytes + start);
    return refuse(p, what);
}

static int hex_value(int byte) {
    if (is_digit(byte)) return byte - '0';
    if (byte >= 'a' && byte <= 'f') return byte - 'a' + 10;
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

/* After "\x" or "\u". */
static zmlx_status read_hex(parser *p, bool braces_allowed, unsigned digits, uint32_t *code) {
    bool braces = braces_allowed && peek(p, 0) == '{';
    if (braces) {
        p->at++;
        digits = 8;
    }
    unsigned count = 0;
    uint32_t value = 0;
    for (; count < digits && hex_value(peek(p, 0)) >= 0; count++, p->at++)
        value = value << 4 | (uint32_t)hex_value(peek(p, 0));
    if (!count || (!braces && count != digits) || (braces && peek(p, 0) != '}'))
        return refuse(p, "an unusual hexadecimal character");
    if (braces) p->at++;
    if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000) || (digits == 2 && value >= 0x80))
        return refuse(p, "a character that is no Unicode scalar value");
    *code = value;
    return ZMLX_OK;
}

/* The single character an escape stands for; p->at is on the byte after the backslash. */
static zmlx_status read_escaped_character(parser *p, uint32_t *code) {
    static const char names[] = "tnrfvae", values[] = "\t\n\r\f\v\a\x1b";
    int byte = peek(p, 0);
    if (byte < 0) return malformed(p, "a backslash at its end");
    if (byte == 'x' || byte == 'u') {
        p->at++;
        return read_hex(p, byte == 'x', byte == 'x' ? 2 : 4, code);
    }
    const char *known = strchr(names, byte);
    if (byte && known) {
        *code = (uint32_t)values[known - names];
        p->at++;
        return ZMLX_OK;
    }
    if (is_letter(byte) || is_digit(byte)) {
        char what[24];
        snprintf(what, sizeof what, "the escape \\%c", byte);
        return refuse(p, what);
    }
    p->at += zm_utf8_next(p->bytes + p->at, p->size - p->at, code);
    return ZMLX_OK;
}

/* If a class escape (\s, \p{..}, ...) is at p->at, writes its members for use inside brackets. Outside a
 * class *negated may be set instead of a complement being written. */
static zmlx_status class_escape(parser *p, bool inside, bool *was_class, bool *negated) {
    int byte = peek(p, 0);
    const char *category = NULL;
    *was_class = byte > 0 && strchr("sSdDwWpP", byte);
    *negated = false;
    if (!*was_class) return ZMLX_OK;
    p->at++;
    *negated = byte >= 'A' && byte <= 'Z';
    if (byte == 'p' || byte == 'P') ZM_TRY(read_property(p, &category, negated));
    if (inside && byte == 'S') {
        put(p, not_space_class);
        *negated = false;
        return ZMLX_OK;
    }
    if (inside && *negated) return refuse(p, "a negated class inside a class");
    if (!inside) put(p, *negated ? "[^" : "[");
    if (category)
        put_category(p, category);
    else if (byte == 's' || byte == 'S')
        put(p, space_class);
    else if (byte == 'd' || byte == 'D')
        put_category(p, "Nd");
    else
        put_word(p);
    if (!inside) put(p, "]");
    return ZMLX_OK;
}

/* One member of a class: *single is its character, or -1 for a class escape (already written). */
static zmlx_status class_member(parser *p, int64_t *single) {
    uint32_t code;
    *single = -1;
    if (peek(p, 0) == '\\') {
        p->at++;
        bool was_class, negated;
        ZM_TRY(class_escape(p, true, &was_class, &negated));
        if (was_class) return ZMLX_OK;
        ZM_TRY(read_escaped_character(p, &code));
    } else {
        p->at += zm_utf8_next(p->bytes + p->at, p->size - p->at, &code);
    }
    *single = code;
    return ZMLX_OK;
}

static zmlx_status translate_class(parser *p) {
    put(p, "[");
    p->at++;
    if (peek(p, 0) == '^') {
        put(p, "^");
        p->at++;
    }
    if (peek(p, 0) == ']') return refuse(p, "an empty class");
    while (peek(p, 0) != ']') {
        if (p->at >= p->size) return malformed(p, "an unclosed class");
        if (peek(p, 0) == '[') return refuse(p, "a class inside a class");
        if (starts(p, "&&")) return refuse(p, "an intersection of classes");
        int64_t first, last;
        ZM_TRY(class_member(p, &first));
        if (first < 0) {
            if (peek(p, 0) == '-' && peek(p, 1) != ']') return refuse(p, "a range after a class escape");
            continue;
        }
        put_character(p, (uint32_t)first);
        if (peek(p, 0) != '-' || peek(p, 1) == ']' || peek(p, 1) < 0) continue;
        p->at++;
        if (peek(p, 0) == '[' || starts(p, "&&")) return refuse(p, "an unusual range");
        put(p, "-");
        ZM_TRY(class_member(p, &last));
        if (last < first) return malformed(p, "a range out of order");
        put_character(p, (uint32_t)last);
    }
    p->at++;
    put(p, "]");
    return ZMLX_OK;
}

static zmlx_status open_group(parser *p) {
    static const char *const kinds[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"};
    if (p->depth == MAX_DEPTH) return refuse(p, "groups nested too deep");
    p->has_atom = false;
    if (starts(p, "(*")) return refuse(p, "a verb");
    if (starts(p, "(?i)")) {
        if (p->at) return refuse(p, "(?i) after its beginning");
        put(p, "(?i)");
        p->at += 4;
        return ZMLX_OK;
    }
    p->groups[p->depth++] = p->out->size;
    if (!starts(p, "(?")) {
        put(p, "(?:");
        p->at++;
        return ZMLX_OK;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (starts(p, kinds[i])) {
            put(p, kinds[i]);
            p->at += strlen(kinds[i]);
            return ZMLX_OK;
        }
    return refuse(p, "an unsupported kind of group");
}

static zmlx_status close_group(parser *p) {
    if (!p->depth) return malformed(p, "an unmatched )");
    p->atom = p->groups[--p->depth];
    p->has_atom = true;
    put(p, ")");
    p->at++;
    return ZMLX_OK;
}

/* {n}, {n,}, {,m} or {n,m} at p->at; *length 0 where the brace is a plain character. */
static zmlx_status read_interval(parser *p, size_t *length, unsigned *low, long *high) {
    size_t at = 1;
    unsigned long values[2] = {0, 0};
    size_t digits[2] = {0, 0};
    bool comma = false;
    *length = 0;
    for (;; at++) {
        int byte = peek(p, at);
        if (is_digit(byte)) {
            values[comma] = values[comma] * 10 + (unsigned long)(byte - '0');
            if (values[comma] > MAX_REPEAT) return refuse(p, "a repeat count above 65535");
            digits[comma]++;
        } else if (byte == ',' && !comma) {
            comma = true;
        } else if (byte == '}') {
            break;
        } else {
            return ZMLX_OK;
        }
    }
    if (!digits[0] && !digits[1]) return ZMLX_OK;
    *low = (unsigned)values[0];
    *high = !comma ? (long)values[0] : digits[1] ? (long)values[1] : -1;
    if (*high >= 0 && *high < (long)*low) return refuse(p, "an interval out of order");
    *length = at + 1;
    return ZMLX_OK;
}

static void insert(zm_text *text, size_t at, const char *inserted) {
    size_t length = strlen(inserted);
    zm_text_append(text, inserted, length);
    if (text->failed) return;
    memmove(text->data + at + length, text->data + at, text->size - length - at);
    memcpy(text->data + at, inserted, length);
}

/* An interval after an atom. Ruby reads {n,m}+ as a repeated interval, not as a possessive one. */
static zmlx_status translate_interval(parser *p, size_t length, unsigned low, long high) {
    if (!p->has_atom) return malformed(p, "a repeat of nothing");
    p->at += length;
    if (high < 0)
        zm_text_printf(p->out, "{%u,}", low);
    else
        zm_text_printf(p->out, "{%u,%ld}", low, high);
    int next = peek(p, 0);
    if (next == '?') {
        if (high == (long)low) return refuse(p, "{n}?");
        put(p, "?");
        p->at++;
    } else if (next == '+') {
        insert(p->out, p->atom, "(?:");
        put(p, ")+");
        p->at++;
    }
    p->has_atom = false;
    return ZMLX_OK;
}

static zmlx_status translate_quantifier(parser *p) {
    char text[3] = {p->bytes[p->at], 0, 0};
    if (!p->has_atom) return refuse(p, "a quantifier without something to repeat");
    p->at++;
    if (peek(p, 0) == '?' || peek(p, 0) == '+') text[1] = p->bytes[p->at++];
    put(p, text);
    p->has_atom = false;
    return ZMLX_OK;
}

static zmlx_status translate_escape(parser *p) {
    bool was_class, negated;
    p->atom = p->out->size;
    p->at++;
    int byte = peek(p, 0);
    if (byte == 'A' || byte == 'z' || byte == 'Z') {
        zm_text_printf(p->out, "\\%c", byte);
        p->has_atom = false;
        p->at++;
        return ZMLX_OK;
    }
    ZM_TRY(class_escape(p, false, &was_class, &negated));
    if (!was_class) {
        uint32_t code;
        ZM_TRY(read_escaped_character(p, &code));
        put_character(p, code);
    }
    p->has_atom = true;
    return ZMLX_OK;
}

static zmlx_status translate_next(parser *p) {
    int byte = peek(p, 0);
    size_t length;
    unsigned low = 0;
    long high = 0;
    uint32_t code;
    switch (byte) {
    case '\\': return translate_escape(p);
    case '(': return open_group(p);
    case ')': return close_group(p);
    case '*':
    case '+':
    case '?': return translate_quantifier(p);
    case '|':
    case '^':
    case '$':
        zm_text_printf(p->out, "%c", byte);
        p->has_atom = false;
        p->at++;
        return ZMLX_OK;
    case '{':
        ZM_TRY(read_interval(p, &length, &low, &high));
        if (length) return translate_interval(p, length, low, high);
        break;
    default: break;
    }
    p->atom = p->out->size;
    p->has_atom = true;
    if (byte == '[') return translate_class(p);
    if (byte == '.') {
        put(p, ".");
        p->at++;
        return ZMLX_OK;
    }
    p->at += zm_utf8_next(p->bytes + p->at, p->size - p->at, &code);
    put_character(p, code);
    return ZMLX_OK;
}

zmlx_status zm_regex_translate(zm_text *result, const char *bytes, size_t size, const char *where,
                               zmlx_error *error) {
    if (size > MAX_EXPRESSION)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, where, "the pattern is longer than %d bytes",
                       MAX_EXPRESSION);
    parser *p = calloc(1, sizeof *p);
    if (!p) return zm_fail_memory(error);
    *p = (parser){.bytes = bytes, .size = size, .out = result, .where = where, .error = error};
    zmlx_status status = ZMLX_OK;
    while (!status && p->at < size) {
        if (result->size > (size_t)64 * MAX_EXPRESSION) status = refuse(p, "too much");
        if (!status) status = translate_next(p);
    }
    if (!status && p->depth) status = malformed(p, "an unclosed group");
    free(p);
    return status;
}
