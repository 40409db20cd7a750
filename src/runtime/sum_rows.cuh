/* SPDX-License-Identifier: MIT */
/* The sums of all rows of parts (n_parts, columns), each in an order that depends on n_parts alone: a thread's every
 * 128th row, then a tree over the threads. A block has 8 columns. Defined before: S (storage of the sums). The preludes
 * of emitted kernels are in front. */
extern "C" __global__ void __launch_bounds__(1024)
    zm_sum_rows(const float *parts, S::word *sums, uint n_parts, uint columns) {
    __shared__ float shared[8][33];
    const uint lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;
    for (uint base = blockIdx.x * 8u; base < columns; base += gridDim.x * 8u) {
        const uint column = base + lane % 8u;
        float sum = 0.0f;
        if (column < columns) {
#pragma unroll 8
            for (uint part = warp * 4u + lane / 8u; part < n_parts; part += 128u)
                sum += parts[zm_long(part) * columns + column];
        }
        sum += zm_exchange(sum, lane, 8u);
        sum += zm_exchange(sum, lane, 16u);
        if (lane < 8u) shared[lane][warp] = sum;
        __syncthreads();
        if (warp < 8u) {
            sum = shared[warp][lane];
#pragma unroll
            for (uint distance = 1u; distance < 32u; distance *= 2u) sum += zm_exchange(sum, lane, distance);
            if (lane == 0u && base + warp < columns) sums[base + warp] = S::narrow(sum);
        }
        __syncthreads();
    }
}
