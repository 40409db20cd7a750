/* SPDX-License-Identifier: MIT */
/* Random numbers: Philox4x32-10 (Salmon et al. 2011). The number of element i is word i mod 4 of block i div 4. */
ZM_FN zm_longs zm_multiply_words(zm_longs a, zm_uint factor) { /* of a the low 32 bits */
    zm_longs b = (zm_longs){0} + factor;
#if ZM_GCC && ZM_WIDTH == 16
    return (zm_longs)__builtin_ia32_pmuludq512_mask((vi)a, (vi)b, (zm_signed_longs)a, 0xff);
#elif ZM_GCC && defined(__AVX2__)
    return (zm_longs)__builtin_ia32_pmuludq256((vi)a, (vi)b);
#elif ZM_GCC && ZM_WIDTH == 4 && defined(__SSE2__)
    return (zm_longs)__builtin_ia32_pmuludq128((vi)a, (vi)b);
#else
    return (a & 0xffffffffu) * b;
#endif
}

/* Words of blocks, one block in each long: the even ones and the odd ones, in two longs that belong together. */
typedef struct zm_blocks {
    zm_longs low, high;
} zm_blocks;

/* Of the rounds, for the products of words 2 and 0; made once a call. */
typedef struct zm_keys {
    zm_longs low[10], high[10];
} zm_keys;
ZM_FN zm_keys zm_keys_of(__UINT64_TYPE__ seed) {
    zm_keys keys;
    ZM_UNROLL
    for (zm_uint round = 0; round < 10; round++) {
        keys.low[round] = (zm_longs){0} + ((zm_uint)seed + round * 0x9e3779b9u);
        keys.high[round] = (zm_longs){0} + ((zm_uint)(seed >> 32) + round * 0xbb67ae85u);
    }
    return keys;
}

/* n vectors of blocks, round by round: alone, each would wait for its own products. */
ZM_FN void zm_philox(const zm_keys *keys, __UINT64_TYPE__ block, zm_blocks *blocks, int n) {
#if ZM_WIDTH == 16
    const zm_longs first = (zm_longs){0, 1, 2, 3, 4, 5, 6, 7} + block;
#elif ZM_WIDTH == 8
    const zm_longs first = (zm_longs){0, 1, 2, 3} + block;
#else
    const zm_longs first = (zm_longs){0, 1} + block;
#endif
    zm_longs word[2][4]; /* in the low halves; what is above them is not read */
    ZM_UNROLL
    for (int i = 0; i < n; i++) {
        word[i][0] = first + (__UINT64_TYPE__)(i * ZM_WIDTH / 2);
        word[i][1] = word[i][0] >> 32;
        word[i][2] = word[i][3] = (zm_longs){0};
    }
    ZM_UNROLL
    for (int round = 0; round < 10; round++) {
        ZM_UNROLL
        for (int i = 0; i < n; i++) {
            zm_longs product0 = zm_multiply_words(word[i][0], 0xd2511f53u);
            zm_longs product1 = zm_multiply_words(word[i][2], 0xcd9e8d57u);
            word[i][0] = (product1 >> 32) ^ word[i][1] ^ keys->low[round];
            word[i][2] = (product0 >> 32) ^ word[i][3] ^ keys->high[round];
            word[i][1] = product1;
            word[i][3] = product0;
        }
    }
    ZM_UNROLL
    for (int i = 0; i < n; i++)
        blocks[i] = (zm_blocks){(word[i][0] & 0xffffffffu) | word[i][1] << 32,
                                (word[i][2] & 0xffffffffu) | word[i][3] << 32};
}

/* Two vectors of numbers in [0, 1). */
typedef struct zm_two {
    vf first, second;
} zm_two;
ZM_FN vf zm_from_word(vu word) { return __builtin_convertvector((vi)(word >> 8), vf) * 0x1p-24f; }
/* The words of blocks in the order of elements. */
ZM_FN void zm_order_words(zm_blocks blocks, vu ordered[2]) {
    const zm_longs low = blocks.low, high = blocks.high;
#if __has_builtin(__builtin_shufflevector) && ZM_WIDTH == 16
    ordered[0] = (vu)__builtin_shufflevector(low, high, 0, 8, 1, 9, 2, 10, 3, 11);
    ordered[1] = (vu)__builtin_shufflevector(low, high, 4, 12, 5, 13, 6, 14, 7, 15);
#elif __has_builtin(__builtin_shufflevector) && ZM_WIDTH == 8
    ordered[0] = (vu)__builtin_shufflevector(low, high, 0, 4, 1, 5);
    ordered[1] = (vu)__builtin_shufflevector(low, high, 2, 6, 3, 7);
#else
    __UINT64_TYPE__ pairs[ZM_WIDTH];
    for (int i = 0; i < ZM_WIDTH; i++) pairs[i] = i % 2 ? high[i / 2] : low[i / 2];
    ZM_COPY(ordered, pairs, sizeof pairs);
#endif
}
ZM_FN vf zm_random(const zm_keys *keys, __UINT64_TYPE__ index) {
    zm_blocks blocks;
    vu ordered[2], lanes;
    zm_philox(keys, index / 4, &blocks, 1);
    zm_order_words(blocks, ordered);
    ZM_COPY(&lanes, (const char *)ordered + 4 * (index % 4), sizeof lanes);
    return zm_from_word(lanes);
}
ZM_SLOW void zm_random_across_blocks(const zm_keys *keys, __UINT64_TYPE__ index, zm_two *two, int n) {
    for (int i = 0; i < n; i++, index += 2 * ZM_WIDTH)
        two[i] = (zm_two){zm_random(keys, index), zm_random(keys, index + ZM_WIDTH)};
}
/* n <= 2 pairs of vectors, without a word to spare where index begins a block. */
ZM_FN void zm_random_pairs(const zm_keys *keys, __UINT64_TYPE__ index, zm_two *two, int n) {
    zm_blocks blocks[2];
    vu ordered[2];
    if (__builtin_expect(index % 4 != 0, 0)) {
        zm_random_across_blocks(keys, index, two, n);
        return;
    }
    zm_philox(keys, index / 4, blocks, n);
    ZM_UNROLL
    for (int i = 0; i < n; i++) {
        zm_order_words(blocks[i], ordered);
        two[i] = (zm_two){zm_from_word(ordered[0]), zm_from_word(ordered[1])};
    }
}
