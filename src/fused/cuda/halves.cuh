/* SPDX-License-Identifier: MIT */
/* What follows bfloat16.cuh or float16.cuh: the order of numbers. */
ZM_FUNCTION uint warp_max(uint value) {
    uint result;
    asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(result) : "r"(value));
    return result;
}

/* Orders numbers: ascending, NaN last. Not 0. */
ZM_FUNCTION uint choice_key(float value) {
    uint bits = __float_as_uint(value + 0.0f); /* -0 and 0 are equal */
    if (value != value) return ~0u;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
