/* SPDX-License-Identifier: MIT */
/* The frame's functions, behind the prelude of CUDA or Metal, which brings types, storages, zm_shuffle, zm_barrier,
 * wide accesses and the spelling of operations. */

/* V consecutive elements of one row from (row, column) on: all of them exist, or none. */
struct zm_place {
    zm_long row, column, columns;
    bool exists;
};

struct zm_thread {
    zm_long block, blocks;
    uint index, threads;
};

/* WHOLE: first is known to be before end. */
template <bool WHOLE>
ZM_FUNCTION zm_place zm_place_in_map(zm_long first, zm_long end, zm_long rows, zm_long columns) {
    zm_place at;
    at.columns = columns;
    at.exists = WHOLE || first < end;
    if (rows == 1 || !at.exists)
        at.row = 0;
    else /* dividing 64 bits takes longer than a vector's loads */
        at.row = end <= zm_long(0xffffffffu) ? zm_long(uint(first) / uint(columns)) : first / columns;
    at.column = first - at.row * columns;
    return at;
}

ZM_FUNCTION zm_long zm_index(zm_place at, int j) { return at.row * at.columns + at.column + j; }
ZM_FUNCTION uint zm_column(zm_place at, int j) { return uint(at.column + j); }

/* Philox4x32-10 (Salmon et al. 2011) of counter and seed. */
ZM_FUNCTION void zm_random_words(ZM_LOCAL uint *words, zm_seed seed, zm_long counter) {
    uint key0 = seed.low, key1 = seed.high;
    uint c0 = uint(counter), c1 = uint(counter >> 32), c2 = 0u, c3 = 0u;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        uint high0, low0, high1, low1;
        zm_multiply_wide(high0, low0, 0xd2511f53u, c0);
        zm_multiply_wide(high1, low1, 0xcd9e8d57u, c2);
        c0 = high1 ^ c1 ^ key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}
/* Elements `first` on of the uniform numbers in [0, 1) of a seed: word index mod 4 of counter index / 4. V is 1, or
 * first a multiple of V, and so of 4. */
template <int V>
ZM_FUNCTION void zm_random(ZM_LOCAL float *v, zm_seed seed, zm_long first) {
    uint words[4];
    if (V % 4 != 0) {
        zm_random_words(words, seed, first >> 2);
        const uint word = uint(first) & 3u;
        const uint bits = word == 0u ? words[0] : word == 1u ? words[1] : word == 2u ? words[2] : words[3];
        v[0] = float(bits >> 8) * 5.9604644775390625e-8f;
        return;
    }
#pragma unroll
    for (int i = 0; i < V / 4; ++i) {
        zm_random_words(words, seed, (first >> 2) + i);
#pragma unroll
        for (int j = 0; j < 4; ++j) v[4 * i + j] = float(words[j] >> 8) * 5.9604644775390625e-8f;
    }
}

ZM_FUNCTION zm_long zm_row_stride(uint layout, zm_long columns) {
    return (layout & 2u) == 0u ? 0 : (layout & 1u) != 0u ? columns : 1;
}

/* Where the elements of a row begin, which may be half of a wider one. */
ZM_FUNCTION zm_long zm_row_start(uint layout, zm_long row, zm_long columns) {
    const zm_long start = row * zm_row_stride(layout, columns);
    return (layout & 4u) == 0u ? start
                               : ((layout & 1u) != 0u ? 2 * start : start) + ((layout & 8u) != 0u ? columns : 0);
}

/* Accesses of V elements at once; a single one has none. */
template <int V>
struct zm_wide {
    template <class S, class P>
    static ZM_FUNCTION void load(ZM_LOCAL zm_packed<S, V> &x, P p) {
        zm_load_wide<S, V>(x, p);
    }
    template <class S>
    static ZM_FUNCTION void repeat(ZM_LOCAL zm_packed<S, V> &x, typename S::word word) {
        zm_repeat_wide<S, V>(x, word);
    }
    template <class S>
    static ZM_FUNCTION void unpack(ZM_LOCAL typename S::value *v, const ZM_LOCAL zm_packed<S, V> &x) {
        zm_unpack_wide<S, V>(v, x);
    }
    template <class S, class P>
    static ZM_FUNCTION void store(P p, ZM_LOCAL typename S::value *v) {
        zm_store_wide<S, V>(p, v);
    }
};
template <>
struct zm_wide<1> {
    template <class S, class P>
    static ZM_FUNCTION void load(ZM_LOCAL zm_packed<S, 1> &x, P p) {
        x.words[0] = p[0];
    }
    template <class S>
    static ZM_FUNCTION void repeat(ZM_LOCAL zm_packed<S, 1> &x, typename S::word word) {
        x.words[0] = word;
    }
    template <class S>
    static ZM_FUNCTION void unpack(ZM_LOCAL typename S::value *v, const ZM_LOCAL zm_packed<S, 1> &x) {
        v[0] = S::widen(x.words[0]);
    }
    template <class S, class P>
    static ZM_FUNCTION void store(P p, ZM_LOCAL typename S::value *v) {
        p[0] = S::narrow(v[0]);
    }
};

/* From or to a row that begins at p. Zeros where there are none. What a load gives is unpacked when it is used, so that
 * the loads of a thread are on their way together. */
template <class S, int V, class P>
ZM_FUNCTION void zm_load(ZM_LOCAL zm_packed<S, V> &x, P p, zm_place at, uint layout) {
    if (at.exists && (layout & 1u) != 0u)
        zm_wide<V>::template load<S>(x, p + at.column);
    else
        zm_wide<V>::template repeat<S>(x, at.exists ? p[0] : typename S::word(0));
}
template <class S, int V>
ZM_FUNCTION void zm_unpack(ZM_LOCAL typename S::value *v, const ZM_LOCAL zm_packed<S, V> &x) {
    zm_wide<V>::template unpack<S>(v, x);
}

template <class S, int V, class P>
ZM_FUNCTION void zm_store(P p, ZM_LOCAL typename S::value *v, zm_place at) {
    zm_wide<V>::template store<S>(p + at.column, v);
}

/* Sums over rows: in registers, or in an array of float32 that only this thread touches. */
template <int V>
ZM_FUNCTION void zm_zero(ZM_LOCAL float *v) {
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = 0.0f;
}
template <int V>
ZM_FUNCTION void zm_accumulate(ZM_LOCAL float *sum, const ZM_LOCAL float *v) {
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] += v[j];
}
template <int V>
ZM_FUNCTION void zm_add_to(ZM_DEVICE uint *p, const ZM_LOCAL float *v, zm_place at) {
#pragma unroll
    for (int j = 0; j < V; ++j) p[at.column + j] = zm_float_bits(zm_bits_float(p[at.column + j]) + v[j]);
}

template <class S, class P>
ZM_FUNCTION typename S::value zm_load_one(P p, zm_long index) {
    return S::widen(p[index]);
}
template <class S, class P>
ZM_FUNCTION void zm_store_one(P p, zm_long index, typename S::value value) {
    p[index] = S::narrow(value);
}
template <class S, class P>
ZM_FUNCTION float zm_gather(P p, zm_long row, uint index, zm_long columns, uint layout) {
    if (zm_long(index) >= columns) return ZM_NAN;
    return float(S::widen(p[row * zm_row_stride(layout, columns) + zm_long(index) * zm_long(layout & 1u)]));
}

/* The threads of a row. */
struct zm_group {
    uint threads, index, shift;     /* of a row; threads is 1 << shift */
    uint lane, warp, warps;         /* of a row's warps */
    uint first_warp;                /* of the row in the block */
    uint number, rows;              /* of the rows of a block */
};

/* threads_per_row is a power of two. */
ZM_FUNCTION zm_group zm_group_of(zm_thread self, uint threads_per_row) {
    zm_group group;
    group.threads = threads_per_row;
    group.shift = zm_log2(threads_per_row);
    group.number = self.index >> group.shift;
    group.index = self.index & (threads_per_row - 1u);
    group.lane = self.index & 31u;
    group.warp = group.index >> 5;
    group.warps = threads_per_row >> 5;
    group.first_warp = group.number * group.warps;
    group.rows = self.threads >> group.shift;
    return group;
}

/* T: int where the row is short. */
template <int V, class T>
ZM_FUNCTION zm_place zm_place_in_row(zm_long row, T chunk, T columns, bool active, zm_group group) {
    const T column = ((chunk << group.shift) + T(group.index)) * V;
    zm_place at;
    at.row = row;
    at.column = column;
    at.columns = columns;
    at.exists = active && column < columns;
    return at;
}

/* Chunk of a row that fits into registers. is_whole: all threads have elements in it; then those of a group without a
 * row of its own, which repeats the last one, have them too. */
template <int V>
ZM_FUNCTION zm_place zm_place_in_chunk(zm_long row, int chunk, bool is_whole, int columns, bool active,
                                       zm_group group) {
    zm_place at = zm_place_in_row<V, int>(row, chunk, columns, active, group);
    at.exists = is_whole || at.exists;
    return at;
}

/* a / b for many a: all but two products is computed once. The scale keeps the reciprocal away from overflow and
 * underflow, so the error is below 2 units in the last place for all b. */
ZM_FUNCTION float zm_quotient(float a, float b) {
    const float size = zm_abs(b), scale = size > 1.2676506e30f    ? 5.4210109e-20f
                                          : size < 7.8886091e-31f ? 1.8446744e19f
                                                                  : 1.0f;
    return a * (1.0f / (b * scale)) * scale;
}

/* A sum with what its last additions lost (Kahan 1965). An infinite sum has lost nothing. */
struct zm_sum {
    float sum, lost;
};
ZM_FUNCTION zm_sum zm_no_sum() {
    zm_sum none;
    none.sum = none.lost = 0.0f;
    return none;
}
ZM_FUNCTION void zm_add(ZM_LOCAL zm_sum &total, float part) {
    const float next = part - total.lost;
    const float sum = total.sum + next;
    const float lost = (sum - total.sum) - next;
    total.lost = lost == lost ? lost : 0.0f;
    total.sum = sum;
}

/* The place of the largest: NaN above all, then the first. Key 0 is below every float. */
struct zm_best {
    uint key, index;
};
ZM_FUNCTION zm_best zm_candidate(float value, uint index) {
    const uint bits = zm_float_bits(value + 0.0f);
    zm_best best;
    best.key = value != value ? 0xffffffffu : (bits >> 31) != 0u ? ~bits : bits | 0x80000000u;
    best.index = index;
    return best;
}

/* The sum of e^(value - largest) and the largest, of the elements so far; 0 where all are -inf, which have no such
 * sum. */
struct zm_exp_sum {
    float largest, sum;
};
/* Of sum, for the largest of more elements. What the fast exponential is wrong by grows with the distance from the
 * largest, and what it stands for falls faster. */
ZM_FUNCTION float zm_rescale(zm_exp_sum of, float largest) {
    return of.sum == 0.0f ? 0.0f : of.sum * zm_fast_exp(of.largest - largest);
}
template <int V>
ZM_FUNCTION void zm_add_exps(ZM_LOCAL zm_exp_sum &total, const ZM_LOCAL float *v) {
    float largest = v[0], sum = 0.0f;
#pragma unroll
    for (int j = 1; j < V; ++j) largest = zm_max(largest, v[j]);
    if (!(largest <= total.largest)) {
        largest = zm_max(largest, total.largest);
        total.sum = zm_rescale(total, largest);
        total.largest = largest;
    }
    if (total.largest == -ZM_INFINITY) return;
#pragma unroll
    for (int j = 0; j < V; ++j) sum += zm_fast_exp(v[j] - total.largest);
    total.sum += sum;
}
ZM_FUNCTION float zm_exp_result(zm_exp_sum total, zm_long columns) {
    return total.largest == -ZM_INFINITY && columns > 0 ? ZM_NAN : total.sum;
}
struct zm_exp_sum_step {
    enum { is_symmetric = 1 };
    static ZM_FUNCTION zm_exp_sum apply(zm_exp_sum a, zm_exp_sum b) {
        zm_exp_sum both;
        both.largest = zm_max(a.largest, b.largest);
        both.sum = zm_rescale(a, both.largest) + zm_rescale(b, both.largest);
        return both;
    }
};

struct zm_sum_step {
    enum { is_symmetric = 1 };
    static ZM_FUNCTION float apply(float a, float b) { return a + b; }
};
struct zm_product_step {
    enum { is_symmetric = 1 };
    static ZM_FUNCTION float apply(float a, float b) { return a * b; }
};
struct zm_max_step {
    enum { is_symmetric = 1 };
    static ZM_FUNCTION float apply(float a, float b) { return zm_max(a, b); }
};
struct zm_min_step {
    enum { is_symmetric = 1 };
    static ZM_FUNCTION float apply(float a, float b) { return zm_min(a, b); }
};
struct zm_best_step {
    enum { is_symmetric = 1 };
    static ZM_FUNCTION zm_best apply(zm_best a, zm_best b) {
        return b.key > a.key || (b.key == a.key && b.index < a.index) ? b : a;
    }
};

ZM_FUNCTION bool zm_exchange(bool value, uint lane, uint distance) {
    return zm_exchange(uint(value), lane, distance) != 0u;
}
ZM_FUNCTION zm_best zm_exchange(zm_best value, uint lane, uint distance) {
    value.key = zm_exchange(value.key, lane, distance);
    value.index = zm_exchange(value.index, lane, distance);
    return value;
}
ZM_FUNCTION zm_exp_sum zm_exchange(zm_exp_sum value, uint lane, uint distance) {
    value.largest = zm_exchange(value.largest, lane, distance);
    value.sum = zm_exchange(value.sum, lane, distance);
    return value;
}
ZM_FUNCTION bool zm_shuffle(bool value, uint lane) { return zm_shuffle(uint(value), lane) != 0u; }
/* To and from a word, for a zm_best or zm_exp_sum two, of shared memory; `value` gives the type. */
ZM_FUNCTION void zm_put(ZM_SHARED uint *slot, uint warp, float value) { slot[warp] = zm_float_bits(value); }
ZM_FUNCTION void zm_put(ZM_SHARED uint *slot, uint warp, uint value) { slot[warp] = value; }
ZM_FUNCTION void zm_put(ZM_SHARED uint *slot, uint warp, bool value) { slot[warp] = uint(value); }
ZM_FUNCTION void zm_put(ZM_SHARED uint *slot, uint warp, zm_best value) {
    slot[warp] = value.key;
    slot[16u + warp] = value.index;
}
ZM_FUNCTION void zm_put(ZM_SHARED uint *slot, uint warp, zm_exp_sum value) {
    slot[warp] = zm_float_bits(value.largest);
    slot[16u + warp] = zm_float_bits(value.sum);
}
ZM_FUNCTION float zm_take(ZM_SHARED uint *slot, uint warp, float) { return zm_bits_float(slot[warp]); }
ZM_FUNCTION uint zm_take(ZM_SHARED uint *slot, uint warp, uint) { return slot[warp]; }
ZM_FUNCTION bool zm_take(ZM_SHARED uint *slot, uint warp, bool) { return slot[warp] != 0u; }
ZM_FUNCTION zm_best zm_take(ZM_SHARED uint *slot, uint warp, zm_best value) {
    value.key = slot[warp];
    value.index = slot[16u + warp];
    return value;
}

ZM_FUNCTION zm_exp_sum zm_take(ZM_SHARED uint *slot, uint warp, zm_exp_sum value) {
    value.largest = zm_bits_float(slot[warp]);
    value.sum = zm_bits_float(slot[16u + warp]);
    return value;
}

/* is_symmetric: either order gives the same bits. */
template <class F, class T>
ZM_FUNCTION T zm_in_order(bool is_second, T own, T other) {
    return !F::is_symmetric && is_second ? F::apply(other, own) : F::apply(own, other);
}
/* Over lanes in a tree whose order all lanes share, so that all have the same bits. */
template <class F, class T>
ZM_FUNCTION T zm_reduce_lanes(T value, uint lane, uint lanes) {
#pragma unroll 1
    for (uint distance = 1u; distance < lanes; distance *= 2u) {
        const T other = zm_exchange(value, lane, distance);
        value = zm_in_order<F>((lane & distance) != 0u, value, other);
    }
    return value;
}
/* First half of a reduction: over the warp; the result goes to shared memory where a row has several. A barrier
 * follows, then the second half. */
template <class F, class T>
ZM_FUNCTION T zm_reduce_warp(T value, zm_group group, ZM_SHARED uint *slot) {
#pragma unroll
    for (uint distance = 1u; distance < 32u; distance *= 2u) {
        const T other = zm_exchange(value, group.lane, distance);
        value = zm_in_order<F>((group.lane & distance) != 0u, value, other);
    }
    if (group.warps > 1u && group.lane == 0u) zm_put(slot, group.first_warp + group.warp, value);
    return value;
}
template <class F, class T>
ZM_FUNCTION T zm_reduce_row(T value, zm_group group, ZM_SHARED uint *slot) {
    if (group.warps == 1u) return value;
    value = zm_take(slot, group.first_warp + (group.lane & (group.warps - 1u)), value);
    return zm_reduce_lanes<F>(value, group.lane, group.warps);
}

/* From the warp whose turn it was to all threads of the row. */
template <class T>
ZM_FUNCTION T zm_hand_on(T value, zm_group group, uint turn, ZM_SHARED uint *slot) {
    if (group.warps == 1u) return value;
    if (group.warp == turn && group.lane == 0u) zm_put(slot, group.first_warp, value);
    zm_barrier();
    value = zm_take(slot, group.first_warp, value);
    zm_barrier();
    return value;
}

/* Inclusive sums of the row's elements of this chunk, vector by vector, on top of `carry`, which the chunk's sum joins.
 * R: from the last element on. */
template <int V, bool R>
ZM_FUNCTION void zm_scan(ZM_LOCAL float *s, ZM_LOCAL zm_sum &carry, zm_group group, ZM_SHARED uint *slot) {
#pragma unroll
    for (int j = 1; j < V; ++j) {
        if (R)
            s[V - 1 - j] += s[V - j];
        else
            s[j] += s[j - 1];
    }
    const uint lane = R ? 31u - group.lane : group.lane, warp = R ? group.warps - 1u - group.warp : group.warp;
    float sum = s[R ? 0 : V - 1];
#pragma unroll
    for (uint distance = 1u; distance < 32u; distance *= 2u) {
        const float other = zm_shuffle(sum, R ? group.lane + distance : group.lane - distance);
        if (lane >= distance) sum += other;
    }
    float before = zm_shuffle(sum, R ? group.lane + 1u : group.lane - 1u);
    float total = zm_shuffle(sum, R ? 0u : 31u);
    if (lane == 0u) before = 0.0f;
    if (group.warps > 1u) {
        if (group.lane == 0u) zm_put(slot, group.first_warp + group.warp, total);
        zm_barrier();
        float warps_before = 0.0f;
        total = 0.0f;
#pragma unroll 1
        for (uint w = 0u; w < group.warps; ++w) {
            if (w == warp) warps_before = total;
            total += zm_take(slot, group.first_warp + (R ? group.warps - 1u - w : w), total);
        }
        before += warps_before;
        zm_barrier();
    }
    before += carry.sum;
#pragma unroll
    for (int j = 0; j < V; ++j) s[j] += before;
    zm_add(carry, total);
}

/* The sums of scans at the start of every step-th chunk; several rows of a block share the words. */
ZM_FUNCTION zm_long zm_carry_word(zm_long chunk, zm_long step, zm_group group) {
    return zm_long(group.number * (256u / group.rows)) + chunk / step;
}
ZM_FUNCTION void zm_keep_carry(ZM_SHARED uint *carries, zm_long chunk, zm_long step, zm_sum carry, zm_group group) {
    if (group.index == 0u && chunk % step == 0) carries[zm_carry_word(chunk, step, group)] = zm_float_bits(carry.sum);
}
ZM_FUNCTION zm_sum zm_kept_carry(ZM_SHARED uint *carries, zm_long chunk, zm_long step, zm_group group) {
    zm_sum carry;
    carry.sum = zm_bits_float(carries[zm_carry_word(chunk, step, group)]);
    carry.lost = 0.0f;
    return carry;
}
