/* SPDX-License-Identifier: MIT */
/* What a kernel takes and gives, as a text:
 *
 *   x[..., D], weight[D]: parameter; eps: float = 1e-6 in [0, inf) -> y[..., D]
 *
 *   inputs   NAME[SHAPE], NAME?[SHAPE] (optional), with ": ROLE" (data without), with "= NUMBER" (what an absent one of
 * an expression counts as), with "< SIZE" (that an index stays below) numbers  NAME: KIND = PRESET, with " in RANGE":
 * float, int, bool, seed, dtype (= data: that of the first data input), choice (= e4m3|e5m2) outputs  NAME[SHAPE], with
 * ": TYPE" (that of the first data input without): float32, uint32, uint8, a number of kind dtype, or in a part "any",
 * what the composition says
 *
 * A shape is a list of sizes, "..." possible in front (leading dimensions; "I...": other ones, which broadcast
 * together) and at the end (trailing ones, of their own), or one of the words `one` and `broadcast`, or `flat` and the
 * number of elements of any shape. A first size with "?" behind it may be missing. A size is a formula of numbers,
 * names, + - * /, parentheses, in which a quotient is rounded up; a name or N*name stands for what it first meets; ">="
 * and a number behind it is a bound. Names are those of sizes and of ints and bools, and ROWS: the leading dimensions'
 * product. */
#ifndef ZM_KERNELS_SIGNATURE_H
#define ZM_KERNELS_SIGNATURE_H

#include "base/arena.h"
#include "base/error.h"
#include "zmlx/catalog.h"

enum {
    ZM_SIGNATURE_MAX_INPUTS = 12,
    ZM_SIGNATURE_MAX_NUMBERS = 10,
    ZM_SIGNATURE_MAX_OUTPUTS = 4,
    ZM_SIGNATURE_MAX_DIMS = 8,
    ZM_MAX_SIZES = 24
};

typedef enum zm_role {
#define ZM_ROLE(enumerator, name, accepts) ZM_ROLE_##enumerator,
#include "kernels/roles.def"
#undef ZM_ROLE
    ZM_ROLE_COUNT
} zm_role;

static inline bool zm_role_is_parameter(zm_role role) { return role == ZM_ROLE_PARAMETER || role == ZM_ROLE_CONSTANT; }

typedef enum zm_number_kind {
    ZM_NUMBER_FLOAT,
    ZM_NUMBER_INT,
    ZM_NUMBER_BOOL,
    ZM_NUMBER_SEED,
    ZM_NUMBER_DTYPE,
    ZM_NUMBER_CHOICE
} zm_number_kind;

/* The word of a choice "a|b|c" at that place, of *length bytes; NULL past the last. */
const char *zm_choice_word(size_t *length, const char *words, int place);

/* The number of a dtype's preset "data": the type of the first data input. */
enum { ZM_DTYPE_OF_DATA = -1 };

typedef struct zm_pattern {
    bool has_rest, has_tail, is_one, broadcasts;
    bool is_second_rest;                      /* the leading dimensions are the second ones */
    bool is_flat;                             /* any shape of that many elements, taken as one dimension */
    bool is_first_optional;                   /* the first dimension may be missing */
    int n_dims;                               /* without the leading and trailing ones */
    const char *dims[ZM_SIGNATURE_MAX_DIMS];  /* formulas */
    int least[ZM_SIGNATURE_MAX_DIMS];
} zm_pattern;

typedef struct zm_number_range {
    double low, high;
    const char *high_name; /* a size instead of a number; NULL */
    bool low_open, high_open;
} zm_number_range;

typedef struct zm_signature {
    zmlx_catalog_input inputs[ZM_SIGNATURE_MAX_INPUTS];
    zmlx_catalog_number numbers[ZM_SIGNATURE_MAX_NUMBERS];
    zmlx_catalog_output outputs[ZM_SIGNATURE_MAX_OUTPUTS];
    int n_inputs, n_numbers, n_outputs;
    zm_role roles[ZM_SIGNATURE_MAX_INPUTS];
    float absent[ZM_SIGNATURE_MAX_INPUTS];
    const char *bounds[ZM_SIGNATURE_MAX_INPUTS]; /* of indices, a size; NULL: none */
    zm_number_kind kinds[ZM_SIGNATURE_MAX_NUMBERS];
    zm_number_range ranges[ZM_SIGNATURE_MAX_NUMBERS];
    zm_pattern input_patterns[ZM_SIGNATURE_MAX_INPUTS], output_patterns[ZM_SIGNATURE_MAX_OUTPUTS];
} zm_signature;

/* Texts live in arena. */
zmlx_status zm_signature_parse(zm_signature *signature, zm_arena *arena, const char *text, zmlx_error *error);

/* Sizes by name, and the leading and trailing dimensions, of one call. */
typedef struct zm_sizes {
    const char *names[ZM_MAX_SIZES];
    int64_t values[ZM_MAX_SIZES];
    int count;
    int rest[ZM_SIGNATURE_MAX_DIMS], n_rest, tail[ZM_SIGNATURE_MAX_DIMS], n_tail;
    bool has_rest, has_tail;
    int second_rest[ZM_SIGNATURE_MAX_DIMS], n_second_rest; /* "I...", all of them broadcast */
    bool has_second_rest;
} zm_sizes;
void zm_sizes_set(zm_sizes *sizes, const char *name, int64_t value);
bool zm_sizes_find(int64_t *value, const zm_sizes *sizes, const char *name);
/* Of a formula; false where a name in it is unknown. */
bool zm_sizes_evaluate(int64_t *value, const zm_sizes *sizes, const char *text);

/* Meets a shape with its pattern, learning sizes. where is the kernel, name the argument, for messages. */
zmlx_status zm_pattern_meet(zm_sizes *sizes, const zm_pattern *pattern, const int *shape, int n_dims, const char *where,
                            const char *name, zmlx_error *error);
/* The shape that a pattern stands for; all its names are known. False: a size is negative or too large, or unknown. */
bool zm_pattern_shape(int *shape, int *n_dims, const zm_pattern *pattern, const zm_sizes *sizes);
/* Makes shape, with room for ZM_SIGNATURE_MAX_DIMS, the one that both broadcast to. False: there is none. */
bool zm_dims_broadcast(int *shape, int *n_dims, const int *other, int n_other);
/* "(2, 64)", "(64,)", "()". */
void zm_shape_describe(char text[128], const int *shape, int n_dims);

/* Whether value is in the range of number i; sizes for the names in it. Writes the range as text. */
bool zm_number_in_range(const zm_signature *signature, int i, double value, const zm_sizes *sizes);

#endif
