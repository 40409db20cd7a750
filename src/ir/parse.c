/* SPDX-License-Identifier: MIT */
/* Reads the text form that print.c describes. */
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/passes.h"
#include "ir/rule.h"

enum { MAX_BYTES = 1 << 24, MAX_WORDS = ZM_IR_MAX_CAPTURES + 4 };

typedef struct word {
    const char *bytes;
    size_t size;
} word;

typedef struct output_line {
    word name;
    zm_level level;
    int value, line;
} output_line;

typedef struct reader {
    const char *at, *end;
    int line;
    word words[MAX_WORDS]; /* of the line */
    int n_words;           /* 0 at the end of the text */
    zm_ir *ir;
    output_line outputs[ZM_IR_MAX_OUTPUTS];
    int n_outputs;
    zmlx_error *error;
} reader;

static zmlx_status fail_line(const reader *from, int line, const char *reason) {
    return zm_fail(from->error, ZMLX_ERROR_FORMAT, NULL, "line %d: %s", line, reason);
}

static zmlx_status fail(const reader *from, const char *reason) { return fail_line(from, from->line, reason); }

static zmlx_status fail_word(const reader *from, const char *reason, word part) {
    int size = part.size > 60 ? 60 : (int)part.size;
    return zm_fail(from->error, ZMLX_ERROR_FORMAT, NULL, "line %d: %s: `%.*s`", from->line, reason, size, part.bytes);
}

/* A failure of the builder. */
static zmlx_status fail_built(const reader *from, int line, const zm_ir *ir) {
    if (ir->failure.code == ZMLX_ERROR_MEMORY) return zm_fail_memory(from->error);
    return zm_fail(from->error, ZMLX_ERROR_FORMAT, NULL, "line %d: %s%s%.900s", line, ir->failure.where,
                   ir->failure.where[0] ? ": " : "", ir->failure.message);
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r'; }

static bool is(word part, const char *text) {
    return part.size == strlen(text) && !memcmp(part.bytes, text, part.size);
}

/* The words of the next line that has any. */
static zmlx_status next_line(reader *from) {
    from->n_words = 0;
    while (from->at < from->end && !from->n_words) {
        from->line++;
        const char *stop = memchr(from->at, '\n', (size_t)(from->end - from->at));
        if (!stop) stop = from->end;
        for (const char *c = from->at; c < stop;) {
            const char *begin = c;
            while (c < stop && !is_space(*c)) c++;
            if (c > begin) {
                if (!from->n_words && *begin == '#') break;
                if (from->n_words == MAX_WORDS) return fail(from, "too many words");
                from->words[from->n_words++] = (word){begin, (size_t)(c - begin)};
                if (from->line == 1) break; /* the kernel's name may hold anything */
            }
            while (c < stop && is_space(*c)) c++;
        }
        from->at = stop < from->end ? stop + 1 : from->end;
    }
    return ZMLX_OK;
}

/* Decimal digits up to a million. */
static bool read_count(int *number, const char *digits, size_t size) {
    *number = 0;
    if (!size || size > 6) return false;
    for (size_t i = 0; i < size; i++) {
        if (digits[i] < '0' || digits[i] > '9') return false;
        *number = *number * 10 + (digits[i] - '0');
    }
    return true;
}

static bool read_reference(int *id, word part) {
    return part.size > 1 && part.bytes[0] == '%' && read_count(id, part.bytes + 1, part.size - 1);
}

static bool read_float(float *number, word part) {
    char digits[64];
    if (is(part, "nan") || is(part, "inf") || is(part, "-inf")) {
        *number = is(part, "nan") ? NAN : part.bytes[0] == '-' ? -INFINITY : INFINITY;
        return true;
    }
    if (part.size >= sizeof digits) return false;
    for (size_t i = 0; i < part.size; i++) {
        char c = part.bytes[i];
        bool known = (c >= '0' && c <= '9') || c == '-' || c == '+' || c == 'e' || c == '.';
        if (!known) return false;
        digits[i] = c == '.' ? localeconv()->decimal_point[0] : c;
    }
    digits[part.size] = '\0';
    char *stop;
    *number = strtof(digits, &stop);
    return stop != digits && !*stop && isfinite(*number);
}

static bool read_level(zm_level *level, word part) {
    for (*level = ZM_LEVEL_ROW; *level <= ZM_LEVEL_ELEMENT; ++*level)
        if (is(part, zm_level_name(*level))) return true;
    return false;
}

static int find_input(const zm_ir *ir, word name) {
    for (int i = 0; i < ir->n_inputs; i++)
        if (is(name, ir->inputs[i].name)) return i;
    return -1;
}

static int find_parameter(const zm_ir *ir, word name) {
    for (int i = 0; i < ir->n_parameters; i++)
        if (is(name, ir->parameters[i].name)) return i;
    return -1;
}

static bool copy_name(char copy[ZM_IR_MAX_NAME + 1], word name) {
    if (name.size > ZM_IR_MAX_NAME) return false;
    memcpy(copy, name.bytes, name.size);
    copy[name.size] = '\0';
    return true;
}

static zmlx_status read_input(reader *from) {
    char name[ZM_IR_MAX_NAME + 1];
    zm_level level;
    zm_type type = ZM_TYPE_COUNT;
    for (int i = 0; from->n_words == 4 && i < ZM_TYPE_COUNT; i++)
        if (is(from->words[2], zm_type_name((zm_type)i))) type = (zm_type)i;
    if (type == ZM_TYPE_COUNT || !read_level(&level, from->words[3]) || !copy_name(name, from->words[1]))
        return fail(from, "expected: input NAME float|uint row|element");
    zm_ir_add_input(from->ir, name, type, level);
    return from->ir->failure.code ? fail_built(from, from->line, from->ir) : ZMLX_OK;
}

static zmlx_status read_parameter(reader *from) {
    char name[ZM_IR_MAX_NAME + 1];
    if (from->n_words != 2 || !copy_name(name, from->words[1])) return fail(from, "expected a name alone");
    zm_ir_add_parameter(from->ir, name, is(from->words[0], "seed"));
    return from->ir->failure.code ? fail_built(from, from->line, from->ir) : ZMLX_OK;
}

/* Its value may come later: kept until the end of the text. */
static zmlx_status read_output(reader *from) {
    output_line output = {.line = from->line, .name = from->words[from->n_words > 1]};
    if (from->n_words != 5 || !is(from->words[3], "=") || !read_level(&output.level, from->words[2]) ||
        !read_reference(&output.value, from->words[4]))
        return fail(from, "expected: output NAME row|element = %VALUE");
    if (from->n_outputs == ZM_IR_MAX_OUTPUTS) return fail(from, "too many outputs");
    from->outputs[from->n_outputs++] = output;
    return ZMLX_OK;
}

static zmlx_status add_outputs(reader *from) {
    for (int i = 0; i < from->n_outputs; i++) {
        const output_line *output = &from->outputs[i];
        char name[ZM_IR_MAX_NAME + 1];
        if (!copy_name(name, output->name)) return fail_line(from, output->line, "the name is too long");
        zm_ir_add_output(from->ir, name, output->value, output->level);
        if (from->ir->failure.code) return fail_built(from, output->line, from->ir);
    }
    return ZMLX_OK;
}

/* An operation of which the line gives operands only. */
static zmlx_status read_applied(reader *from, zm_ir *to) {
    zm_op op = ZM_OP_COUNT;
    for (int i = 0; i < ZM_OP_COUNT; i++)
        if (is(from->words[2], zm_op_get((zm_op)i)->name)) op = (zm_op)i;
    if (op == ZM_OP_COUNT) return fail_word(from, "unknown operation", from->words[2]);
    zm_id operands[3] = {-1, -1, -1};
    if (from->n_words > 6) return fail(from, "too many operands");
    for (int i = 3; i < from->n_words; i++)
        if (!read_reference(&operands[i - 3], from->words[i]))
            return fail_word(from, "expected a value such as %0", from->words[i]);
    zm_ir_apply(to, op, operands[0], operands[1], operands[2]);
    return ZMLX_OK;
}

/* True if the operation has more than operands; its value is then appended to `to` where the line is right. */
static bool read_leaf(reader *from, zm_ir *to, bool *right) {
    word op = from->words[2], operand = from->words[3];
    int number;
    float value;
    *right = from->n_words == 4;
    if (is(op, "constant")) {
        if ((*right = *right && read_float(&value, operand))) zm_ir_constant(to, value);
    } else if (is(op, "argument")) {
        if ((*right = *right && read_count(&number, operand.bytes, operand.size))) zm_ir_argument(to, number);
    } else if (is(op, "load")) {
        if (*right) zm_ir_load(to, find_input(to, operand));
    } else if (is(op, "parameter")) {
        if (*right) zm_ir_parameter(to, find_parameter(to, operand));
    } else if (is(op, "random")) {
        if (*right) zm_ir_random(to, find_parameter(to, operand));
    } else if (is(op, "row_gather")) {
        *right = from->n_words == 5 && read_reference(&number, from->words[4]);
        if (*right) zm_ir_gather(to, find_input(to, operand), number);
    } else {
        return false;
    }
    return true;
}

/* `%N = ...` for the next value of `to`, but no fold. */
static zmlx_status read_value(reader *from, zm_ir *to) {
    int id;
    bool right;
    if (from->n_words < 3 || !read_reference(&id, from->words[0]) || !is(from->words[1], "="))
        return fail_word(from, "expected %NUMBER = OPERATION ...", from->words[0]);
    if (id != to->n_values) return fail_word(from, "not the next value's number", from->words[0]);
    if (from->n_words == 3) from->words[3] = (word){"", 0};
    if (!read_leaf(from, to, &right))
        ZM_TRY(read_applied(from, to));
    else if (!right)
        return fail_word(from, "wrong operands", from->words[2]);
    return to->failure.code ? fail_built(from, from->line, to) : ZMLX_OK;
}

static zmlx_status read_region_values(zm_region *region, reader *from, zm_ir *body, int n_arguments) {
    for (;;) {
        ZM_TRY(next_line(from));
        if (!from->n_words) return fail(from, "the fold has no end");
        if (is(from->words[0], "result")) break;
        ZM_TRY(read_value(from, body));
    }
    zm_region built = {body->values, body->n_values, -1, n_arguments};
    if (from->n_words != 2 || !read_reference(&built.result, from->words[1]))
        return fail(from, "expected: result %VALUE");
    return zm_region_copy(region, from->ir->arena, &built) ? ZMLX_OK : zm_fail_memory(from->error);
}

static zmlx_status read_region(zm_region *region, reader *from, int n_arguments) {
    zm_ir *body = zm_ir_new("region");
    if (!body) return zm_fail_memory(from->error);
    zmlx_status status = read_region_values(region, from, body, n_arguments);
    zm_ir_free(body);
    return status;
}

static zmlx_status read_fold(reader *from) {
    int id, line = from->line;
    zm_fold fold = {.n_captures = from->n_words - 4};
    if (from->n_words < 4 || !read_reference(&id, from->words[0]) || id != from->ir->n_values ||
        !read_reference(&fold.init, from->words[3]))
        return fail(from, "expected %NUMBER = fold %INIT %CAPTURE...");
    fold.captures = zm_arena_alloc(from->ir->arena, (size_t)fold.n_captures, sizeof *fold.captures);
    if (!fold.captures) return zm_fail_memory(from->error);
    for (int i = 0; i < fold.n_captures; i++)
        if (!read_reference(&fold.captures[i], from->words[4 + i]))
            return fail_word(from, "expected a value such as %0", from->words[4 + i]);
    ZM_TRY(next_line(from));
    if (!from->n_words || !is(from->words[0], "update")) return fail(from, "expected update");
    ZM_TRY(read_region(&fold.update, from, 1 + fold.n_captures));
    ZM_TRY(next_line(from));
    if (from->n_words && is(from->words[0], "combine")) {
        ZM_TRY(read_region(&fold.combine, from, 2));
        ZM_TRY(next_line(from));
    }
    if (from->n_words != 1 || !is(from->words[0], "end")) return fail(from, "expected end");
    zm_ir_fold(from->ir, &fold);
    return from->ir->failure.code ? fail_built(from, line, from->ir) : ZMLX_OK;
}

static zmlx_status read_kernel(reader *from) {
    for (;;) {
        ZM_TRY(next_line(from));
        if (!from->n_words) break;
        word first = from->words[0];
        if (is(first, "input"))
            ZM_TRY(read_input(from));
        else if (is(first, "parameter") || is(first, "seed"))
            ZM_TRY(read_parameter(from));
        else if (is(first, "output"))
            ZM_TRY(read_output(from));
        else if (from->n_words > 2 && is(from->words[2], "fold"))
            ZM_TRY(read_fold(from));
        else
            ZM_TRY(read_value(from, from->ir));
    }
    ZM_TRY(add_outputs(from));
    return zm_ir_verify(from->ir, from->error);
}

/* The first line. */
static zmlx_status read_name(reader *from) {
    static const char keyword[] = "kernel ";
    const size_t size = sizeof keyword - 1;
    const char *start = from->at;
    ZM_TRY(next_line(from));
    const char *stop = start < from->at && from->at[-1] == '\n' ? from->at - 1 : from->at;
    while (stop > start && stop[-1] == '\r') stop--;
    if ((size_t)(stop - start) <= size || memcmp(start, keyword, size))
        return fail_line(from, 1, "expected: kernel NAME");
    size_t length = (size_t)(stop - start) - size;
    char *name = malloc(length + 1);
    if (!name) return zm_fail_memory(from->error);
    memcpy(name, start + size, length);
    name[length] = '\0';
    from->ir = zm_ir_new(name);
    free(name);
    return from->ir ? ZMLX_OK : zm_fail_memory(from->error);
}

zmlx_status zm_ir_parse(zm_ir **ir, const char *text, size_t size, zmlx_error *error) {
    *ir = NULL;
    if (size > MAX_BYTES || (size && memchr(text, 0, size)))
        return zm_fail(error, ZMLX_ERROR_FORMAT, NULL, size > MAX_BYTES ? "the text is too long" : "a NUL byte");
    reader from = {.at = text, .end = text + size, .error = error};
    zmlx_status status = size ? read_name(&from) : fail_line(&from, 1, "expected: kernel NAME");
    if (!status) status = read_kernel(&from);
    if (status)
        zm_ir_free(from.ir);
    else
        *ir = from.ir;
    return status;
}
