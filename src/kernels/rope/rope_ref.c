/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

/* Row x of 2 n numbers to y, or from its cotangent back; places of the pair j are first and second. */
typedef struct turn {
    size_t n;
    bool interleaved;
} turn;

static size_t first_of(turn t, size_t j) { return t.interleaved ? 2 * j : j; }
static size_t second_of(turn t, size_t j) { return t.interleaved ? 2 * j + 1 : j + t.n; }

static void turn_row(zm_oracle_output *y, size_t y_at, const double *x, turn t, const double *c,
                     const double *s, double sign) {
    for (size_t j = 0; j < t.n; j++) {
        double a = x[first_of(t, j)], b = x[second_of(t, j)], sine = sign * s[j];
        zm_put(y, y_at + first_of(t, j), a * c[j] - b * sine, fmax(fabs(a * c[j]), fabs(b * sine)));
        zm_put(y, y_at + second_of(t, j), a * sine + b * c[j], fmax(fabs(a * sine), fabs(b * c[j])));
    }
}

static void put_nan(zm_oracle_output *y, size_t at, size_t count) {
    for (size_t j = 0; j < count; j++) zm_put(y, at + j, NAN, 0);
}

/* Rows of x take the positions in turn, each for `repeat` rows. */
static void turn_all(zm_oracle *call, bool interleaved, size_t repeat) {
    turn t = {(size_t)zm_oracle_size(call, "N"), interleaved};
    size_t positions = (size_t)zm_oracle_size(call, "S");
    for (size_t row = 0; row < call->rows; row++) {
        size_t position = row / repeat % positions;
        const double *c = call->inputs[1].values + position * t.n, *s = call->inputs[2].values + position * t.n;
        turn_row(&call->outputs[0], row * 2 * t.n, call->inputs[0].values + row * 2 * t.n, t, c, s, 1);
        if (call->gradients)
            turn_row(&call->gradients[0], row * 2 * t.n, call->cotangents[0].values + row * 2 * t.n, t, c, s,
                     -1);
    }
}

zm_oracle_function zm_ref_apply_rope, zm_ref_apply_rope_interleaved, zm_ref_apply_gqa_rope;
void zm_ref_apply_rope(zm_oracle *call) { turn_all(call, false, 1); }
void zm_ref_apply_rope_interleaved(zm_oracle *call) { turn_all(call, true, 1); }
void zm_ref_apply_gqa_rope(zm_oracle *call) { turn_all(call, false, (size_t)zm_oracle_size(call, "H")); }

/* Where a sequence stores, or -1. */
typedef long long place_function(const zm_oracle *call, size_t b, size_t position);

static void copy_all(zm_oracle_output *to, const double *from) {
    for (size_t i = 0; i < to->size; i++) zm_put(to, i, from[i], fabs(from[i]));
}

static void store_row(zm_oracle *call, size_t b, long long place, const double *c, const double *s) {
    turn t = {(size_t)zm_oracle_size(call, "N"), false};
    size_t heads = (size_t)zm_oracle_size(call, "HKV"), k = 2 * t.n;
    for (size_t h = 0; h < heads && place >= 0; h++) {
        size_t from = (b * heads + h) * k, to = ((size_t)place * heads + h) * k;
        turn_row(&call->outputs[1], to, call->inputs[1].values + from, t, c, s, 1);
        for (size_t j = 0; j < k; j++) {
            double value = call->inputs[2].values[from + j];
            zm_put(&call->outputs[2], to + j, value, fabs(value));
            if (!call->gradients) continue;
            double g = call->cotangents[2].values[to + j];
            zm_put(&call->gradients[2], from + j, g, fabs(g));
            zm_put(&call->gradients[5], to + j, 0, 0);
            zm_put(&call->gradients[6], to + j, 0, 0);
        }
        if (call->gradients) turn_row(&call->gradients[1], from, call->cotangents[1].values + to, t, c, s, -1);
    }
}

static void update_caches(zm_oracle *call, int offset_input, place_function *find) {
    turn t = {(size_t)zm_oracle_size(call, "N"), false};
    size_t batch = (size_t)zm_oracle_size(call, "B"), heads = (size_t)zm_oracle_size(call, "H"), k = 2 * t.n;
    for (int i = 1; i < 3; i++) {
        copy_all(&call->outputs[i], call->inputs[4 + i].values);
        if (call->gradients) copy_all(&call->gradients[4 + i], call->cotangents[i].values);
    }
    for (size_t b = 0; b < batch; b++) {
        double offset = call->inputs[offset_input].values[b];
        if (offset < 0 || offset >= zm_oracle_size(call, "MAX")) {
            put_nan(&call->outputs[0], b * heads * k, heads * k);
            continue;
        }
        const double *c = call->inputs[3].values + (size_t)offset * t.n,
                     *s = call->inputs[4].values + (size_t)offset * t.n;
        for (size_t h = 0; h < heads; h++) {
            size_t at = (b * heads + h) * k;
            turn_row(&call->outputs[0], at, call->inputs[0].values + at, t, c, s, 1);
            if (call->gradients) turn_row(&call->gradients[0], at, call->cotangents[0].values + at, t, c, s, -1);
        }
        store_row(call, b, find(call, b, (size_t)offset), c, s);
    }
}

static long long place_in_row(const zm_oracle *call, size_t b, size_t position) {
    return (long long)(b * (size_t)zm_oracle_size(call, "MAX") + position);
}

static long long place_in_block(const zm_oracle *call, size_t b, size_t position) {
    size_t size = (size_t)zm_oracle_size(call, "BS"), blocks = (size_t)zm_oracle_size(call, "MB");
    if (position / size >= blocks) return -1;
    double block = call->inputs[7].values[b * blocks + position / size];
    return block < 0 || block >= zm_oracle_size(call, "NB") ? -1 : (long long)((size_t)block * size + position % size);
}

zm_oracle_function zm_ref_rope_and_cache_update, zm_ref_paged_rope_and_cache_update;
void zm_ref_rope_and_cache_update(zm_oracle *call) { update_caches(call, 7, place_in_row); }
void zm_ref_paged_rope_and_cache_update(zm_oracle *call) { update_caches(call, 8, place_in_block); }

/* q: part 0 and 1 of the inputs to output 0, k: 2 and 3 to output 1. */
static void decode_row(zm_oracle *call, int pair, size_t row, size_t b) {
    turn t = {(size_t)zm_oracle_size(call, "N"), true};
    size_t nope = (size_t)zm_oracle_size(call, "DN"), k = 2 * t.n, to = row * (nope + k);
    double offset = call->inputs[6].values[b];
    bool inside = fabs(offset) < zm_oracle_size(call, "S");
    const double *copied = call->inputs[2 * pair].values + row * nope;
    for (size_t j = 0; j < nope; j++) {
        zm_put(&call->outputs[pair], to + j, copied[j], fabs(copied[j]));
        if (call->gradients)
            zm_put(&call->gradients[2 * pair], row * nope + j, call->cotangents[pair].values[to + j], 0);
    }
    if (!inside) {
        put_nan(&call->outputs[pair], to + nope, k);
        return;
    }
    size_t at = (size_t)fabs(offset) * t.n;
    const double *c = call->inputs[4].values + at, *s = call->inputs[5].values + at;
    double sign = offset < 0 ? -1 : 1;
    turn_row(&call->outputs[pair], to + nope, call->inputs[2 * pair + 1].values + row * k, t, c, s, sign);
    if (call->gradients)
        turn_row(&call->gradients[2 * pair + 1], row * k, call->cotangents[pair].values + to + nope, t, c, s, -sign);
}

zm_oracle_function zm_ref_rope_concat_qk_decode;
void zm_ref_rope_concat_qk_decode(zm_oracle *call) {
    size_t batch = (size_t)zm_oracle_size(call, "B"), heads = (size_t)zm_oracle_size(call, "H");
    for (size_t b = 0; b < batch; b++) {
        for (size_t h = 0; h < heads; h++) decode_row(call, 0, b * heads + h, b);
        decode_row(call, 1, b, b);
    }
}
