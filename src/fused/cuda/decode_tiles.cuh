/* Products on tensor cores, a warp's own: MLX's matrix kernel, also for a gathered product of many chosen experts, has
 * the sums of mma.m16n8k16 in the order of k. Here the weights are the 16 rows, and x is each of the 8 columns or eight
 * rows of x are one each. */
#define EXPERT_TILES (ZM_TOP_K >= EXPERT_TILE_LEAST_TOP_K && ZM_K % 256 == 0 && !ZM_MXFP4)
#if EXPERT_TILES || ZM_TILED
enum {
    TILE_ROWS = EXPERT_TILE_ROWS,
    TILE_K = EXPERT_TILE_K,
    TILE_PAIRS = TILE_K / 32, /* of blocks of 16 */
    TILE_PIECES = ZM_K / TILE_K,
#if ZM_TILED
    TILE_SLOTS = TILED_SLOTS(ZM_BITS, ZM_K),
#else
    TILE_SLOTS = EXPERT_TILE_SLOTS(ZM_BITS, ZM_K),
#endif
    TILE_VECTORS = EXPERT_TILE_VECTORS(ZM_BITS),
    TILE_SPACE = EXPERT_TILE_SPACE(ZM_BITS),
    TILE_GROUPS = TILE_K / ZM_GROUP,
    ROW_GROUPS = ZM_K / ZM_GROUP,
    /* Vectors of 16 bytes: of x, and of the scales, or the biases, of 8 rows, which are neighbours in memory. */
    TILE_X = ZM_K / 8,
    TILE_X_SPACE = TILED_X_SPACE(ZM_K), /* of each of eight rows of x */
    LIST_VECTORS = ROW_GROUPS,
    LIST_SPACE = EXPERT_TILE_LIST_SPACE(ZM_GROUP, ZM_K),
};

/* A warp's part of shared memory: pieces of 16 rows, and for a task and the next the scales of the first 8 rows, their
 * biases, and those of the others. */
struct alignas(128) tile_ring {
    uint4 codes[TILE_SLOTS][TILE_ROWS][TILE_SPACE];
    uint4 groups[2][EXPERT_TILE_LISTS / 2][LIST_SPACE];
};
/* Where a vector of a list, or of a row, is: 8 rows' lie in different banks, and where rows are whole lines copies fill
 * lines. */
ZM_FUNCTION uint list_place(uint vector) { return vector ^ vector / 8 % 8; }
ZM_FUNCTION uint row_place(uint row, uint vector) { return TILE_VECTORS % 8 ? vector : vector ^ row % 8; }

/* A tile's rows: 8 of one matrix from `first` on, then 8 of another from `first8` on. */
struct tile_rows {
    matrix from, from8;
    uint first, first8;
};

/* Begins to copy a piece of codes. */
ZM_FUNCTION void fill(uint4 (&to)[TILE_ROWS][TILE_SPACE], const tile_rows &rows, uint piece, uint lane) {
    enum { STEPS = TILE_ROWS * TILE_VECTORS / WARP };
    const bool whole = WARP % TILE_VECTORS == 0; /* a step has whole rows: which half is known beforehand */
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        uint first = whole ? lane : step * WARP + lane, vector = first % TILE_VECTORS;
        uint row = first / TILE_VECTORS + (whole ? step * WARP / TILE_VECTORS : 0);
        bool second = whole ? step >= STEPS / 2 : row >= TILE_ROWS / 2;
        const uint4 *from = (const uint4 *)(second ? rows.from8 : rows.from).weight +
                            ((second ? rows.first8 : rows.first) + row % 8) * uint(ZM_K * ZM_BITS / 128);
        copy16(uint(__cvta_generic_to_shared(&to[row][row_place(row, vector)])), from + piece * TILE_VECTORS + vector,
               true);
    }
}
/* And all scales and biases of a task. */
ZM_FUNCTION void fill(uint4 (&to)[4][LIST_SPACE], const tile_rows &rows, uint lane) {
#pragma unroll
    for (uint first = 0; first < 4 * LIST_VECTORS; first += WARP) {
        uint number = first + lane, list = number / LIST_VECTORS, vector = number % LIST_VECTORS;
        const ushort *scales = list < 2 ? rows.from.scales : rows.from8.scales;
        const ushort *biases = list < 2 ? rows.from.biases : rows.from8.biases;
        const uint4 *from = (const uint4 *)(list % 2 ? biases : scales) +
                            (list < 2 ? rows.first : rows.first8) / 8 * uint(LIST_VECTORS) + vector;
        copy16(uint(__cvta_generic_to_shared(&to[list][list_place(vector)])), from,
               4 * LIST_VECTORS % WARP == 0 || number < 4 * LIST_VECTORS);
    }
}

/* sums += 16 rows of weights (a) times x (b), k by k as MLX's. */
ZM_FUNCTION void multiply_block(float (&sums)[4], const uint (&a)[4], uint b0, uint b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." ZM_TYPE "." ZM_TYPE ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* A row's weights in two blocks: a lane's first and second pair of one, then of the other. A block's 16 products may
 * change places: from Hopper on tensor cores add them exactly before they round, as the unit tests of experts show. */
struct row_weights {
    uint v[4];
};

#if ZM_BITS == 4
/* A lane has half of a block's first or second word: pairs (0, 4) and (1, 5), or (2, 6) and (3, 7). */
ZM_FUNCTION row_weights read_weights(const uint4 *of_row, uint row, uint pair, uint lane, uint both) {
    uint4 v = of_row[row_place(row, pair)];
    uint byte = lane / 2 % 2 * 4 + lane % 2, half = byte * 0x0101u + 0x0200u;
    uint first = __byte_perm(v.x, v.y, half), second = __byte_perm(v.z, v.w, half);
#if ZM_FLOAT16
    return {{weights_at<0>(first, both), weights_at<4>(first, both), weights_at<0>(second, both),
             weights_at<4>(second, both)}};
#else /* as lanes.cuh does */
    const uint lower = 0x000f000fu, upper = 0x00f000f0u;
    uint low_both = low_factors(both);
    return {{fma2_by(first & lower, low_both), fma2_by(first & upper, both), fma2_by(second & lower, low_both),
             fma2_by(second & upper, both)}};
#endif
}

/* The vector of 8 elements `number` of x into shared memory: lane i of four reads vector 4 * pair + i. */
ZM_FUNCTION void place_tile_x(uint4 *shared, uint number, uint4 v) {
    auto lower = [](uint x) { return ZM_FLOAT16 ? x : multiply2(x, two_to(4)); }; /* their weights are a 16th */
    uint2 *to = (uint2 *)(shared + number / 4 * 4 + number % 2 * 2) + number / 2 % 2;
    to[0] = make_uint2(lower(__byte_perm(v.x, v.z, 0x5410)), __byte_perm(v.x, v.z, 0x7632));
    to[2] = make_uint2(lower(__byte_perm(v.y, v.w, 0x5410)), __byte_perm(v.y, v.w, 0x7632));
}
#else
/* Of each 8 neighbours a lane has a pair: with 8 bits (i, i + 2) of one word, else (i, i + 4). */
struct lane_codes {
    uint words[4]; /* of a row: the first and second 8 of k in one block, then in the next */
};

#if ZM_BITS != 8
ZM_FUNCTION lane_codes read_codes(const uint4 *of_row, uint, uint pair, uint lane) {
    lane_codes codes;
    const uint *words = (const uint *)of_row + pair * ZM_BITS;
    const uint mask = (1u << ZM_BITS) - 1, first = lane % 4 * ZM_BITS; /* the lane's first bit of 8 codes */
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int bit = i * 8 * ZM_BITS, word = bit / 32;
        uint own = __funnelshift_r(words[word], words[word + 1 < ZM_BITS ? word + 1 : word], bit % 32);
#if ZM_BITS < 4 /* from bit 4 of each half on */
        own = own << 4 >> first;
        codes.words[i] = (own & (mask << 4)) | ((own << (16 - 4 * ZM_BITS)) & (mask << 20));
#else
        own = __funnelshift_r(own, words[word + 1] >> bit % 32, first);
        codes.words[i] = (own & mask) | ((own >> (4 * ZM_BITS - 16)) & (mask << 16));
#endif
    }
    return codes;
}
#else
ZM_FUNCTION lane_codes read_codes(const uint4 *of_row, uint row, uint pair, uint lane) {
    lane_codes codes;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint *words = (const uint *)(of_row + row_place(row, pair * 2 + i / 2));
        codes.words[i] = (words[i % 2 * 2 + lane % 4 / 2] >> (lane % 2 * 8)) & 0x00ff00ffu;
    }
    return codes;
}
#endif

ZM_FUNCTION uint4 x_pairs(uint4 v) {
    if (ZM_BITS == 8)
        return make_uint4(__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632), __byte_perm(v.z, v.w, 0x5410),
                          __byte_perm(v.z, v.w, 0x7632));
    return make_uint4(__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632), __byte_perm(v.y, v.w, 0x5410),
                      __byte_perm(v.y, v.w, 0x7632));
}

/* The vector of 8 elements `number` of x into shared memory: lane i of four reads vector 4 * pair + i. */
ZM_FUNCTION void place_tile_x(uint4 *shared, uint number, uint4 v) {
    uint *to = (uint *)shared + number / 4 * 16 + number % 4;
    uint4 pairs = x_pairs(v);
    to[0] = pairs.x, to[4] = pairs.y, to[8] = pairs.z, to[12] = pairs.w;
}

ZM_FUNCTION row_weights read_weights(const uint4 *of_row, uint row, uint pair, uint lane, uint both) {
    lane_codes codes = read_codes(of_row, row, pair, lane);
    return {{weights_of<ZM_BITS>(codes.words[0], both), weights_of<ZM_BITS>(codes.words[1], both),
             weights_of<ZM_BITS>(codes.words[2], both), weights_of<ZM_BITS>(codes.words[3], both)}};
}
#endif

/* A row's scales and biases of a piece, two in a word. */
struct row_groups {
    uint scales[TILE_GROUPS / 2], biases[TILE_GROUPS / 2];

    ZM_FUNCTION void read(const uint4 (*lists)[LIST_SPACE], uint row, uint piece) {
        uint word = (row * ROW_GROUPS + piece * TILE_GROUPS) / 2, place = list_place(word / 4) * 4 + word % 4;
#pragma unroll
        for (int i = 0; i < TILE_GROUPS / 2; i++) {
            scales[i] = ((const uint *)lists[0])[place + i];
            biases[i] = ((const uint *)lists[1])[place + i];
        }
    }
    ZM_FUNCTION uint of(int group) const {
        return factors_of<ZM_BITS>(scales[group / 2], biases[group / 2], group % 2 ? 0x7632 : 0x5410);
    }
};

/* What a lane has of two blocks: the weights of rows lane / 4 and lane / 4 + 8. */
struct tile_weights {
    row_weights first, second;
};

/* A piece of a task in shared memory. X_ROWS: of x, 1 or 8. */
template <int X_ROWS> struct tile_piece {
    const uint4 (*codes)[TILE_SPACE], *x;
    row_groups groups, groups8;
    uint lane, row;

    ZM_FUNCTION void begin(const tile_ring &ring, uint slot, uint lists, const uint4 *all_x, uint piece) {
        lane = threadIdx.x % WARP, row = lane / 4;
        codes = ring.codes[slot], x = all_x + piece * (TILE_K / 8) + lane % 4;
        if (X_ROWS > 1) x += row * TILE_X_SPACE;
        groups.read(ring.groups[lists], row, piece);
        groups8.read(ring.groups[lists] + 2, row, piece);
    }
    ZM_FUNCTION tile_weights read(int pair) const {
        const int group = pair * 32 / ZM_GROUP;
        return {read_weights(codes[row], row, pair, lane, groups.of(group)),
                read_weights(codes[row + 8], row, pair, lane, groups8.of(group))};
    }
    /* sums += the products of two blocks. */
    ZM_FUNCTION void multiply(float (&sums)[4], const tile_weights &w, int pair) const {
        uint4 v = x[pair * 4];
        const uint a[4] = {w.first.v[0], w.second.v[0], w.first.v[1], w.second.v[1]};
        const uint b[4] = {w.first.v[2], w.second.v[2], w.first.v[3], w.second.v[3]};
        multiply_block(sums, a, v.x, v.y);
        multiply_block(sums, b, v.z, v.w);
    }
};

/* The products of a tile's rows with X_ROWS rows of x, for the tasks first, first + stride, ... below n_tasks of a
 * warp. where(task) says which rows, ready() makes x in shared memory complete: behind the first EARLY copies or, where
 * weights of AHEAD pairs of a piece's blocks are made before any products, behind all copies and the first of those;
 * begun() comes when the first piece is there. done(task, sums) gets a lane's products: of row lane / 4 of the tile
 * with rows 2 * (lane % 4) and the next of x, or twice with the only one, then the same of row lane / 4 + 8. */
template <int X_ROWS, int EARLY, int AHEAD, typename Where, typename Ready, typename Begun, typename Done>
ZM_FUNCTION void multiply_tiles(uint first, uint stride, uint n_tasks, const uint4 *x, tile_ring &ring, Where where,
                                Ready ready, Begun begun, Done done) {
    const uint lane = threadIdx.x % WARP;
    uint copied_task = first, copied_piece = 0, copied_groups = 0;
    tile_rows copied;
    auto copy_next = [&](uint to) {
        if (copied_task < n_tasks) {
            if (copied_piece == 0) {
                copied = where(copied_task);
                fill(ring.groups[copied_groups], copied, lane);
                copied_groups ^= 1;
            }
            fill(ring.codes[to], copied, copied_piece, lane);
            if (++copied_piece == TILE_PIECES) copied_piece = 0, copied_task += stride;
        }
        commit_copies();
    };
#pragma unroll 1
    for (int i = 0; i < TILE_SLOTS && i < EARLY; i++) copy_next(i);
    if (!AHEAD) ready(), stamp(STAMP_READY);
    first_stamp stamp_first;
#pragma unroll 1
    for (int i = EARLY; i < TILE_SLOTS; i++) copy_next(i);
    if (first >= n_tasks) return;

    uint task = first, piece = 0, slot = 0, groups = 0;
    float sums[4] = {};
    tile_piece<X_ROWS> own;
    tile_weights ahead[AHEAD ? AHEAD : 1];
    auto begin_piece = [&] {
        finish_copies<TILE_SLOTS - 1>();
        __syncwarp(); /* the copies of all lanes are there */
        stamp_first(STAMP_FIRST);
        own.begin(ring, slot, groups, x, piece);
#pragma unroll
        for (int pair = 0; pair < AHEAD; pair++) ahead[pair] = own.read(pair);
    };
    begin_piece();
    begun();
    if (AHEAD) ready(), stamp(STAMP_READY);
#pragma unroll 1
    while (true) {
#pragma unroll
        for (int pair = 0; pair < TILE_PAIRS; pair++)
            own.multiply(sums, pair < AHEAD ? ahead[pair] : own.read(pair), pair);
        __syncwarp(); /* the slot is free */
        copy_next(slot);
        if (++slot == TILE_SLOTS) slot = 0;
        if (++piece == TILE_PIECES) {
            done(task, sums);
            task += stride, piece = 0, groups ^= 1;
            if (task >= n_tasks) return;
            sums[0] = sums[1] = sums[2] = sums[3] = 0.0f;
        }
        begin_piece();
    }
}
#endif
