template <int V, int U, bool WHOLE, class I0, class I1>
ZM_FUNCTION void zm_part(I0 zm_in0, I1 zm_in1, ZM_DEVICE ushort *zm_out0, zm_long rows, zm_long columns, uint threads_per_row,
    uint layout0, uint layout1, zm_thread self, ZM_SHARED uint *shared, zm_long begin, zm_long end) {
    const float v6 = 1.0f;
#pragma unroll 1
    for (zm_long first = begin + self.block * (512 * U * V); first < end; first += self.blocks * (512 * U * V)) {
        zm_place places[U];
        zm_packed<zm_float16, V> x0[U];
        zm_packed<zm_float16, V> x1[U];
#pragma unroll
        for (int u = 0; u < U; ++u) {
            places[u] = zm_place_in_map<WHOLE>(first + (u * 512 + self.index) * V, end, rows, columns);
            zm_load<zm_float16, V>(x0[u], zm_in0 + zm_row_start(layout0, places[u].row, columns), places[u],
                layout0);
            zm_load<zm_float16, V>(x1[u], zm_in1 + zm_row_start(layout1, places[u].row, columns), places[u],
                layout1);
        }
#pragma unroll
        for (int u = 0; u < U; ++u) {
            const zm_place at = places[u];
            if (!at.exists) continue;
            float y0[V];
            float e0[V];
            zm_unpack<zm_float16, V>(e0, x0[u]);
            float e1[V];
            zm_unpack<zm_float16, V>(e1, x1[u]);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float v0 = e0[j];
                const float v1 = e1[j];
                const float v2 = zm_sigmoid(v0);
                const float v3 = (-v0);
                const float v4 = zm_sigmoid(v3);
                const float v5 = (v0 * v4);
                const float v7 = (v5 + v6);
                const float v8 = (v2 * v7);
                const float v9 = (v1 * v8);
                y0[j] = v9;
            }
            zm_store<zm_float16, V>(zm_out0 + at.row * columns, y0, at);
        }
    }
}
template <class I0, class I1>
ZM_FUNCTION void zm_frame(I0 zm_in0, I1 zm_in1, ZM_DEVICE ushort *zm_out0, zm_long rows, zm_long columns, uint threads_per_row,
    uint layout0, uint layout1, zm_thread self, ZM_SHARED uint *shared) {
    const bool whole = columns % 8 == 0, wide = zm_is_aligned(zm_in0) && zm_is_aligned(zm_in1) && zm_is_aligned(zm_out0);
    const zm_long elements = rows * columns;
    const zm_long split = wide && (whole || rows == 1) ? elements - elements % 8 : 0;
    zm_part<8, 1, false>(zm_in0, zm_in1, zm_out0, rows, columns, threads_per_row, layout0, layout1, self, shared, zm_long(0), split);
    zm_part<1, 2, false>(zm_in0, zm_in1, zm_out0, rows, columns, threads_per_row, layout0, layout1, self, shared, split, elements);
}

[[kernel]] void silu_gradient(
    const device ushort *zm_in0 [[buffer(0)]],
    const device ushort *zm_in1 [[buffer(1)]],
    device ushort *zm_out0 [[buffer(2)]],
    const constant uint *zm_scalars [[buffer(3)]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]],
    uint3 threadgroups_per_grid [[threadgroups_per_grid]],
    uint3 threads_per_threadgroup [[threads_per_threadgroup]]) {
    threadgroup uint zm_shared[1];
    zm_thread zm_self;
    zm_self.block = zm_long(threadgroup_position_in_grid.y) * threadgroups_per_grid.x + threadgroup_position_in_grid.x;
    zm_self.blocks = zm_long(threadgroups_per_grid.y) * threadgroups_per_grid.x;
    zm_self.index = thread_index_in_threadgroup;
    zm_self.threads = threads_per_threadgroup.x;
    zm_frame(zm_words<ushort>(zm_in0), zm_words<ushort>(zm_in1), zm_output_words<ushort>(zm_out0), 
        zm_join(zm_scalars[0], zm_scalars[1]), zm_join(zm_scalars[2], zm_scalars[3]), zm_scalars[4],
        zm_scalars[5], zm_scalars[6], zm_self, zm_shared);
}
