/* SPDX-License-Identifier: MIT */
/* As much of the Metal standard library as emitted kernels use, so that their text compiles as C++ and runs on the
 * host. Each thread of a threadgroup is a fiber that runs until it must wait for others: at a shuffle for its
 * simdgroup, at a barrier for the threadgroup. A kernel whose threads do not meet is stopped with a message.
 *
 * `constant` is volatile, so that the two address spaces are different types. threadgroup variables become static
 * (run.sh rewrites their declarations): one threadgroup runs at a time. */
#pragma once
#include <setjmp.h>
#include <sys/types.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

using uchar = unsigned char;

namespace standin {

constexpr unsigned simd_width = 32;

// Jumps between stacks. swapcontext would call the kernel at each, to keep the signal mask. Sanitizers warn of a
// longjmp that leaves the stack, but do not know the compiler's own.
#ifdef __x86_64__
using Place = void *[5];
#define STANDIN_MARK(place) __builtin_setjmp(place)
#define STANDIN_JUMP(place) __builtin_longjmp(place, 1)
#else
using Place = jmp_buf;
#define STANDIN_MARK(place) _setjmp(place)
#define STANDIN_JUMP(place) _longjmp(place, 1)
#endif

[[noreturn]] __attribute__((noinline)) inline void jump(Place &place) { STANDIN_JUMP(place); }

struct Fiber { // made once, then it runs a thread of one threadgroup after the other
    Place at;
    std::unique_ptr<char[]> stack;
    bool done = true;
};

struct Meeting { // threads that wait for each other
    unsigned arrived = 0, phase = 0, members = 0;
    uint32_t values[2][simd_width];
};

struct Group {
    std::vector<Fiber> fibers;
    std::vector<Meeting> simdgroups;
    Meeting barrier;
    Place scheduler;
    unsigned current = 0;
    bool progress = false;
    void (*entry)() = nullptr;
};

inline Group group;

__attribute__((noinline)) inline void yield() {
    if (!STANDIN_MARK(group.fibers[group.current].at)) jump(group.scheduler);
}

inline void meet(Meeting &meeting) {
    unsigned phase = meeting.phase;
    group.progress = true;
    if (++meeting.arrived == meeting.members) {
        meeting.arrived = 0;
        meeting.phase++;
    } else {
        while (meeting.phase == phase) yield();
    }
}

inline uint32_t exchange(uint32_t value, unsigned lane) {
    Meeting &simdgroup = group.simdgroups[group.current / simd_width];
    if (lane >= simdgroup.members) {
        std::fprintf(stderr, "metal stand-in: lane %u of %u\n", lane, simdgroup.members);
        std::abort();
    }
    unsigned buffer = simdgroup.phase & 1;
    simdgroup.values[buffer][group.current % simd_width] = value;
    meet(simdgroup);
    return simdgroup.values[buffer][lane];
}

inline void run_fiber() {
    for (;;) {
        group.entry();
        group.fibers[group.current].done = true;
        group.progress = true;
        yield();
    }
}

__attribute__((noinline)) inline void resume(Fiber &fiber) {
    constexpr size_t stack_size = 64 * 1024;
    if (STANDIN_MARK(group.scheduler)) return;
    if (fiber.stack) jump(fiber.at);
    fiber.stack.reset(new char[stack_size]);
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = stack_size;
    context.uc_link = nullptr;
    makecontext(&context, run_fiber, 0);
    setcontext(&context);
}

// Lets each thread of a simdgroup run until it waits; the number of threads that are not done.
inline unsigned run_simdgroup(unsigned first, unsigned end, int order) {
    unsigned alive = 0;
    for (unsigned i = first; i < end; i++) {
        group.current = order & 1 ? end - 1 - (i - first) : i;
        Fiber &fiber = group.fibers[group.current];
        if (fiber.done) continue;
        alive++;
        resume(fiber);
    }
    return alive;
}

// One threadgroup. A simdgroup runs as far as it can before the next does, so that one that races ahead of a missing
// barrier is seen; odd orders start with the last one.
inline void run_group(unsigned threads, int order, void (*entry)()) {
    group.entry = entry;
    if (group.fibers.size() < threads) group.fibers.resize(threads);
    group.simdgroups.assign((threads + simd_width - 1) / simd_width, Meeting());
    group.barrier = Meeting();
    group.barrier.members = threads;
    for (unsigned i = 0; i < threads; i++) {
        group.simdgroups[i / simd_width].members++;
        group.fibers[i].done = false;
    }
    unsigned n = static_cast<unsigned>(group.simdgroups.size());
    for (unsigned alive = threads; alive;) {
        bool any_progress = false;
        alive = 0;
        for (unsigned i = 0; i < n; i++) {
            unsigned first = (order & 1 ? n - 1 - i : i) * simd_width, left;
            do {
                group.progress = false;
                left = run_simdgroup(first, first + group.simdgroups[first / simd_width].members, order);
                any_progress = any_progress || group.progress;
            } while (group.progress);
            alive += left;
        }
        if (alive && !any_progress) {
            std::fprintf(stderr, "metal stand-in: %u threads wait for others that do not come\n", alive);
            std::abort();
        }
    }
}

} // namespace standin

template <class To, class From>
To as_type(From from) {
    static_assert(sizeof(To) == sizeof(From), "as_type between sizes");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// IEEE binary16 by arithmetic on doubles: rint rounds to even.
class half {
    uint16_t bits_;

public:
    half() = default;
    explicit half(float value) {
        uint16_t sign = std::signbit(value) ? 0x8000 : 0;
        double size = std::fabs(static_cast<double>(value));
        if (std::isnan(value)) {
            bits_ = 0x7e00;
        } else if (size >= 65520.0) {
            bits_ = static_cast<uint16_t>(sign | 0x7c00);
        } else if (size < 0x1p-14) {
            bits_ = static_cast<uint16_t>(sign | static_cast<uint16_t>(std::rint(size * 0x1p24)));
        } else {
            int exponent = std::ilogb(size);
            double mantissa = std::rint(std::ldexp(size, 10 - exponent)); // 1024 to 2048
            bits_ = static_cast<uint16_t>(sign | (((exponent + 14) << 10) + static_cast<int>(mantissa)));
        }
    }
    explicit operator float() const {
        int exponent = bits_ >> 10 & 31, mantissa = bits_ & 1023;
        double size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                      : exponent     ? std::ldexp(1024 + mantissa, exponent - 25)
                                     : std::ldexp(mantissa, -24);
        return static_cast<float>(bits_ & 0x8000 ? -size : size);
    }
};

namespace metal {

template <class T>
struct packed4 {
    T x, y, z, w;
};
template <class T>
struct vector4 {
    T x, y, z, w;
    vector4() = default;
    explicit vector4(const volatile packed4<T> &p) : x(p.x), y(p.y), z(p.z), w(p.w) {}
    operator packed4<T>() const { return {x, y, z, w}; }
};
using uint4 = vector4<uint>;
using ushort4 = vector4<ushort>;
using uchar4 = vector4<uchar>;
using packed_uint4 = packed4<uint>;
using packed_ushort4 = packed4<ushort>;
using packed_uchar4 = packed4<uchar>;
struct uint3 {
    uint x, y, z;
};

inline uint simd_shuffle(uint value, ushort lane) { return standin::exchange(value, lane); }
inline float simd_shuffle(float value, ushort lane) {
    return as_type<float>(standin::exchange(as_type<uint>(value), lane));
}
enum class mem_flags { mem_none, mem_device, mem_threadgroup };
inline void threadgroup_barrier(mem_flags) { standin::meet(standin::group.barrier); }

inline uint clz(uint a) { return a ? static_cast<uint>(__builtin_clz(a)) : 32u; }
inline uint mulhi(uint a, uint b) { return static_cast<uint>(static_cast<uint64_t>(a) * b >> 32); }
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float fabs(float a) { return std::fabs(a); }
inline float copysign(float a, float b) { return std::copysign(a, b); }
inline float fmax(float a, float b) { return std::fmax(a, b); }
inline float fmin(float a, float b) { return std::fmin(a, b); }

namespace precise {
#define STANDIN_1(name) \
    inline float name(float a) { return std::name(a); }
#define STANDIN_2(name) \
    inline float name(float a, float b) { return std::name(a, b); }
STANDIN_1(floor) STANDIN_1(ceil) STANDIN_1(trunc) STANDIN_1(round) STANDIN_1(rint) STANDIN_1(sqrt)
STANDIN_1(exp) STANDIN_1(exp2) STANDIN_1(log) STANDIN_1(log2) STANDIN_1(log10)
STANDIN_1(sin) STANDIN_1(cos) STANDIN_1(tan) STANDIN_1(asin) STANDIN_1(acos) STANDIN_1(atan)
STANDIN_1(sinh) STANDIN_1(cosh) STANDIN_1(tanh) STANDIN_1(asinh) STANDIN_1(acosh) STANDIN_1(atanh)
STANDIN_2(fmod) STANDIN_2(pow) STANDIN_2(atan2)
#undef STANDIN_1
#undef STANDIN_2
inline float rsqrt(float a) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(a))); }
inline float exp10(float a) { return static_cast<float>(std::pow(10.0, static_cast<double>(a))); }
} // namespace precise

} // namespace metal

namespace standin {

inline metal::uint3 position, grid, block;

// Parameters of a kernel: inputs, outputs, scalars, then the four attributes.
struct Arguments {
    const void *const *inputs;
    void *const *outputs;
    const uint32_t *scalars;
};
inline Arguments arguments;

template <class T>
T *next_pointer(int &input, int &output) {
    if constexpr (std::is_volatile_v<T>)
        return arguments.scalars;
    else if constexpr (std::is_const_v<T>)
        return static_cast<T *>(arguments.inputs[input++]);
    else
        return static_cast<T *>(arguments.outputs[output++]);
}

template <class T>
T next_argument(int &input, int &output, int &attribute) {
    if constexpr (std::is_pointer_v<T>)
        return next_pointer<std::remove_pointer_t<T>>(input, output);
    else if constexpr (std::is_same_v<T, metal::uint3>)
        return attribute++ == 0 ? position : attribute == 2 ? grid : block;
    else
        return group.current; // thread_index_in_threadgroup
}

template <class... A>
void call(void (*kernel)(A...)) {
    int input = 0, output = 0, attribute = 0;
    std::tuple<A...> values{next_argument<A>(input, output, attribute)...};
    std::apply(kernel, values);
}

// order: even or odd, see run_group; odd ones also spread the grid over two dimensions.
inline void run(void (*entry)(), uint32_t blocks, uint32_t threads, int order) {
    grid = order & 1 ? metal::uint3{(blocks + 1) / 2, 2, 1} : metal::uint3{blocks, 1, 1};
    block = {threads, 1, 1};
    for (uint32_t y = 0; y < grid.y; y++)
        for (uint32_t x = 0; x < grid.x; x++) {
            position = {x, y, 0};
            run_group(threads, order, entry);
        }
}

} // namespace standin

/* The function a test calls for the kernel. */
#define STANDIN_RUNNER(symbol, kernel)                                                                        \
    static void symbol##_thread() { standin::call(kernel); }                                                 \
    extern "C" __attribute__((visibility("default"))) void symbol(const void *const *inputs, void *const *outputs, \
                                                                  const uint32_t *scalars, uint32_t blocks,  \
                                                                  uint32_t threads, int order) {             \
        standin::arguments = {inputs, outputs, scalars};                                                     \
        standin::run(symbol##_thread, blocks, threads, order);                                               \
    }

#define device
#define constant volatile
#define thread
