template <int V, int U, bool WHOLE, class I0>
ZM_FUNCTION void zm_part(I0 zm_in0, ZM_DEVICE ushort *zm_out0, zm_long rows, zm_long columns, uint threads_per_row,
    uint layout0, zm_thread self, ZM_SHARED uint *shared, zm_long begin, zm_long end) {
#pragma unroll 1
    for (zm_long first = begin + self.block * (512 * U * V); first < end; first += self.blocks * (512 * U * V)) {
        zm_place places[U];
        zm_packed<zm_bfloat16, V> x0[U];
#pragma unroll
        for (int u = 0; u < U; ++u) {
            places[u] = zm_place_in_map<WHOLE>(first + (u * 512 + self.index) * V, end, rows, columns);
            zm_load<zm_bfloat16, V>(x0[u], zm_in0 + zm_row_start(layout0, places[u].row, columns), places[u],
                layout0);
        }
#pragma unroll
        for (int u = 0; u < U; ++u) {
            const zm_place at = places[u];
            if (!at.exists) continue;
            float y0[V];
            float e0[V];
            zm_unpack<zm_bfloat16, V>(e0, x0[u]);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float v0 = e0[j];
                const float v1 = zm_exp(v0);
                const float v2 = zm_log1p(v1);
                const float v3 = zm_tanh(v2);
                const float v4 = (v0 * v3);
                y0[j] = v4;
            }
            zm_store<zm_bfloat16, V>(zm_out0 + at.row * columns, y0, at);
        }
    }
}

#ifndef ZM_PART
#define ZM_PART 0
#endif
#if ZM_PART == 0
template <class I0>
ZM_FUNCTION void zm_frame(I0 zm_in0, ZM_DEVICE ushort *zm_out0, zm_long rows, zm_long columns, uint threads_per_row,
    uint layout0, zm_thread self, ZM_SHARED uint *shared) {
    const zm_long elements = rows * columns;
    const zm_long tiles = elements - elements % 4096, split = elements - elements % 8;
    zm_part<8, 1, true>(zm_in0, zm_out0, zm_long(1), elements, threads_per_row, layout0, self, shared, zm_long(0), tiles);
    zm_part<8, 1, false>(zm_in0, zm_out0, zm_long(1), elements, threads_per_row, layout0, self, shared, tiles, split);
    zm_part<1, 1, false>(zm_in0, zm_out0, zm_long(1), elements, threads_per_row, layout0, self, shared, split, elements);
}

extern "C" __global__ void __launch_bounds__(512, 3) mish(
    const ushort *zm_in0, ushort *zm_out0, uint rows_low, uint rows_high, uint columns_low, uint columns_high,
    uint threads_per_row, uint layout0) {
    uint *shared = 0;
    zm_thread self;
    self.block = zm_long(blockIdx.y) * gridDim.x + blockIdx.x;
    self.blocks = zm_long(gridDim.y) * gridDim.x;
    self.index = threadIdx.x;
    self.threads = blockDim.x;
    layout0 |= 1u;
    zm_frame(zm_in0, zm_out0, zm_join(rows_low, rows_high), zm_join(columns_low, columns_high), threads_per_row,
        layout0, self, shared);
}
#endif
#if ZM_PART == 1
template <class I0>
ZM_FUNCTION void zm_frame(I0 zm_in0, ZM_DEVICE ushort *zm_out0, zm_long rows, zm_long columns, uint threads_per_row,
    uint layout0, zm_thread self, ZM_SHARED uint *shared) {
    const zm_long elements = rows * columns;
    const zm_long split = elements - elements % 8;
    zm_part<8, 1, false>(zm_in0, zm_out0, rows, columns, threads_per_row, layout0, self, shared, zm_long(0), split);
    zm_part<1, 1, false>(zm_in0, zm_out0, rows, columns, threads_per_row, layout0, self, shared, split, elements);
}

extern "C" __global__ void __launch_bounds__(512, 3) mish(
    const ushort *zm_in0, ushort *zm_out0, uint rows_low, uint rows_high, uint columns_low, uint columns_high,
    uint threads_per_row, uint layout0) {
    uint *shared = 0;
    zm_thread self;
    self.block = zm_long(blockIdx.y) * gridDim.x + blockIdx.x;
    self.blocks = zm_long(gridDim.y) * gridDim.x;
    self.index = threadIdx.x;
    self.threads = blockDim.x;
    zm_frame(zm_in0, zm_out0, zm_join(rows_low, rows_high), zm_join(columns_low, columns_high), threads_per_row,
        layout0, self, shared);
}
#endif
#if ZM_PART == 2
template <class I0>
ZM_FUNCTION void zm_frame(I0 zm_in0, ZM_DEVICE ushort *zm_out0, zm_long rows, zm_long columns, uint threads_per_row,
    uint layout0, zm_thread self, ZM_SHARED uint *shared) {
    const zm_long elements = rows * columns;
    zm_part<1, 2, false>(zm_in0, zm_out0, rows, columns, threads_per_row, layout0, self, shared, zm_long(0), elements);
}

extern "C" __global__ void __launch_bounds__(512, 3) mish(
    const ushort *zm_in0, ushort *zm_out0, uint rows_low, uint rows_high, uint columns_low, uint columns_high,
    uint threads_per_row, uint layout0) {
    uint *shared = 0;
    zm_thread self;
    self.block = zm_long(blockIdx.y) * gridDim.x + blockIdx.x;
    self.blocks = zm_long(gridDim.y) * gridDim.x;
    self.index = threadIdx.x;
    self.threads = blockDim.x;
    zm_frame(zm_in0, zm_out0, zm_join(rows_low, rows_high), zm_join(columns_low, columns_high), threads_per_row,
        layout0, self, shared);
}
#endif
#if ZM_PART == 3
template <class I0>
ZM_FUNCTION void zm_frame(I0 zm_in0, ZM_DEVICE ushort *zm_out0, zm_long rows, zm_long columns, uint threads_per_row,
    uint layout0, zm_thread self, ZM_SHARED uint *shared) {
    const zm_long elements = rows * columns;
    zm_part<8, 1, false>(zm_in0, zm_out0, rows, columns, threads_per_row, layout0, self, shared, zm_long(0), elements);
}

extern "C" __global__ void __launch_bounds__(512, 3) mish(
    const ushort *zm_in0, ushort *zm_out0, uint rows_low, uint rows_high, uint columns_low, uint columns_high,
    uint threads_per_row, uint layout0) {
    uint *shared = 0;
    zm_thread self;
    self.block = zm_long(blockIdx.y) * gridDim.x + blockIdx.x;
    self.blocks = zm_long(gridDim.y) * gridDim.x;
    self.index = threadIdx.x;
    self.threads = blockDim.x;
    layout0 |= 1u;
    zm_frame(zm_in0, zm_out0, zm_join(rows_low, rows_high), zm_join(columns_low, columns_high), threads_per_row,
        layout0, self, shared);
}
#endif
