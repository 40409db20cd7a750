/* SPDX-License-Identifier: MIT */
/* Blocks of a CUDA kernel on the host: a thread is a fiber that goes on until it needs the others of its warp or block.
 *
 * Copies of cp.async are made at once, or as late as the wait that must cover them; until then their place holds
 * poison. So a kernel that leaves out a wait or a barrier leaves other bits in one of the two, or with warps in another
 * order. */
#ifndef CUDA_HOST_RUNTIME_H
#define CUDA_HOST_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { HOST_MOST_SHARED = 227 * 1024, HOST_WARP = 32, HOST_WORDS = 8 };

/* What the lanes of a warp must all be at before one goes on. */
typedef enum host_meeting { HOST_BARRIER, HOST_SHUFFLE, HOST_REDUCTION, HOST_MATRIX } host_meeting;

typedef struct host_launch {
    unsigned grid, block, shared_bytes;
    unsigned every;       /* which blocks run: 0, every, 2 every and so on */
    int is_late;          /* copies come at their wait */
    unsigned order;       /* of warps and lanes. 0: upwards; 1: downwards; above: a seed */
    unsigned char poison; /* what shared memory holds that nobody wrote */
} host_launch;

typedef struct host_dimensions {
    unsigned x, y, z;
} host_dimensions;

extern host_dimensions threadIdx, blockIdx, blockDim, gridDim;

/* A library of kernels has this, as host_run: 0, or -1 where it has no such kernel with n arguments. */
typedef int host_run_function(const char *kernel, const host_launch *launch, const uint64_t *arguments, int n);

/* dynamic and fixed: a library's shared memory. */
void host_run_blocks(const host_launch *launch, char *dynamic, char *fixed, size_t fixed_bytes,
                     void (*kernel)(const uint64_t *), const uint64_t *arguments);

/* For kernels. */
void host_block_barrier(void);
void host_warp_barrier(void);
void host_wait_a_while(void); /* in a loop that another thread ends */
/* Leaves up to HOST_WORDS words for the warp and returns those of all lanes, HOST_WORDS each. */
const uint32_t *host_exchange(host_meeting meeting, const uint32_t *words, int n);
void host_copy(char *to, const char *from, int bytes);
void host_commit(void);
void host_finish(int pending);

/* Memory of the device: whatever else a kernel touches is a complaint. */
void host_allow(const void *memory, size_t bytes);
void host_forbid_all(void);
void host_check_memory(const void *memory, size_t bytes);

/* Prints the first few. */
void host_complain(const char *what, uint64_t value);
int host_complaints(void);

#ifdef __cplusplus
}
#endif

#endif
