template <int C, int WHOLE, class I0>
ZM_FUNCTION void zm_resident(I0 zm_in0, ZM_DEVICE ushort *zm_out0, zm_long rows, zm_long columns, uint threads_per_row,
    uint layout0, zm_thread self, ZM_SHARED uint *shared) {
    constexpr int V = 8;
    const zm_group group = zm_group_of(self, threads_per_row);
#pragma unroll 1
    for (zm_long base = self.block * group.rows; base < rows; base += self.blocks * group.rows) {
        const bool active = base + group.number < rows;
        const zm_long row = active ? base + group.number : rows - 1;
        const I0 row_in0 = zm_in0 + zm_row_start(layout0, row, columns);
        ZM_DEVICE ushort *row_out0 = zm_out0 + row * columns;
        zm_packed<zm_float16, V> x0[C];
#pragma unroll
        for (int k = 0; k < C; ++k) {
            const zm_place at = zm_place_in_chunk<V>(row, k, k < WHOLE, int(columns), active, group);
            zm_load<zm_float16, V>(x0[k], row_in0, at, layout0);
        }
        float r1 = -ZM_INFINITY;
#pragma unroll
        for (int i = 0; i < C; ++i) {
            const int k = i;
            const zm_place at = zm_place_in_chunk<V>(row, k, k < WHOLE, int(columns), active, group);
            if (at.exists) {
            float e0[V];
            zm_unpack<zm_float16, V>(e0, x0[k]);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float v0 = e0[j];
                r1 = zm_max(r1, v0);
            }
            }
        }
        const float w1 = zm_reduce_warp<zm_max_step>(r1, group, shared + 0);
        if (group.warps > 1u) zm_barrier();
        const float v1 = zm_reduce_row<zm_max_step>(w1, group, shared + 0);
        float r4 = 0.0f;
#pragma unroll
        for (int i = 0; i < C; ++i) {
            const int k = i;
            const zm_place at = zm_place_in_chunk<V>(row, k, k < WHOLE, int(columns), active, group);
            if (at.exists) {
            float e0[V];
            zm_unpack<zm_float16, V>(e0, x0[k]);
            float t4 = 0.0f;
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float v0 = e0[j];
                const float v2 = (v0 - v1);
                const float v3 = zm_exp_to_largest(v2);
                t4 = t4 + v3;
            }
            r4 += t4;
            }
        }
        const float w4 = zm_reduce_warp<zm_sum_step>(r4, group, shared + 16);
        if (group.warps > 1u) zm_barrier();
        const float v4 = zm_reduce_row<zm_sum_step>(w4, group, shared + 16);
#pragma unroll
        for (int i = 0; i < C; ++i) {
            const int k = i;
            const zm_place at = zm_place_in_chunk<V>(row, k, k < WHOLE, int(columns), active, group);
            if (at.exists) {
            float e0[V];
            zm_unpack<zm_float16, V>(e0, x0[k]);
            float y0[V];
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float v0 = e0[j];
                const float v2 = (v0 - v1);
                const float v3 = zm_exp_to_largest(v2);
                const float v5 = zm_quotient(v3, v4);
                y0[j] = v5;
            }
            if (active) zm_store<zm_float16, V>(row_out0, y0, at);
            }
        }
        if (group.warps > 1u && base + self.blocks * group.rows < rows) zm_barrier();
    }
}
template <int V, class I0>
ZM_FUNCTION void zm_streamed(I0 zm_in0, ZM_DEVICE ushort *zm_out0, zm_long rows, zm_long columns, uint threads_per_row,
    uint layout0, zm_thread self, ZM_SHARED uint *shared) {
    const zm_group group = zm_group_of(self, threads_per_row);
    const zm_long chunks = (((columns - 1) / V) >> group.shift) + 1;
#pragma unroll 1
    for (zm_long base = self.block * group.rows; base < rows; base += self.blocks * group.rows) {
        const bool active = base + group.number < rows;
        const zm_long row = active ? base + group.number : rows - 1;
        const I0 row_in0 = zm_in0 + zm_row_start(layout0, row, columns);
        ZM_DEVICE ushort *row_out0 = zm_out0 + row * columns;
        float r1 = -ZM_INFINITY;
#pragma unroll 1
        for (uint first = 0u; first < uint(chunks); first += 4u) {
            zm_packed<zm_float16, V> x0[4];
#pragma unroll
            for (int u = 0; u < 4; ++u) {
            const uint k = first + uint(u);
            const zm_place at = zm_place_in_row<V, uint>(row, k, uint(columns), active, group);
            zm_load<zm_float16, V>(x0[u], row_in0, at, layout0);
            }
#pragma unroll
            for (int u = 0; u < 4; ++u) {
            const uint k = first + uint(u);
            const zm_place at = zm_place_in_row<V, uint>(row, k, uint(columns), active, group);
            if (at.exists) {
            float e0[V];
            zm_unpack<zm_float16, V>(e0, x0[u]);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float v0 = e0[j];
                r1 = zm_max(r1, v0);
            }
            }
            }
        }
        const float w1 = zm_reduce_warp<zm_max_step>(r1, group, shared + 0);
        if (group.warps > 1u) zm_barrier();
        const float v1 = zm_reduce_row<zm_max_step>(w1, group, shared + 0);
        zm_sum r4 = zm_no_sum();
#pragma unroll 1
        for (uint first = 0u; first < uint(chunks); first += 4u) {
            zm_packed<zm_float16, V> x0[4];
#pragma unroll
            for (int u = 0; u < 4; ++u) {
            const uint k = first + uint(u);
            const zm_place at = zm_place_in_row<V, uint>(row, k, uint(columns), active, group);
            zm_load<zm_float16, V>(x0[u], row_in0, at, layout0);
            }
#pragma unroll
            for (int u = 0; u < 4; ++u) {
            const uint k = first + uint(u);
            const zm_place at = zm_place_in_row<V, uint>(row, k, uint(columns), active, group);
            if (at.exists) {
            float e0[V];
            zm_unpack<zm_float16, V>(e0, x0[u]);
            float t4 = 0.0f;
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float v0 = e0[j];
                const float v2 = (v0 - v1);
                const float v3 = zm_exp_to_largest(v2);
                t4 = t4 + v3;
            }
            zm_add(r4, t4);
            }
            }
        }
        const float w4 = zm_reduce_warp<zm_sum_step>(r4.sum, group, shared + 16);
        if (group.warps > 1u) zm_barrier();
        const float v4 = zm_reduce_row<zm_sum_step>(w4, group, shared + 16);
#pragma unroll 1
        for (uint first = 0u; first < uint(chunks); first += 4u) {
            zm_packed<zm_float16, V> x0[4];
#pragma unroll
            for (int u = 0; u < 4; ++u) {
            const uint k = first + uint(u);
            const zm_place at = zm_place_in_row<V, uint>(row, k, uint(columns), active, group);
            zm_load<zm_float16, V>(x0[u], row_in0, at, layout0);
            }
#pragma unroll
            for (int u = 0; u < 4; ++u) {
            const uint k = first + uint(u);
            const zm_place at = zm_place_in_row<V, uint>(row, k, uint(columns), active, group);
            if (at.exists) {
            float e0[V];
            zm_unpack<zm_float16, V>(e0, x0[u]);
            float y0[V];
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const float v0 = e0[j];
                const float v2 = (v0 - v1);
                const float v3 = zm_exp_to_largest(v2);
                const float v5 = zm_quotient(v3, v4);
                y0[j] = v5;
            }
            zm_store<zm_float16, V>(row_out0, y0, at);
            }
            }
        }
        if (group.warps > 1u && base + self.blocks * group.rows < rows) zm_barrier();
    }
}
template <class I0>
ZM_FUNCTION void zm_frame(I0 zm_in0, ZM_DEVICE ushort *zm_out0, zm_long rows, zm_long columns, uint threads_per_row,
    uint layout0, zm_thread self, ZM_SHARED uint *shared) {
    const bool whole = columns % 8 == 0, wide = zm_is_aligned(zm_in0) && zm_is_aligned(zm_out0);
    if (!(whole && wide))
        zm_streamed<1>(zm_in0, zm_out0, rows, columns, threads_per_row, layout0, self, shared);
    else if (columns <= zm_long(threads_per_row) * 32)
        zm_resident<4, 0>(zm_in0, zm_out0, rows, columns, threads_per_row, layout0, self, shared);
    else
        zm_streamed<8>(zm_in0, zm_out0, rows, columns, threads_per_row, layout0, self, shared);
}

[[kernel]] void softmax(
    const device ushort *zm_in0 [[buffer(0)]],
    device ushort *zm_out0 [[buffer(1)]],
    const constant uint *zm_scalars [[buffer(2)]],
    uint thread_index_in_threadgroup [[thread_index_in_threadgroup]],
    uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]],
    uint3 threadgroups_per_grid [[threadgroups_per_grid]],
    uint3 threads_per_threadgroup [[threads_per_threadgroup]]) {
    threadgroup uint zm_shared[48];
    zm_thread zm_self;
    zm_self.block = zm_long(threadgroup_position_in_grid.y) * threadgroups_per_grid.x + threadgroup_position_in_grid.x;
    zm_self.blocks = zm_long(threadgroups_per_grid.y) * threadgroups_per_grid.x;
    zm_self.index = thread_index_in_threadgroup;
    zm_self.threads = threads_per_threadgroup.x;
    zm_frame(zm_words<ushort>(zm_in0), zm_output_words<ushort>(zm_out0), 
        zm_join(zm_scalars[0], zm_scalars[1]), zm_join(zm_scalars[2], zm_scalars[3]), zm_scalars[4],
        zm_scalars[5], zm_self, zm_shared);
}
