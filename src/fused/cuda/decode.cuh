/* SPDX-License-Identifier: MIT */
/* One token through a model with quantised weights, in bfloat16 or float16, with the bits of MLX's own CUDA kernels:
 * the order of every sum and every rounding is theirs. decode_*.cuh, which follow, hold the kernels.
 *
 * Behind halves.cuh, bfloat16.cuh or float16.cuh, stamps.cuh and lanes.cuh. The text before defines ZM_FLOAT16, ZM_BITS
 * (2 to 6 or 8) and ZM_GROUP (32, 64, 128) of weights, ZM_MXFP4 (1: of 4 bits in groups of 32, in mxfp4; 0: affine),
 * ZM_K, the length of their rows, ZM_HIDDEN, the size of the residual stream, ZM_HEAD_DIM (64 or 128) and ZM_TOP_K. */
#define ZM_KERNEL(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)

enum { WARPS = DECODE_WARPS, THREADS = WARPS * WARP };

/* Behind this the kernel before is complete, and with it all older ones. What is older than that one is complete when a
 * kernel begins, except behind norm_linear, conv, attention and linear_add, and the router and experts_out of many
 * chosen experts. */
ZM_FUNCTION void wait_only() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
    stamp(STAMP_WAITED);
}
/* The next kernel may begin, once all blocks have come here or ended; before wait_only() only where that one reads
 * nothing of this token without its own. Its first copies share memory with what is still under way. */
ZM_FUNCTION void begin_next() { asm volatile("griddepcontrol.launch_dependents;"); }
ZM_FUNCTION void wait_for_last() {
    wait_only();
    begin_next();
}

/* Weights, which are read once a token, are to leave the L2 cache before what kernels hand on to each other. */
typedef unsigned long long cache_policy;
ZM_FUNCTION cache_policy leaves_first() {
    cache_policy policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* Copies to shared memory, which go on while the thread does. Where not `in`, nothing is copied. */
ZM_FUNCTION void copy16(uint shared, const void *p, bool in) {
    asm volatile("{ .reg .pred in; setp.ne.u32 in, %2, 0;\n"
                 "@in cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %3; }"
                 :: "r"(shared), "l"(p), "r"(uint(in)), "l"(leaves_first()) : "memory");
}
/* Of 4 and 8 bytes each they are slow. */
template <int bytes> ZM_FUNCTION void copy(uint shared, const void *p, bool in) {
    if constexpr (bytes == 16)
        copy16(shared, p, in);
    else
        asm volatile("{ .reg .pred in; setp.ne.u32 in, %2, 0;\n"
                     "@in cp.async.ca.shared.global.L2::cache_hint.L2::128B [%0], [%1], %4, %3; }"
                     :: "r"(shared), "l"(p), "r"(uint(in)), "l"(leaves_first()), "n"(bytes) : "memory");
}
ZM_FUNCTION void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* All but the last `pending` commits. */
template <int pending> ZM_FUNCTION void finish_copies() {
    asm volatile("cp.async.wait_group %0;" :: "n"(pending) : "memory");
}
/* What earlier kernels wrote: neither from the read-only path nor from what this multiprocessor kept. Values are
 * converted where they are used, so that nothing waits for one load before the next begins. */
ZM_FUNCTION uint4 read_fresh(const uint4 *p) {
    uint4 value;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "l"(p) : "memory");
    return value;
}
ZM_FUNCTION ushort read_fresh(const ushort *p) {
    ushort value;
    asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(value) : "l"(p) : "memory");
    return value;
}
ZM_FUNCTION uint read_fresh(const uint *p) {
    uint value;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
    return value;
}

ZM_FUNCTION float warp_sum(float value) {
#pragma unroll
    for (int lane = WARP / 2; lane; lane /= 2) value += __shfl_xor_sync(~0u, value, lane);
    return value;
}

ZM_FUNCTION float warp_most(float value) {
#pragma unroll
    for (int lane = WARP / 2; lane; lane /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, lane));
    return value;
}
/* Blocks of a cluster: what one has stored before it arrives, others see behind their wait. begin_cluster() arrives
 * with nothing to show. */
ZM_FUNCTION void begin_cluster() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
ZM_FUNCTION void arrive_at_cluster() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
ZM_FUNCTION void wait_for_cluster() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
/* Where another block has what this one has at p. */
ZM_FUNCTION uint place_in_block(uint block, const void *p) {
    uint place;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(place) : "r"(uint(__cvta_generic_to_shared(p))), "r"(block));
    return place;
}
/* There; that block must have begun. */
ZM_FUNCTION void store_to_block(uint block, const void *to, uint value) {
    asm volatile("st.shared::cluster.u32 [%0], %1;" :: "r"(place_in_block(block, to)), "r"(value) : "memory");
}
/* What other blocks of a cluster send to this one, so many bytes in all: who has waited sees it. One thread begins,
 * before it arrives at the cluster; behind that they may send. */
ZM_FUNCTION void begin_arrivals(const unsigned long long *barrier, uint bytes) {
    asm volatile("mbarrier.init.shared.b64 [%0], 1; fence.mbarrier_init.release.cluster;\n"
                 "mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" :: "r"(uint(__cvta_generic_to_shared(barrier))),
                 "r"(bytes) : "memory");
}
/* A barrier of one arrival, of a thread of this block. */
ZM_FUNCTION void begin_arrival(const unsigned long long *barrier) {
    asm volatile("mbarrier.init.shared.b64 [%0], 1;" :: "r"(uint(__cvta_generic_to_shared(barrier))) : "memory");
}
ZM_FUNCTION void arrive(const unsigned long long *barrier) {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" :: "r"(uint(__cvta_generic_to_shared(barrier))) : "memory");
}
/* A copy of so many bytes, in vectors, from global memory arrives too. */
ZM_FUNCTION void copy_rows(const void *to, const void *from, uint bytes, const unsigned long long *barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(uint(__cvta_generic_to_shared(to))), "l"(from), "r"(bytes),
                    "r"(uint(__cvta_generic_to_shared(barrier))) : "memory");
}
ZM_FUNCTION void wait_for_arrivals(const unsigned long long *barrier) {
    asm volatile("{ .reg .pred there; again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 there, [%0], 0; @!there bra again; }"
                 :: "r"(uint(__cvta_generic_to_shared(barrier))) : "memory");
}
ZM_FUNCTION void send_to_block(uint block, const void *to, const float (&v)[2], const unsigned long long *barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%2, %3}, [%1];"
                 :: "r"(place_in_block(block, to)), "r"(place_in_block(block, barrier)), "f"(v[0]), "f"(v[1])
                 : "memory");
}
ZM_FUNCTION void send_to_block(uint block, const void *to, const float (&v)[4], const unsigned long long *barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%2, %3, %4, %5}, [%1];"
                 :: "r"(place_in_block(block, to)), "r"(place_in_block(block, barrier)), "f"(v[0]), "f"(v[1]),
                    "f"(v[2]), "f"(v[3]) : "memory");
}

/* The sums over a warp of a and b, in one set of exchanges: a's in lanes 0 to 15, b's in the others. */
ZM_FUNCTION float warp_sum2(float a, float b, int lane) {
    float own = lane < 16 ? a : b, other = lane < 16 ? b : a;
    own += __shfl_xor_sync(~0u, other, 16);
#pragma unroll
    for (int step = 8; step; step /= 2) own += __shfl_xor_sync(~0u, own, step);
    return own;
}

/* What changes no sum: -0. */
const ushort NOTHING = 0x8000;

/* A product and the linear map's bias, each rounded. biases NULL: none. */
ZM_FUNCTION float biased(float product, const ushort *biases, uint at) {
    product = rounded(product);
    return biases ? rounded(product + widen(__ldg(biases + at))) : product;
}

ZM_FUNCTION float swiglu(float gate, float up) {
    return rounded(rounded(gate * sigmoid(gate)) * up);
}
/* gpt_oss: (up + 1) * gate * sigmoid(1.702 gate) of clipped gate and up. */
ZM_FUNCTION float clipped_swiglu(float gate, float up) {
    gate = gate > 7.0f ? 7.0f : gate;
    up = up < -7.0f ? -7.0f : up > 7.0f ? 7.0f : up;
    float share = sigmoid(rounded(rounded(1.702f) * gate));
    return rounded(rounded(up + 1.0f) * rounded(gate * share));
}

/* Of a block where the first n_whole have block_rows rows, others half as many. */
ZM_FUNCTION uint first_row(uint n_whole, uint block_rows) {
    return blockIdx.x * block_rows - (max(blockIdx.x, n_whole) - n_whole) * (block_rows / 2);
}

extern __shared__ __align__(128) uint4 staged[]; /* x, for all warps of a block */

struct matrix {
    const uint2 *weight;
    const ushort *scales, *biases; /* mxfp4: exponents of a byte each, and none */
};

/* How rows of K elements go through the kernels: in pieces of STEPS, of which few may be empty. */
template <int K> struct layout {
    enum {
        ROW_STEPS = (K + STEP - 1) / STEP,
        IN_5 = (ROW_STEPS + 4) / 5 * 5,
        IN_4 = (ROW_STEPS + 3) / 4 * 4,
        IN_3 = (ROW_STEPS + 2) / 3 * 3,
        STEPS = ROW_STEPS <= 5                     ? ROW_STEPS
                : IN_3 < IN_4 && IN_3 < IN_5 ? 3
                : IN_5 < IN_4                ? 5
                                             : 4,
        PIECES = (ROW_STEPS + STEPS - 1) / STEPS,
        PIECE_X = STEPS * X_VECTORS * WARP, /* vectors of x */
        X = PIECES * PIECE_X,
        ALL_VECTORS = PIECES * STEPS * STEP / 8, /* of 8 elements of x */
        /* Codes are copied by so many bytes: rows begin at multiples. */
        COPY_BYTES = K * ZM_BITS % 128 ? 8 : 16,
        ROW_COPIES = K * ZM_BITS / 8 / COPY_BYTES,
        COPIES = STEPS * STEP * ZM_BITS / 8 / COPY_BYTES, /* a piece */
        /* scales, and as many biases */
        ROW_GROUPS = K / ZM_GROUP,
        GROUPS = STEPS * STEP / ZM_GROUP, /* a piece */
        LANE_GROUPS = (GROUPS + WARP - 1) / WARP,
        /* They are copied by units of 16, 8 or 4 bytes; where a row does not begin with one, from the word before. */
        LISTS = ZM_MXFP4 ? 1 : 2,
        GROUP_BYTES = ZM_MXFP4 ? 1 : 2,
        ROW_BYTES = ROW_GROUPS * GROUP_BYTES,
        PIECE_BYTES = GROUPS * GROUP_BYTES,
        IN_WORDS = ROW_BYTES % 4 == 0,
        WORDS = (PIECE_BYTES + (IN_WORDS ? 0 : 2) + 3) / 4,
        UNIT_BYTES = (ROW_BYTES | PIECE_BYTES) % 16 == 0 ? 16 : (ROW_BYTES | PIECE_BYTES) % 8 == 0 ? 8 : 4,
        UNITS = WORDS * 4 / UNIT_BYTES, /* of a list */
        ROW_UNITS = LISTS * UNITS,
        UNIT_COPIES = (ROW_UNITS + WARP - 1) / WARP, /* of a row, a lane */
    };
};

/* A matrix of rows of K as a lane copies it. */
template <int K> struct lane_matrix {
    typedef layout<K> own;
    const char *weight;
    const char *units[own::UNIT_COPIES]; /* lanes that copy other rows' units at once have the same */

    /* neighbours: lanes copy the units of so many rows at once, one behind the other. */
    ZM_FUNCTION lane_matrix(const matrix &m, uint lane, uint neighbours = 1)
        : weight((const char *)m.weight + lane * own::COPY_BYTES) {
#pragma unroll
        for (int c = 0; c < own::UNIT_COPIES; c++) {
            uint number = c * WARP + lane, unit = number % own::ROW_UNITS;
            const char *list = (const char *)(unit < own::UNITS ? m.scales : m.biases);
            units[c] = list + unit % own::UNITS * own::UNIT_BYTES;
            if (neighbours > 1) units[c] += number / own::ROW_UNITS * own::ROW_BYTES;
        }
    }
};

/* A piece of a task in shared memory, by its address: the same steps of ROWS rows, first codes, then scales and
 * biases. NEIGHBOURS: the rows are one behind the other in a matrix. */
template <int K, int ROWS, bool NEIGHBOURS> struct slot {
    typedef layout<K> own;
    enum {
        STEP_BYTES = WARP * LANE_BYTES,
        LIST_BYTES = own::WORDS * 4,
        GROUPS_AT = ROWS * own::STEPS * STEP_BYTES,
        LINE = 128,
        BYTES = (GROUPS_AT + ROWS * own::LISTS * LIST_BYTES + LINE - 1) / LINE * LINE,
        AT_ONCE = ROWS * own::ROW_UNITS <= WARP, /* lanes copy all rows' units at once */
        ROWS_AT_ONCE = AT_ONCE ? ROWS : 1,
        LANE_ROWS = NEIGHBOURS && AT_ONCE && own::IN_WORDS ? ROWS : 1, /* lane_matrix's neighbours */
    };

    /* Begin to copy a piece. What is behind a row's end stays as it is. */
    static ZM_FUNCTION void fill(uint at, const lane_matrix<K> *const (&matrices)[ROWS], const uint (&rows)[ROWS],
                                 uint piece, uint lane) {
        const uint row_bytes = own::ROW_COPIES * own::COPY_BYTES, piece_bytes = own::COPIES * own::COPY_BYTES;
        const char *from = nullptr;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (NEIGHBOURS && r) from += row_bytes;
            else from = matrices[r]->weight + size_t(rows[r]) * row_bytes + piece * piece_bytes;
            uint to = at + r * int(own::STEPS * STEP_BYTES) + lane * own::COPY_BYTES;
#pragma unroll
            for (int c = 0; c < own::COPIES; c += WARP) {
                bool in = own::COPIES % WARP == 0 || c + WARP <= own::COPIES || c + lane < own::COPIES;
                if (own::ROW_COPIES % own::COPIES) in = in && piece * own::COPIES + c + lane < own::ROW_COPIES;
                copy<own::COPY_BYTES>(to + c * own::COPY_BYTES, from + c * own::COPY_BYTES, in);
            }
        }
#pragma unroll
        for (int begin = 0; begin < ROWS; begin += ROWS_AT_ONCE)
#pragma unroll
            for (int c = 0; c < own::UNIT_COPIES; c++)
                copy_units(at + GROUPS_AT + begin * int(own::LISTS * LIST_BYTES), c, matrices, rows, begin, piece,
                           lane);
    }
    static ZM_FUNCTION void copy_units(uint at, int c, const lane_matrix<K> *const (&matrices)[ROWS],
                                       const uint (&rows)[ROWS], int begin, uint piece, uint lane) {
        uint number = c * WARP + lane, row = rows[begin], byte = number % own::UNITS * own::UNIT_BYTES;
        const char *from = matrices[begin]->units[c];
        if (LANE_ROWS == 1) {
#pragma unroll
            for (int r = 1; r < ROWS_AT_ONCE; r++)
                if (number >= uint(r * own::ROW_UNITS)) row = rows[r], from = matrices[r]->units[c];
        }
        bool in = number < uint(ROWS_AT_ONCE * own::ROW_UNITS);
        if (own::IN_WORDS) {
            from += size_t(row) * uint(own::ROW_BYTES) + piece * own::PIECE_BYTES;
            if (own::ROW_GROUPS % own::GROUPS) in = in && piece * own::PIECE_BYTES + byte < own::ROW_BYTES;
        } else {
            uint first = (row * uint(own::ROW_BYTES) + piece * own::PIECE_BYTES) & ~3u;
            from += first;
            in = in && first + byte < (row + 1) * own::ROW_BYTES;
        }
        copy<own::UNIT_BYTES>(at + number * own::UNIT_BYTES, from, in);
    }

    static ZM_FUNCTION lane_word codes(uint at, int r, int step, uint lane) {
        return shared_lane_word(at + (r * own::STEPS + step) * int(STEP_BYTES), lane);
    }
    /* A lane's groups of a piece of a row; behind its end zero. */
    static ZM_FUNCTION void read_groups(uint (&both)[own::LANE_GROUPS], uint at, int r, uint row, uint piece,
                                        uint lane) {
        uint scales = at + GROUPS_AT + r * int(own::LISTS * LIST_BYTES) + lane * own::GROUP_BYTES;
        if (!own::IN_WORDS) scales += row * uint(own::ROW_BYTES) % 4;
        uint biases = scales + (own::LISTS - 1) * int(LIST_BYTES);
#pragma unroll
        for (int g = 0; g < own::LANE_GROUPS; g++) {
            uint group = g * WARP + lane, offset = g * WARP * own::GROUP_BYTES;
            bool in = own::GROUPS % WARP == 0 || group < own::GROUPS;
            if (own::ROW_GROUPS % own::GROUPS) in = in && piece * own::GROUPS + group < own::ROW_GROUPS;
            both[g] = 0;
#if ZM_MXFP4
            if (in) both[g] = __float_as_uint(scale_of(shared_byte(scales + offset)));
#else
            if (in) both[g] = scale_and_bias(shared_half(scales + offset), shared_half(biases + offset));
#endif
        }
    }
};

/* For `multiply`: all that are ahead; and each when the one before is there. */
enum : uint { ALL_EARLY = 4, ONE_BY_ONE };

/* Pieces ahead in products with the hidden state. */
enum : uint { HIDDEN_AHEAD = layout<ZM_HIDDEN>::PIECES == 1 ? 1 : MANY_PIECES_AHEAD };

/* Products of rows with x, for the tasks first, first + stride, ... below n_tasks of a warp; a task is ROWS rows, which
 * are a matrix's neighbours where NEIGHBOURS. where(task, matrices, rows) says where they are, ready() makes x in
 * shared memory complete for the block, and done(task, parts) gets a lane's part of each product. The copies of a piece
 * begin AHEAD pieces before it is needed, the first ones, at most EARLY, before ready(). ring: n_slots of all warps,
 * one warp's behind the other's, AHEAD + 1 or as many as the first has pieces; who has a piece less does not touch
 * its last. Unless n_left is 0, the next kernel begins when the first warp has so many pieces left, or has got its
 * first. */
template <int K, int ROWS, bool NEIGHBOURS, uint AHEAD, uint EARLY, typename Where, typename Ready, typename Done>
ZM_FUNCTION void multiply(uint first, uint stride, uint n_tasks, const uint4 *x, const uint4 *ring, uint n_slots,
                          uint n_left, Where where, Ready ready, Done done) {
    typedef layout<K> own;
    typedef slot<K, ROWS, NEIGHBOURS> slots;
    static_assert(AHEAD <= ALL_EARLY, "");
    const uint lane = threadIdx.x % WARP, lane_x_at = shared_address(x) + lane * 16;
    const uint round_bytes = blockDim.x / WARP * slots::BYTES; /* a slot of each warp */
    const uint begin = shared_address(ring) + threadIdx.x / WARP * slots::BYTES, end = begin + n_slots * round_bytes;
    uint to = begin, from = begin;
    uint copied_task = first, copied_piece = 0;
    auto copy_next = [&] {
        if (copied_task < n_tasks) {
            const lane_matrix<K> *matrices[ROWS];
            uint rows[ROWS];
            where(copied_task, matrices, rows);
            slots::fill(to, matrices, rows, copied_piece, lane);
            if ((to += round_bytes) == end) to = begin;
            if (++copied_piece == own::PIECES) copied_piece = 0, copied_task += stride;
        }
        commit_copies();
    };
#pragma unroll 1
    for (uint i = 0; i < AHEAD && i < EARLY; i++) {
        if (EARLY == ONE_BY_ONE && i) finish_copies<0>();
        copy_next();
    }
    ready();
    stamp(STAMP_READY);
    first_stamp stamp_first;
    if (EARLY < ALL_EARLY) {
#pragma unroll 1
        for (uint i = EARLY; i < AHEAD; i++) copy_next();
    }
    uint until_next = ~0u; /* pieces */
    if (n_left && threadIdx.x < WARP) {
        uint all = (n_tasks - first + stride - 1) / stride * own::PIECES;
        until_next = all > n_left ? all - n_left : 0;
    }
#pragma unroll 1
    for (uint task = first; task < n_tasks; task += stride) {
        const lane_matrix<K> *matrices[ROWS];
        uint rows[ROWS];
        if (!own::IN_WORDS) where(task, matrices, rows);
        accumulator sums[ROWS][ACCUMULATORS] = {};
#pragma unroll 1
        for (uint piece = 0; piece < own::PIECES; piece++) {
            finish_copies<AHEAD - 1>();
            __syncwarp(); /* the copies of all lanes are there, and the slot before is free */
            stamp_first(STAMP_FIRST);
            uint both[ROWS][own::LANE_GROUPS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) slots::read_groups(both[r], from, r, rows[r], piece, lane);
            if (n_left && until_next-- == 0) begin_next();
            copy_next();
            uint piece_x = lane_x_at + piece * uint(own::PIECE_X * 16);
#pragma unroll
            for (int t = 0; t < own::STEPS; t++) {
#if ZM_MXFP4
                uint4 w[ROWS];
                float scales[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    w[r] = slots::codes(from, r, t, lane), scales[r] = __uint_as_float(both[r][t]);
                accumulate<ROWS>(sums, w, scales, piece_x + t * X_VECTORS * WARP_BYTES);
#else
                lane_x v = read_x(piece_x + t * X_VECTORS * WARP_BYTES);
                int group = t * STEP / ZM_GROUP; /* of lane 0 */
                uint lane_group = group % WARP + lane * LANE_ELEMENTS / ZM_GROUP;
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    accumulate(sums[r], slots::codes(from, r, t, lane),
                               __shfl_sync(~0u, both[r][group / WARP], lane_group), v);
#endif
            }
            if ((from += round_bytes) == end) from = begin;
        }
        float parts[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) parts[r] = lane_sum(sums[r]);
        done(task, parts);
    }
}

/* The first OWN of a thread's share of x's VECTORS, on their way from memory while copies of weights begin. */
template <uint VECTORS, uint OWN> struct x_vectors {
    uint4 v[OWN];

    ZM_FUNCTION x_vectors(const uint4 *x, uint thread, uint threads) {
#pragma unroll
        for (uint i = 0; i < OWN; i++) {
            v[i] = make_uint4(0, 0, 0, 0);
            if (thread + i * threads < VECTORS) v[i] = read_fresh(x + thread + i * threads);
        }
    }
    /* place(number, vector) for all of the share; up to `all` zeros follow x. */
    template <typename Place>
    ZM_FUNCTION void finish(uint all, const uint4 *x, uint thread, uint threads, Place place) const {
#pragma unroll
        for (uint i = 0; i < OWN; i++)
            if (thread + i * threads < all) place(thread + i * threads, v[i]);
#pragma unroll 1
        for (uint i = thread + OWN * threads; i < all; i += threads)
            place(i, i < VECTORS ? read_fresh(x + i) : make_uint4(0, 0, 0, 0));
    }
};

/* x (K elements) into shared memory, by `threads`, with AT_ONCE loads of each under way. The caller's barrier
 * follows. */
template <int K, int AT_ONCE = layout<K>::ALL_VECTORS <= 512 ? 2 : 4>
ZM_FUNCTION void stage(uint4 *shared, const uint4 *x, uint thread, uint threads) {
#pragma unroll 1
    for (uint first = thread; first < layout<K>::ALL_VECTORS; first += AT_ONCE * threads) {
        uint4 v[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            v[i] = make_uint4(0, 0, 0, 0);
            if (first + i * threads < K / 8) v[i] = read_fresh(x + first + i * threads);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (first + i * threads < layout<K>::ALL_VECTORS) place_x(shared, first + i * threads, v[i]);
    }
}

/* The RMS norm of a row of ZM_HIDDEN, as MLX spreads it over a block: NORM_THREADS with NORM_VECTORS of 8. */
enum {
    ROW_VECTORS = (ZM_HIDDEN + 7) / 8,
    NORM_THREADS = ZM_HIDDEN <= 512                                           ? 64
                   : ROW_VECTORS % 128 == 0 && ROW_VECTORS / 128 <= 8 ? 128
                   : ROW_VECTORS % 64 == 0 && ROW_VECTORS / 64 <= 8   ? 64
                                                                       : 128,
    NORM_VECTORS = (ROW_VECTORS + NORM_THREADS - 1) / NORM_THREADS,
};

/* The weights of a thread's first vectors, where `threads` share a row: all there are from 256 threads on. */
struct norm_row {
    enum { OWN = (ROW_VECTORS + 255) / 256 };
    const uint4 *all;
    uint4 own[OWN];
};

ZM_FUNCTION void load_norm(norm_row &n, const uint4 *weight, uint thread, uint threads) {
    n.all = weight;
#pragma unroll
    for (int i = 0; i < norm_row::OWN; i++) {
        uint v = i * threads + thread;
        n.own[i] = __ldg(weight + (v < ROW_VECTORS ? v : 0));
    }
}

ZM_FUNCTION float add_square(float sum, uint pair) {
    sum = fmaf(low(pair), low(pair), sum);
    return fmaf(high(pair), high(pair), sum);
}
ZM_FUNCTION uint scale_pair(uint x, uint weight, float factor) {
    return pack(low(weight) * rounded(low(x) * factor), high(weight) * rounded(high(x) * factor));
}

/* Stages the norm of h; the barrier behind it is included. normed (may be NULL) gets it in row order. NORM_THREADS
 * read and sum; what they read waits in its place until all know the factor. */
ZM_FUNCTION void stage_norm(uint4 *shared, const uint4 *h, const norm_row &n, float eps, uint4 *normed, uint thread,
                            uint threads) {
    __shared__ float sums[NORM_THREADS / WARP];
    uint4 x[NORM_VECTORS];
    float sum = 0.0f;
    if (thread < NORM_THREADS) {
#pragma unroll
        for (int i = 0; i < NORM_VECTORS; i++) {
            uint v = i * NORM_THREADS + thread;
            x[i] = v < ROW_VECTORS ? read_fresh(h + v) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < NORM_VECTORS; i++)
            sum = add_square(add_square(add_square(add_square(sum, x[i].x), x[i].y), x[i].z), x[i].w);
#pragma unroll
        for (int i = 0; i < NORM_VECTORS; i++) {
            uint v = i * NORM_THREADS + thread;
            if (v < ROW_VECTORS) *vector_place(shared, v) = x[i];
        }
        sum = warp_sum(sum);
        if (thread % WARP == 0) sums[thread / WARP] = sum;
    }
#pragma unroll 1
    for (uint v = ROW_VECTORS + thread; v < layout<ZM_HIDDEN>::ALL_VECTORS; v += threads)
        place_x(shared, v, make_uint4(0, 0, 0, 0));
    __syncthreads();
    sum = NORM_THREADS == 64
              ? sums[0] + sums[1]
              : (sums[0] + sums[2 % (NORM_THREADS / WARP)]) + (sums[1] + sums[3 % (NORM_THREADS / WARP)]);
    float factor = rsqrtf(sum / float(ZM_HIDDEN) + eps);
    auto scale = [&](uint v, const uint4 &weight) {
        uint4 h_v = *vector_place(shared, v);
        uint4 y = make_uint4(scale_pair(h_v.x, weight.x, factor), scale_pair(h_v.y, weight.y, factor),
                             scale_pair(h_v.z, weight.z, factor), scale_pair(h_v.w, weight.w, factor));
        place_x(shared, v, y);
        if (normed) normed[v] = y;
    };
#pragma unroll
    for (int i = 0; i < norm_row::OWN; i++)
        if (i * threads + thread < ROW_VECTORS) scale(i * threads + thread, n.own[i]);
#pragma unroll 1
    for (uint v = norm_row::OWN * threads + thread; v < ROW_VECTORS; v += threads) scale(v, __ldg(n.all + v));
    __syncthreads();
}

#if !ZM_MXFP4
enum { ROW_PAIRS = ZM_HIDDEN / 2 };

/* A table of embeddings. */
struct embedding {
    const uint *weight;
    const ushort *scales, *biases;

    ZM_FUNCTION uint pair(uint row, uint number) const {
        const uint *codes = weight + size_t(row) * (ZM_HIDDEN * ZM_BITS / 32);
        size_t group = size_t(row) * (ZM_HIDDEN / ZM_GROUP) + number * 2 / ZM_GROUP;
        uint scale = __ldg(scales + group) * 0x10001u, bias = __ldg(biases + group) * 0x10001u;
        const uint mask = (1u << ZM_BITS) - 1u;
        uint bit = number * 2 * ZM_BITS, last = bit + 2 * ZM_BITS - 1; /* which may lie in two words */
        uint word = __ldg(codes + bit / 32), next = 32 % (2 * ZM_BITS) ? __ldg(codes + last / 32) : 0;
        uint both = __funnelshift_r(word, next, bit % 32);
        return fma2(pack(float(both & mask), float(both >> ZM_BITS & mask)), scale, bias);
    }

    /* A warp brings a row to the L2 cache, about all of it. */
    ZM_FUNCTION void prefetch(uint row, uint lane) const {
        enum { LINE = 128, ROW = ZM_HIDDEN * ZM_BITS / 8, ROW_GROUPS = ZM_HIDDEN / ZM_GROUP * 2 };
        auto bring = [&](const void *from, uint bytes) {
            const char *begin = (const char *)from + size_t(row) * bytes;
            for (uint at = lane * LINE; at < bytes; at += WARP * LINE)
                asm volatile("prefetch.global.L2 [%0];" :: "l"(begin + at));
        };
        bring(weight, ROW), bring(scales, ROW_GROUPS), bring(biases, ROW_GROUPS);
    }
};
#endif
