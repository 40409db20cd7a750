/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

typedef struct image {
    int n, h, w, c;
} image;

static image image_of(const zm_oracle *call) {
    return (image){zm_oracle_size(call, "N"), zm_oracle_size(call, "H"), zm_oracle_size(call, "W"),
                   zm_oracle_size(call, "C")};
}

static size_t place(int b, int y, int x, int channel, int h, int w, int c) {
    return (((size_t)b * (size_t)h + (size_t)y) * (size_t)w + (size_t)x) * (size_t)c + (size_t)channel;
}

static int clamp(int i, int size) { return i < 0 ? 0 : i >= size ? size - 1 : i; }

zm_oracle_function zm_ref_resize_bilinear, zm_ref_depthwise_conv_3x3;
void zm_ref_resize_bilinear(zm_oracle *call) {
    image in = image_of(call);
    int oh = zm_oracle_size(call, "out_height"), ow = zm_oracle_size(call, "out_width");
    call->outputs[0].terms = 4;
    if (call->gradients) call->gradients[0].terms = 4 * (double)oh * ow;
    for (size_t i = 0; i < call->outputs[0].size; i++) {
        int channel = (int)(i % (size_t)in.c), x = (int)(i / (size_t)in.c % (size_t)ow);
        int y = (int)(i / (size_t)in.c / (size_t)ow % (size_t)oh),
            b = (int)(i / (size_t)in.c / (size_t)ow / (size_t)oh);
        double sy = (y + 0.5) * in.h / oh - 0.5, sx = (x + 0.5) * in.w / ow - 0.5, value = 0, size = 0;
        for (int corner = 0; corner < 4; corner++) {
            int iy = (int)floor(sy) + corner / 2, ix = (int)floor(sx) + corner % 2;
            double weight = (1 - fabs(sy - iy)) * (1 - fabs(sx - ix));
            size_t at = place(b, clamp(iy, in.h), clamp(ix, in.w), channel, in.h, in.w, in.c);
            value += weight * call->inputs[0].values[at];
            size += fabs(weight * call->inputs[0].values[at]);
            if (!call->gradients) continue;
            double g = call->cotangents[0].values[i];
            zm_put_more(&call->gradients[0], at, weight * g, fabs(weight * g));
        }
        zm_put(&call->outputs[0], i, value, size);
    }
}

void zm_ref_depthwise_conv_3x3(zm_oracle *call) {
    image in = image_of(call);
    const double *x = call->inputs[0].values, *w = call->inputs[1].values;
    call->outputs[0].terms = 9;
    if (call->gradients) {
        call->gradients[0].terms = 9;
        call->gradients[1].terms = (double)in.n * in.h * in.w;
    }
    for (size_t at = 0; at < call->outputs[0].size; at++) {
        int channel = (int)(at % (size_t)in.c), column = (int)(at / (size_t)in.c % (size_t)in.w);
        int row = (int)(at / (size_t)in.c / (size_t)in.w % (size_t)in.h),
            b = (int)(at / (size_t)in.c / (size_t)in.w / (size_t)in.h);
        for (int tap = 0; tap < 9; tap++) {
            int y = row + tap / 3 - 1, z = column + tap % 3 - 1;
            if (y < 0 || y >= in.h || z < 0 || z >= in.w) continue;
            size_t from = place(b, y, z, channel, in.h, in.w, in.c), weight = (size_t)(tap * in.c + channel);
            zm_put_more(&call->outputs[0], at, x[from] * w[weight], fabs(x[from] * w[weight]));
            if (!call->gradients) continue;
            double g = call->cotangents[0].values[at];
            zm_put_more(&call->gradients[0], from, g * w[weight], fabs(g * w[weight]));
            zm_put_more(&call->gradients[1], weight, g * x[from], fabs(g * x[from]));
        }
    }
}
