/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/utf8.h"

enum { REPLACEMENT = 0xfffd };

/* Number of bytes that follow a lead byte, 0 for a byte that leads nothing, and the range of the first
 * of them: it excludes overlong forms, surrogates and values above U+10FFFF. */
static unsigned lead(unsigned char byte, unsigned char *low, unsigned char *high) {
    *low = 0x80;
    *high = 0xbf;
    if (byte >= 0xc2 && byte <= 0xdf) return 1;
    if (byte >= 0xe0 && byte <= 0xef) {
        if (byte == 0xe0) *low = 0xa0;
        if (byte == 0xed) *high = 0x9f;
        return 2;
    }
    if (byte >= 0xf0 && byte <= 0xf4) {
        if (byte == 0xf0) *low = 0x90;
        if (byte == 0xf4) *high = 0x8f;
        return 3;
    }
    return 0;
}

size_t zm_utf8_read(const char *bytes, size_t size, uint32_t *code, bool *valid, bool *incomplete) {
    const unsigned char *byte = (const unsigned char *)bytes;
    *incomplete = false;
    *valid = true;
    *code = byte[0];
    if (byte[0] < 0x80) return 1;
    unsigned char low, high;
    unsigned follow = lead(byte[0], &low, &high);
    uint32_t value = byte[0] & (0x3fu >> follow);
    *valid = false;
    *code = REPLACEMENT;
    if (!follow) return 1;
    for (unsigned i = 1; i <= follow; i++) {
        if (i >= size) {
            *incomplete = true;
            return i;
        }
        if (byte[i] < low || byte[i] > high) return i;
        low = 0x80;
        high = 0xbf;
        value = value << 6 | (byte[i] & 0x3fu);
    }
    *valid = true;
    *code = value;
    return follow + 1;
}

size_t zm_utf8_next(const char *bytes, size_t size, uint32_t *code) {
    bool valid, incomplete;
    return zm_utf8_read(bytes, size, code, &valid, &incomplete);
}

size_t zm_utf8_before(const char *bytes, size_t at) {
    do at--;
    while (at && ((unsigned char)bytes[at] & 0xc0) == 0x80);
    return at;
}

size_t zm_utf8_write(char *bytes, uint32_t code) {
    if (code < 0x80) {
        bytes[0] = (char)code;
        return 1;
    }
    size_t size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--) {
        bytes[i] = (char)(0x80 | (code & 0x3f));
        code >>= 6;
    }
    static const unsigned char marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
    bytes[0] = (char)(marks[size] | code);
    return size;
}

static size_t append(zm_text *text, const char *bytes, size_t size, bool keep_incomplete) {
    size_t start = 0, at = 0;
    while (at < size) {
        uint32_t code;
        bool valid, incomplete;
        size_t length = zm_utf8_read(bytes + at, size - at, &code, &valid, &incomplete);
        if (incomplete && keep_incomplete) break;
        if (!valid) {
            zm_text_append(text, bytes + start, at - start);
            zm_text_append(text, "\xef\xbf\xbd", 3);
            start = at + length;
        }
        at += length;
    }
    if (at > start) zm_text_append(text, bytes + start, at - start);
    return at;
}

void zm_utf8_append_repaired(zm_text *text, const char *bytes, size_t size) {
    append(text, bytes, size, false);
}

size_t zm_utf8_append_complete(zm_text *text, const char *bytes, size_t size) {
    return append(text, bytes, size, true);
}
