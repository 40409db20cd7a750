// SPDX-License-Identifier: MIT
// CUDA's words and instructions as decode's kernels use them, for a text that translate.py made. Every access to memory
// by such an instruction is checked; plain ones that leave their array end at a page that is not there.
#pragma once

#include <algorithm>
#include <math.h>
#include <string.h>
#include <type_traits>
#include <utility>

#include "numbers.hpp"
#include "runtime.h"

#define __device__
#define __global__
#define __forceinline__
#define __align__(n) __attribute__((aligned(n)))
#define HOST_SHARED __attribute__((section("host_shared")))

typedef unsigned int uint;
typedef unsigned short ushort;
struct alignas(16) uint4 {
    uint x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    uint x, y;
};
struct alignas(8) float2 {
    float x, y;
};

extern "C" char __start_host_shared[] __attribute__((visibility("hidden")));
extern "C" char __stop_host_shared[] __attribute__((visibility("hidden")));

namespace {

char host_any_shared HOST_SHARED __attribute__((used)); // so that the section is there
char host_dynamic[HOST_MOST_SHARED] __attribute__((aligned(1024)));
uint host_dynamic_bytes; // of the launch

inline uint4 make_uint4(uint x, uint y, uint z, uint w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint x, uint y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float __uint_as_float(uint bits) { return host::float_of(bits); }
inline uint __float_as_uint(float value) { return host::bits_of(value); }
inline uint max(uint a, uint b) { return a > b ? a : b; }
inline uint min(uint a, uint b) { return a < b ? a : b; }
inline float rsqrtf(float value) { return 1.0f / sqrtf(value); }
inline uint __byte_perm(uint a, uint b, uint selectors) {
    uint64_t bytes = (uint64_t)b << 32 | a;
    uint result = 0;
    for (int i = 0; i < 4; i++) {
        uint selector = selectors >> 4 * i & 15, byte = bytes >> 8 * (selector & 7) & 255;
        if (selector & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << 8 * i;
    }
    return result;
}
inline uint __funnelshift_r(uint low, uint high, uint n) {
    return (uint)(((uint64_t)high << 32 | low) >> (n & 31));
}

// Memory.

template <class T> const T *host_global(const void *from) {
    host_check_memory(from, sizeof(T));
    return (const T *)from;
}
template <class T> T __ldg(const T *from) { return *host_global<T>(from); }
inline void host_load_global(uint &a, uint &b, uint &c, uint &d, const void *from) {
    const uint4 *v = host_global<uint4>(from);
    a = v->x, b = v->y, c = v->z, d = v->w;
}
inline void host_load_global(ushort &value, const void *from) { value = *host_global<ushort>(from); }
inline void host_load_global(uint &value, const void *from) { value = *host_global<uint>(from); }
inline void host_store_global(void *to, uint value) { *(uint *)host_global<uint>(to) = value; }

// An address of shared memory counts from the dynamic part; the fixed part lies anywhere.
inline size_t __cvta_generic_to_shared(const void *p) { return (size_t)p - (size_t)host_dynamic; }
inline char *host_shared(uint address, uint bytes) {
    char *at = host_dynamic + (int)address;
    bool in_dynamic = address < host_dynamic_bytes && address + bytes <= host_dynamic_bytes;
    bool in_fixed = at >= __start_host_shared && at + bytes <= __stop_host_shared;
    if ((size_t)at % bytes) host_complain("shared memory misaligned", address);
    if (!in_dynamic && !in_fixed) host_complain("shared memory out of range", address);
    return in_dynamic || in_fixed ? at : host_dynamic;
}
inline void host_load_shared(uint &a, uint &b, uint &c, uint &d, uint address) {
    const uint4 *v = (const uint4 *)host_shared(address, sizeof *v);
    a = v->x, b = v->y, c = v->z, d = v->w;
}
inline void host_load_shared(uint &a, uint &b, uint address) {
    const uint2 *v = (const uint2 *)host_shared(address, sizeof *v);
    a = v->x, b = v->y;
}
inline void host_load_shared(uint &value, uint address) { value = *(const uint *)host_shared(address, sizeof value); }
inline void host_load_shared(ushort &value, uint address) {
    value = *(const ushort *)host_shared(address, sizeof value);
}
inline void host_load_shared_byte(uint &value, uint address) { value = *(unsigned char *)host_shared(address, 1); }

// Where not `in`, nothing is copied.
inline void host_copy_async(uint to, const void *from, uint in, uint bytes) {
    if (!in) return;
    host_check_memory(from, bytes);
    host_copy(host_shared(to, bytes), (const char *)from, (int)bytes);
}

// An mbarrier of one arrival a phase.
enum { HOST_BEGUN = 0x5ba221e2 };
inline uint *host_barrier_at(uint address) {
    uint *barrier = (uint *)host_shared(address, 8);
    if (barrier[0] != HOST_BEGUN) host_complain("an mbarrier that nobody has begun", address);
    return barrier;
}
inline void host_barrier_begin(uint address) {
    uint *barrier = (uint *)host_shared(address, 8);
    barrier[0] = HOST_BEGUN, barrier[1] = 0;
}
inline void host_barrier_arrive(uint address) {
    uint *barrier = host_barrier_at(address);
    if (barrier[1]++) host_complain("more arrivals at an mbarrier than it waits for", address);
}
inline void host_barrier_wait(uint address) {
    volatile uint *barrier = host_barrier_at(address);
    while (!barrier[1]) host_wait_a_while();
}

// Warps and blocks.

template <class T> T __shfl_sync(uint mask, T value, int from) {
    static_assert(sizeof(T) == sizeof(uint));
    uint bits;
    memcpy(&bits, &value, sizeof bits);
    if (mask != ~0u) host_complain("a part of a warp", mask);
    bits = host_exchange(HOST_SHUFFLE, &bits, 1)[(from & (HOST_WARP - 1)) * HOST_WORDS];
    memcpy(&value, &bits, sizeof bits);
    return value;
}
template <class T> T __shfl_xor_sync(uint mask, T value, int distance) {
    return __shfl_sync(mask, value, (int)(threadIdx.x % HOST_WARP) ^ distance);
}
inline void __syncwarp() { host_warp_barrier(); }
inline void __syncthreads() { host_block_barrier(); }
inline uint host_reduce_max(uint value) {
    const uint *values = host_exchange(HOST_REDUCTION, &value, 1);
    uint most = 0;
    for (int lane = 0; lane < HOST_WARP; lane++) most = std::max(most, values[lane * HOST_WORDS]);
    return most;
}

// 16 halves of a row: those of a lane's words `first` and `second`, of the four lanes that have it.
inline void host_row(ushort *row, const uint *words, uint lane, int first, int second) {
    for (uint i = 0; i < 4; i++) {
        const uint *own = words + (lane + i) * HOST_WORDS;
        row[i * 2] = (ushort)own[first], row[i * 2 + 1] = (ushort)(own[first] >> 16);
        row[8 + i * 2] = (ushort)own[second], row[8 + i * 2 + 1] = (ushort)(own[second] >> 16);
    }
}
// mma.m16n8k16. Where a kernel has but one of the 8 columns, the others are NaN, which nobody may take.
template <bool is_float16, int columns>
void host_multiply_matrices(float &c0, float &c1, float &c2, float &c3, uint a0, uint a1, uint a2, uint a3, uint b0,
                            uint b1) {
    uint own[] = {a0, a1, a2, a3, b0, b1}, lane = threadIdx.x % HOST_WARP;
    const uint *words = host_exchange(HOST_MATRIX, own, 6);
    ushort upper[16], lower[16], column[16];
    host_row(upper, words, lane / 4 * 4, 0, 2);
    host_row(lower, words, lane / 4 * 4, 1, 3);
    float *sums[2][2] = {{&c0, &c2}, {&c1, &c3}};
    for (uint i = 0; i < 2; i++) {
        uint number = lane % 4 * 2 + i;
        host_row(column, words, number * 4, 4, 5);
        *sums[i][0] = number < columns ? host::dot<is_float16>(upper, column, *sums[i][0]) : NAN;
        *sums[i][1] = number < columns ? host::dot<is_float16>(lower, column, *sums[i][1]) : NAN;
    }
}
// movmatrix: a lane has columns 2 * (lane % 4) and the next of row lane / 4.
inline uint host_turn_matrix(uint pair) {
    uint words[HOST_WARP], row = threadIdx.x % HOST_WARP / 4, first = threadIdx.x % 4 * 2;
    const uint *pairs = host_exchange(HOST_MATRIX, &pair, 1);
    for (uint i = 0; i < HOST_WARP; i++) words[i] = pairs[i * HOST_WORDS];
    auto element = [&](uint from, uint column) { return words[from * 4 + column / 2] >> column % 2 * 16 & 0xffffu; };
    return element(first, row) | element(first + 1, row) << 16;
}

// Nothing that runs here has it.
inline void host_unknown() { host_complain("an operation of clusters", 0); }

// Kernels by name, with arguments of 64 bits each.

template <class T> T host_argument(uint64_t word) {
    if constexpr (std::is_pointer_v<T>) return (T)word;
    static_assert(std::is_pointer_v<T> || sizeof(T) == sizeof(uint));
    T value;
    memcpy(&value, &word, std::min(sizeof value, sizeof(uint64_t)));
    return value;
}
template <auto kernel> struct host_adapter;
template <class... A, void (*kernel)(A...)> struct host_adapter<kernel> {
    enum { COUNT = sizeof...(A) };
    template <size_t... I> static void spread(const uint64_t *words, std::index_sequence<I...>) {
        kernel(host_argument<A>(words[I])...);
    }
    static void run(const uint64_t *words) { spread(words, std::make_index_sequence<COUNT>{}); }
};

struct host_kernel {
    const char *name;
    void (*run)(const uint64_t *);
    int n_arguments;
    host_kernel *next;
};
host_kernel *host_kernels;
struct host_registration {
    host_kernel own;
    host_registration(const char *name, void (*run)(const uint64_t *), int n) : own{name, run, n, host_kernels} {
        host_kernels = &own;
    }
};
#define HOST_KERNEL(name)                                                                                              \
    host_registration host_registration_##name(#name, host_adapter<name>::run, host_adapter<name>::COUNT);

} // namespace

extern "C" int host_run(const char *name, const host_launch *launch, const uint64_t *arguments, int n) {
    for (const host_kernel *kernel = host_kernels; kernel; kernel = kernel->next) {
        if (strcmp(kernel->name, name) || kernel->n_arguments != n) continue;
        host_dynamic_bytes = launch->shared_bytes;
        size_t fixed_bytes = (size_t)(__stop_host_shared - __start_host_shared);
        host_run_blocks(launch, host_dynamic, __start_host_shared, fixed_bytes, kernel->run, arguments);
        return 0;
    }
    return -1;
}
