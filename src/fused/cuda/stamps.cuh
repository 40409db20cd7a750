/* SPDX-License-Identifier: MIT */
/* When a decode kernel's blocks come to their stamps (sizes.cuh), by the GPU's clock in nanoseconds, for timeline.c.
 * Behind halves.cuh; only where the text before defines ZM_STAMPS as 1 is anything left of it. Then kernels have two
 * arguments more. The first thread stamps, but all warps their end, of which the last stays. */
#if ZM_STAMPS
typedef unsigned long long stamp_time;
#define ZM_STAMPED , stamp_time *all_stamps, uint launch
#define ZM_STAMP_BLOCK block_stamps own_stamps(all_stamps, launch)

__shared__ stamp_time *first_threads_stamps;

ZM_FUNCTION stamp_time gpu_time() {
    stamp_time time;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time) :: "memory");
    return time;
}
ZM_FUNCTION void stamp(uint number) {
    if (threadIdx.x == 0) first_threads_stamps[number] = gpu_time();
}
/* A block's life. */
struct block_stamps {
    stamp_time *own;

    ZM_FUNCTION block_stamps(stamp_time *all, uint launch) {
        uint block = blockIdx.x < STAMP_BLOCKS ? blockIdx.x : STAMP_BLOCKS - 1;
        own = all + (launch * STAMP_BLOCKS + block) * STAMPS;
        if (threadIdx.x == 0) first_threads_stamps = own;
        stamp(STAMP_BEGUN);
    }
    ZM_FUNCTION ~block_stamps() {
        if (threadIdx.x % WARP == 0) atomicMax(own + STAMP_ENDED, gpu_time());
    }
};
#else
#define ZM_STAMPED
#define ZM_STAMP_BLOCK
ZM_FUNCTION void stamp(uint) {}
#endif

/* Stamps the first time only. */
struct first_stamp {
    bool is_due = true;
    ZM_FUNCTION void operator()(uint number) {
        if (is_due) stamp(number);
        is_due = false;
    }
};
