/* SPDX-License-Identifier: MIT */
/* Rows by their numbers. Defined before: S (storage of rows), O (of sums), V (elements of a vector).
 * The preludes of emitted kernels are in front. */

/* y = from[indices] + other, in vectors; NaN where an index is out of range. */
extern "C" __global__ void __launch_bounds__(256)
    zm_gather_add(const S::word *from, const uint *indices, const S::word *other, S::word *y, uint n_rows, uint vectors,
                  uint count_low, uint count_high) {
    enum { STEPS = 2 };
    const zm_long count = zm_join(count_low, count_high), stride = zm_long(gridDim.y) * gridDim.x * (256 * STEPS);
    for (zm_long base = (zm_long(blockIdx.y) * gridDim.x + blockIdx.x) * (256 * STEPS) + threadIdx.x; base < count;
         base += stride) {
        zm_packed<S, V> a[STEPS], b[STEPS];
        uint index[STEPS];
#pragma unroll
        for (int u = 0; u < STEPS; ++u) {
            const zm_long n = base + u * 256;
            index[u] = 0xffffffffu;
            if (n >= count) continue;
            const zm_long row = count_high == 0u ? zm_long(uint(n) / vectors) : n / vectors;
            const uint column = uint(n - row * vectors);
            index[u] = indices[row];
            zm_wide<V>::template load<S>(b[u], other + n * V);
            if (index[u] < n_rows)
                zm_wide<V>::template load<S>(a[u], from + (zm_long(index[u]) * vectors + column) * V);
        }
#pragma unroll
        for (int u = 0; u < STEPS; ++u) {
            const zm_long n = base + u * 256;
            if (n >= count) continue;
            float sum[V], more[V];
            zm_wide<V>::template unpack<S>(sum, a[u]);
            zm_wide<V>::template unpack<S>(more, b[u]);
#pragma unroll
            for (int j = 0; j < V; ++j) sum[j] = index[u] < n_rows ? sum[j] + more[j] : ZM_NAN;
            zm_wide<V>::template store<S>(y + n * V, sum);
        }
    }
}

/* Of sorted keys the first that is not below `row`: the upper word is the row, the lower one the number of an
 * update. */
ZM_FUNCTION uint first_update(const unsigned long long *keys, uint n_keys, uint row) {
    uint low = 0u, high = n_keys;
    while (low < high) {
        const uint middle = (low + high) / 2u;
        if (uint(keys[middle] >> 32) < row)
            low = middle + 1u;
        else
            high = middle;
    }
    return low;
}

/* Each row of sums is that of its updates in their order, in float32. A warp takes 32 V columns of a row. */
extern "C" __global__ void __launch_bounds__(256)
    zm_add_rows(const unsigned long long *keys, const S::word *updates, const uint *, O::word *sums, uint n_keys,
                uint n_rows, uint vectors) {
    const uint lane = threadIdx.x % 32u, parts = (vectors - 1u) / 32u + 1u;
    const zm_long count = zm_long(n_rows) * parts, blocks = zm_long(gridDim.y) * gridDim.x;
    for (zm_long n = (zm_long(blockIdx.y) * gridDim.x + blockIdx.x) * 8 + threadIdx.x / 32u; n < count;
         n += blocks * 8) {
        const uint row = uint(n / parts), column = uint(n - zm_long(row) * parts) * 32u + lane;
        float sum[V];
#pragma unroll
        for (int j = 0; j < V; ++j) sum[j] = 0.0f;
        for (uint i = first_update(keys, n_keys, row); i < n_keys; ++i) {
            const unsigned long long key = keys[i];
            if (uint(key >> 32) != row) break;
            if (column >= vectors) continue;
            zm_packed<S, V> packed;
            float more[V];
            zm_wide<V>::template load<S>(packed, updates + (zm_long(uint(key)) * vectors + column) * V);
            zm_wide<V>::template unpack<S>(more, packed);
#pragma unroll
            for (int j = 0; j < V; ++j) sum[j] += more[j];
        }
        if (column < vectors) zm_wide<V>::template store<O>(sums + (zm_long(row) * vectors + column) * V, sum);
    }
}
