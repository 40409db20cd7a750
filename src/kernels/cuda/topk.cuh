/* SPDX-License-Identifier: MIT */
/* The k <= 32 largest of each row. Defined before: S (storage of x), O (of weights), ITEMS (elements of a lane in a
 * tile), V (of a vector), GATES (0: values, 1: their softmax). The preludes of emitted kernels are in front.
 *
 * `warps` warps go over the tiles of a row in turn. Each has the largest so far, one a lane in descending order. Of a
 * tile only what is not below the k-th largest of the lanes' maxima can be among the k largest of the row. */
enum { WARP = 32, TILE = WARP * ITEMS, NOTHING = int(0x80000000u) };

/* Larger for larger numbers; NaN the largest; -0 as 0. NOTHING is below all. */
ZM_FUNCTION int order_key(float value) {
    const int bits = int(zm_float_bits(value + 0.0f));
    const int key = bits ^ (bits >> 31 & 0x7fffffff);
    return value != value ? 0x7fffffff : key;
}

struct largest {
    int key;    /* of this lane's element */
    uint place; /* its column */
};

ZM_FUNCTION int shuffle(int value, uint lane) { return __shfl_sync(0xffffffffu, value, int(lane)); }

ZM_FUNCTION bool precedes(int key, uint place, int other_key, uint other_place) {
    return key > other_key || (key == other_key && place < other_place);
}

/* All lanes give the same candidate. */
ZM_FUNCTION void insert(largest &list, uint lane, int key, uint place) {
    const uint at = uint(__popc(__ballot_sync(0xffffffffu, precedes(list.key, list.place, key, place))));
    const int above_key = __shfl_up_sync(0xffffffffu, list.key, 1);
    const uint above_place = __shfl_up_sync(0xffffffffu, list.place, 1);
    if (lane > at) list.key = above_key, list.place = above_place;
    if (lane == at) list.key = key, list.place = place;
}

/* Inserts the elements of the lanes in `candidates` that precede the k-th. */
ZM_FUNCTION void insert_all(largest &list, uint lane, uint k, uint candidates, int key, uint place) {
    while (candidates) {
        const uint from = uint(__ffs(int(candidates))) - 1u;
        insert(list, lane, shuffle(key, from), zm_shuffle(place, from));
        const int last = shuffle(list.key, k - 1u);
        const uint last_place = zm_shuffle(list.place, k - 1u);
        candidates &= candidates - 1u;
        candidates &= __ballot_sync(0xffffffffu, precedes(key, place, last, last_place));
    }
}

/* The k-th largest of a number a lane, by a bitonic sort. */
ZM_FUNCTION int select_lane(int key, uint lane, uint k) {
#pragma unroll
    for (uint size = 2u; size <= WARP; size *= 2u)
#pragma unroll
        for (uint distance = size / 2u; distance > 0u; distance /= 2u) {
            const int other = shuffle(key, lane ^ distance);
            const bool takes_larger = ((lane & distance) == 0u) == ((lane & size) == 0u);
            key = takes_larger ? max(key, other) : min(key, other);
        }
    return shuffle(key, k - 1u);
}

ZM_FUNCTION uint column_of(uint tile, uint lane, int item) {
    return tile * TILE + uint(item / V) * (WARP * V) + lane * V + uint(item % V);
}

ZM_FUNCTION void load_tile(int *keys, const S::word *row, uint tile, uint lane, uint columns) {
#pragma unroll
    for (int item = 0; item < ITEMS; item += V) {
        const uint column = column_of(tile, lane, item);
        zm_packed<S, V> packed;
        float values[V];
        if (column < columns) zm_wide<V>::template load<S>(packed, row + column);
        if (column < columns) zm_wide<V>::template unpack<S>(values, packed);
#pragma unroll
        for (int j = 0; j < V; ++j) keys[item + j] = column < columns ? order_key(values[j]) : NOTHING;
    }
}

ZM_FUNCTION void search_tile(largest &list, const S::word *row, uint tile, uint lane, uint columns, uint k) {
    int keys[ITEMS], most = NOTHING;
    load_tile(keys, row, tile, lane, columns);
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) most = max(most, keys[item]);
    const int least = max(max(select_lane(most, lane, k), shuffle(list.key, k - 1u)), NOTHING + 1);
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        const uint candidates = __ballot_sync(0xffffffffu, keys[item] >= least);
        if (candidates) insert_all(list, lane, k, candidates, keys[item], column_of(tile, lane, item));
    }
}

ZM_FUNCTION float sum_lanes(float value) {
#pragma unroll
    for (uint distance = 1u; distance < WARP; distance *= 2u)
        value += __shfl_xor_sync(0xffffffffu, value, int(distance));
    return value;
}

ZM_FUNCTION void store(const largest &list, const S::word *row, O::word *results, uint *places, zm_long first,
                       uint lane, uint k) {
    const bool exists = lane < k;
    const S::word word = exists ? row[list.place] : S::word(0);
    if (exists) places[first + lane] = list.place;
#if GATES
    const float value = S::widen(word), top = zm_shuffle(value, 0u);
    const float e = exists && top != -ZM_INFINITY ? zm_exp(value - top) : 0.0f, sum = sum_lanes(e);
    if (exists) results[first + lane] = O::narrow(top == -ZM_INFINITY ? 0.0f : e / sum);
#else
    if (exists) results[first + lane] = word;
#endif
}

extern "C" __global__ void __launch_bounds__(256)
    zm_topk(const S::word *x, O::word *results, uint *places, uint rows_low, uint rows_high, uint columns, uint k,
            uint warps) {
    __shared__ int shared_keys[256];
    __shared__ uint shared_places[256];
    const zm_long rows = zm_join(rows_low, rows_high), blocks = zm_long(gridDim.y) * gridDim.x;
    const uint lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, part = warp % warps, rows_each = 8u / warps;
    for (zm_long base = (zm_long(blockIdx.y) * gridDim.x + blockIdx.x) * rows_each; base < rows;
         base += blocks * rows_each) {
        const zm_long number = base + warp / warps;
        const bool is_active = number < rows;
        const S::word *row = x + (is_active ? number : 0) * columns;
        largest list = {NOTHING, 0xffffffffu};
        for (uint tile = part; is_active && tile * TILE < columns; tile += warps)
            search_tile(list, row, tile, lane, columns, k);
        if (warps > 1u) {
            shared_keys[threadIdx.x] = list.key;
            shared_places[threadIdx.x] = list.place;
            __syncthreads();
            for (uint other = 1u; part == 0u && is_active && other < warps; ++other) {
                const int key = shared_keys[threadIdx.x + other * WARP];
                const uint place = shared_places[threadIdx.x + other * WARP];
                insert_all(list, lane, k, __ballot_sync(0xffffffffu, lane < k && key != NOTHING), key, place);
            }
            __syncthreads();
        }
        if (is_active && part == 0u) store(list, row, results, places, number * k, lane, k);
    }
}

/* What the gradient is for this lane's element of the k: given itself, or that of the softmax. */
ZM_FUNCTION S::word gradient_of(const S::word *row, O::word given, uint place, bool exists) {
#if GATES
    const float value = exists ? S::widen(row[place]) : -ZM_INFINITY, top = zm_shuffle(value, 0u);
    const float e = exists && top != -ZM_INFINITY ? zm_exp(value - top) : 0.0f, sum = sum_lanes(e);
    const float w = top == -ZM_INFINITY ? 0.0f : e / sum, g = exists ? O::widen(given) : 0.0f;
    return S::narrow(w * (g - sum_lanes(w * g)));
#else
    return given;
#endif
}

/* Zeros but for what was chosen: a warp has SEGMENT columns of a row. */
enum { SEGMENT = 8192 };

extern "C" __global__ void __launch_bounds__(256)
    zm_topk_gradient(const S::word *x, const uint *places, const O::word *given, S::word *gradient, uint rows_low,
                     uint rows_high, uint columns, uint k) {
    const uint lane = threadIdx.x % WARP, segments = (columns - 1u) / SEGMENT + 1u;
    const zm_long count = zm_join(rows_low, rows_high) * segments, blocks = zm_long(gridDim.y) * gridDim.x;
    for (zm_long n = (zm_long(blockIdx.y) * gridDim.x + blockIdx.x) * 8 + threadIdx.x / WARP; n < count;
         n += blocks * 8) {
        const zm_long row = n / segments;
        const uint first = uint(n - row * segments) * SEGMENT, end = min(first + SEGMENT, columns);
        float zeros[V];
#pragma unroll
        for (int j = 0; j < V; ++j) zeros[j] = 0.0f;
        for (uint column = first + lane * V; column < end; column += WARP * V)
            zm_wide<V>::template store<S>(gradient + row * columns + column, zeros);
        const uint place = lane < k ? places[row * k + lane] : 0xffffffffu;
        const bool exists = place < columns;
        const S::word word = gradient_of(x + row * columns, exists ? given[row * k + lane] : O::word(0), place, exists);
        __syncwarp();
        if (place >= first && place < end) gradient[row * columns + place] = word;
    }
}
