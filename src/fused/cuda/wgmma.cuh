/* SPDX-License-Identifier: MIT */
/* Hopper's matrix instruction wgmma.m64nNk16, with weights in registers and x in shared memory, and what orders it and
 * copies. */
typedef unsigned long long descriptor;

template <int bytes> ZM_FUNCTION void copy(uint shared, const void *p) {
    if (bytes == 16)
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(p) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(p), "n"(bytes) : "memory");
}
ZM_FUNCTION void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> ZM_FUNCTION void finish_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* Before products whose registers were written by other instructions. */
ZM_FUNCTION void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
ZM_FUNCTION void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* All but the last `pending` commits are complete. */
template <int pending> ZM_FUNCTION void finish_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

/* Rows of 64 elements in shared memory from a multiple of 1024 on, 16-byte vectors as place() has them. */
enum { ROW_BYTES = 128 };
ZM_FUNCTION uint place(uint row, uint vector) { return row * ROW_BYTES + (vector ^ (row & 7)) * 16; }
ZM_FUNCTION descriptor describe(uint shared) {
    return descriptor((shared & 0x3ffff) >> 4) | 1ull << 16 | descriptor(8 * ROW_BYTES >> 4) << 32 | 1ull << 62;
}

/* sums += w x^T: 64 rows of w, N of x, 16 elements of each. A thread has, of each eight rows i of x, sums[i] of rows 2
 * * (lane % 4) and the next, with row lane / 4 of its warp's 16 of w, and then with row lane / 4 + 8. */
template <int N> struct products;
#define ZM_SUMS(i) "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
#define ZM_SUMS_16 ZM_SUMS(0), ZM_SUMS(1)
#define ZM_SUMS_32 ZM_SUMS_16, ZM_SUMS(2), ZM_SUMS(3)
#define ZM_SUMS_48 ZM_SUMS_32, ZM_SUMS(4), ZM_SUMS(5)
#define ZM_SUMS_64 ZM_SUMS_48, ZM_SUMS(6), ZM_SUMS(7)
#define ZM_SUMS_80 ZM_SUMS_64, ZM_SUMS(8), ZM_SUMS(9)
#define ZM_SUMS_96 ZM_SUMS_80, ZM_SUMS(10), ZM_SUMS(11)
#define ZM_SUMS_128 ZM_SUMS_96, ZM_SUMS(12), ZM_SUMS(13), ZM_SUMS(14), ZM_SUMS(15)
#define ZM_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define ZM_NAMES_32 ZM_NAMES_16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define ZM_NAMES_48 ZM_NAMES_32 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define ZM_NAMES_64 ZM_NAMES_48 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define ZM_NAMES_80 ZM_NAMES_64 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define ZM_NAMES_96 ZM_NAMES_80 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define ZM_NAMES_128 ZM_NAMES_96 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define ZM_PRODUCTS(n, w0, w1, w2, w3, x)                                                                        \
    template <> struct products<n> {                                                                             \
        static ZM_FUNCTION void begin(float (&sums)[n / 8][4], const uint (&w)[4], descriptor x_rows) {          \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." ZM_TYPE "." ZM_TYPE " {" ZM_NAMES_##n \
                         "}, {%" #w0 ", %" #w1 ", %" #w2 ", %" #w3 "}, %" #x ", 1, 1, 1, 0;"                     \
                         : ZM_SUMS_##n                                                                           \
                         : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(x_rows));                             \
        }                                                                                                        \
    };
ZM_PRODUCTS(16, 8, 9, 10, 11, 12)
ZM_PRODUCTS(32, 16, 17, 18, 19, 20)
ZM_PRODUCTS(48, 24, 25, 26, 27, 28)
ZM_PRODUCTS(64, 32, 33, 34, 35, 36)
ZM_PRODUCTS(80, 40, 41, 42, 43, 44)
ZM_PRODUCTS(96, 48, 49, 50, 51, 52)
ZM_PRODUCTS(128, 64, 65, 66, 67, 68)

/* Four matrices of 8 x 8, as sums[i] are spread over a warp's threads, into shared memory, turned: a row of x after the
 * other. Lane l says where row l % 8 of matrix l / 8 begins. */
ZM_FUNCTION void store_turned(uint shared, uint a, uint b, uint c, uint d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(a), "r"(b),
                 "r"(c), "r"(d)
                 : "memory");
}
