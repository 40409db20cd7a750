/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

zm_oracle_function zm_ref_adamw_step;
void zm_ref_adamw_step(zm_oracle *call) {
    double lr = call->numbers[0].number, t = call->numbers[1].number, b1 = call->numbers[2].number,
           b2 = call->numbers[3].number;
    double eps = call->numbers[4].number, wd = call->numbers[5].number;
    for (size_t i = 0; i < call->inputs[0].size; i++) {
        double p = call->inputs[0].values[i], g = call->inputs[1].values[i];
        double m = b1 * call->inputs[2].values[i] + (1 - b1) * g, v = b2 * call->inputs[3].values[i] + (1 - b2) * g * g;
        double m_size = fabs(b1 * call->inputs[2].values[i]) + fabs((1 - b1) * g);
        double root = sqrt(v / (1 - pow(b2, t))) + eps, update = m / (1 - pow(b1, t)) / root;
        zm_put(&call->outputs[1], i, m, m_size);
        zm_put(&call->outputs[2], i, v, v);
        zm_put(&call->outputs[0], i, p - lr * (update + wd * p),
               fabs(p) + 4 * lr * (m_size / (1 - pow(b1, t)) / root + fabs(wd * p)));
    }
}
