/* SPDX-License-Identifier: MIT */
/* Rows by their numbers. Defined before: S (storage of rows), O (of sums), V (elements of a vector), P (vectors of a
 * lane in a sum). The preludes of emitted kernels are in front. */

/* y = from[indices] + other, in vectors; NaN where an index is out of range. */
extern "C" __global__ void __launch_bounds__(1024)
    zm_gather_add(const S::word *from, const uint *indices, const S::word *other, S::word *y, uint n_rows, uint vectors,
                  uint count_low, uint count_high) {
    const zm_long count = zm_join(count_low, count_high), stride = zm_long(gridDim.y) * gridDim.x * 1024;
    for (zm_long n = (zm_long(blockIdx.y) * gridDim.x + blockIdx.x) * 1024 + threadIdx.x; n < count; n += stride) {
        const zm_long row = count_high == 0u ? zm_long(uint(n) / vectors) : n / vectors;
        const uint column = uint(n - row * vectors), index = indices[row];
        zm_packed<S, V> a, b;
        zm_wide<V>::template load<S>(b, other + n * V);
        if (index < n_rows) zm_wide<V>::template load<S>(a, from + (zm_long(index) * vectors + column) * V);
        float sum[V], more[V];
        zm_wide<V>::template unpack<S>(sum, a);
        zm_wide<V>::template unpack<S>(more, b);
#pragma unroll
        for (int j = 0; j < V; ++j) sum[j] = index < n_rows ? sum[j] + more[j] : ZM_NAN;
        zm_wide<V>::template store<S>(y + n * V, sum);
    }
}

/* Of sorted keys the first that is not below `row`: the upper word is the row, the lower one the number of an update. A
 * warp looks at 32 places at a time. */
ZM_FUNCTION uint first_update(const unsigned long long *keys, uint n_keys, uint row, uint lane) {
    uint low = 0u, end = n_keys;
    while (low < end) {
        const uint step = (end - low - 1u) / 32u + 1u;
        const zm_long at = low + zm_long(lane) * step;
        const uint below = uint(__popc(__ballot_sync(0xffffffffu, at < end && uint(keys[at] >> 32) < row)));
        if (below == 0u) break;
        const zm_long next = low + zm_long(below) * step;
        low += (below - 1u) * step + 1u;
        end = next < end ? uint(next) : end;
    }
    return low;
}

/* Each row of sums is that of its updates in their order, in float32. A warp takes 32 P V columns of a row. */
extern "C" __global__ void __launch_bounds__(256)
    zm_add_rows(const unsigned long long *keys, const S::word *updates, const uint *, O::word *sums, uint n_keys,
                uint n_rows, uint vectors) {
    const uint lane = threadIdx.x % 32u, parts = (vectors - 1u) / (32u * P) + 1u;
    const zm_long count = zm_long(n_rows) * parts, blocks = zm_long(gridDim.y) * gridDim.x;
    for (zm_long n = (zm_long(blockIdx.y) * gridDim.x + blockIdx.x) * 8 + threadIdx.x / 32u; n < count;
         n += blocks * 8) {
        const uint row = uint(n / parts), column = uint(n - zm_long(row) * parts) * (32u * P) + lane;
        float sum[P][V];
#pragma unroll
        for (int p = 0; p < P; ++p) zm_zero<V>(sum[p]);
        uint first = first_update(keys, n_keys, row, lane), n_found = 32u;
        for (; n_found == 32u; first += 32u) {
            const bool exists = zm_long(first) + lane < n_keys;
            const unsigned long long key = exists ? keys[first + lane] : 0u;
            n_found = uint(__popc(__ballot_sync(0xffffffffu, exists && uint(key >> 32) == row)));
            for (uint i = 0u; i < n_found; ++i) {
                const S::word *from = updates + zm_long(zm_shuffle(uint(key), i)) * vectors * V;
                zm_packed<S, V> packed[P];
#pragma unroll
                for (int p = 0; p < P; ++p)
                    if (column + 32u * p < vectors)
                        zm_wide<V>::template load<S>(packed[p], from + (column + 32u * p) * V);
#pragma unroll
                for (int p = 0; p < P; ++p) {
                    float more[V];
                    zm_wide<V>::template unpack<S>(more, packed[p]);
                    zm_accumulate<V>(sum[p], more);
                }
            }
        }
#pragma unroll
        for (int p = 0; p < P; ++p)
            if (column + 32u * p < vectors)
                zm_wide<V>::template store<O>(sums + (zm_long(row) * vectors + column + 32u * p) * V, sum[p]);
    }
}
