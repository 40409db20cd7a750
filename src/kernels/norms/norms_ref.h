/* SPDX-License-Identifier: MIT */
/* Norms in float64, for the oracles of several families. */
#ifndef ZM_KERNELS_NORMS_REF_H
#define ZM_KERNELS_NORMS_REF_H

#include "kernels/oracle.h"

/* One norm: places of its inputs in the signature, -1 where there is none. */
typedef struct zm_ref_norm {
    bool centred;              /* layer norm, else rms norm */
    int weight, bias;
    int residual;              /* added to the first input */
    int sum_output;            /* h, or -1 */
    int eps, p, seed;          /* numbers */
} zm_ref_norm;

void zm_ref_apply_norm(zm_oracle *call, const zm_ref_norm *norm);

#endif
