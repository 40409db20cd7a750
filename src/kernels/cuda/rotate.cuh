/* SPDX-License-Identifier: MIT */
/* Pairs (a, b) of rows of 2 N elements rotated: (a cos - b sin, a sin + b cos). Row r has the angles of row
 * r / inner mod positions. Defined before: S (storage of rows), C (of angles), V (pairs of a vector), NEIGHBOURS (0:
 * pair j is (j, j + N), 1: (2 j, 2 j + 1)). The preludes of emitted kernels are in front. */
extern "C" __global__ void __launch_bounds__(512)
    zm_rotate(const S::word *x, const C::word *cos, const C::word *sin, S::word *y, uint count_low, uint count_high,
              uint vectors, uint inner, uint positions, float sign) {
    const zm_long count = zm_join(count_low, count_high), stride = zm_long(gridDim.y) * gridDim.x * 512;
    for (zm_long n = (zm_long(blockIdx.y) * gridDim.x + blockIdx.x) * 512 + threadIdx.x; n < count; n += stride) {
        const zm_long row = count_high == 0u ? zm_long(uint(n) / vectors) : n / vectors;
        const uint part = uint(n - row * vectors);
        const zm_long angle = (zm_long(uint(row / inner % positions)) * vectors + part) * V;
        const zm_long first = NEIGHBOURS ? (row * vectors + part) * (2 * V) : (2 * row * vectors + part) * V;
        const zm_long second = first + (NEIGHBOURS ? V : zm_long(vectors) * V);
        zm_packed<S, V> packed_a, packed_b;
        zm_packed<C, V> packed_cos, packed_sin;
        zm_wide<V>::template load<S>(packed_a, x + first);
        zm_wide<V>::template load<S>(packed_b, x + second);
        zm_wide<V>::template load<C>(packed_cos, cos + angle);
        zm_wide<V>::template load<C>(packed_sin, sin + angle);
        float in[2 * V], out[2 * V], c[V], s[V];
        zm_wide<V>::template unpack<S>(in, packed_a);
        zm_wide<V>::template unpack<S>(in + V, packed_b);
        zm_wide<V>::template unpack<C>(c, packed_cos);
        zm_wide<V>::template unpack<C>(s, packed_sin);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const int at = NEIGHBOURS ? 2 * j : j, other = NEIGHBOURS ? 2 * j + 1 : V + j;
            const float a = in[at], b = in[other], t = sign * s[j];
            out[at] = a * c[j] - b * t;
            out[other] = a * t + b * c[j];
        }
        zm_wide<V>::template store<S>(y + first, out);
        zm_wide<V>::template store<S>(y + second, out + V);
    }
}
