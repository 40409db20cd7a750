/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

zm_oracle_function zm_ref_pack_bits, zm_ref_unpack_bits;
void zm_ref_pack_bits(zm_oracle *call) {
    for (size_t i = 0; i < call->inputs[0].size; i++)
        if (call->inputs[0].values[i] != 0) call->outputs[0].values[i / 8] += 1 << i % 8;
}
void zm_ref_unpack_bits(zm_oracle *call) {
    for (size_t i = 0; i < call->outputs[0].size; i++)
        zm_put(&call->outputs[0], i, (int)call->inputs[0].values[i / 8] >> i % 8 & 1, 0);
}
