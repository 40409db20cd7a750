/* SPDX-License-Identifier: MIT */
/* The kind of GPU that MLX runs on here. */
#ifndef ZM_MLX_GPU_H
#define ZM_MLX_GPU_H

typedef enum zm_gpu_kind { ZM_GPU_NONE, ZM_GPU_CUDA, ZM_GPU_METAL } zm_gpu_kind;

/* compute_capability: 90 for sm_90; 0 unless CUDA. The answer is the process's. */
zm_gpu_kind zm_gpu_get(int *compute_capability);

#endif
