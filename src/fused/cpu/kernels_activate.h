/* SPDX-License-Identifier: MIT */
/* Activations and exponentials; part of kernels.h. */

INLINE vector choose(vector_int condition, vector a, vector b) {
    return (vector)((condition & (vector_int)a) | (~condition & (vector_int)b));
}

/* e^x within 2 ulp. x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its series; 2^n in two factors, so that results
 * down to the subnormal ones are right. */
INLINE vector exponential(vector x) {
    x = choose(x < -104.0f, splat(-104.0f), x);
    x = choose(x > 89.0f, splat(89.0f), x);
    const vector magic = splat(0x1.8p23f); /* the sum's low bits are the nearest integer */
    vector shifted = multiply_add(x, splat(0x1.715476p0f), magic);
    vector n = shifted - magic;
    vector r = multiply_add(n, splat(-0x1.63p-1f), x);
    r = multiply_add(n, splat(0x1.bd0106p-13f), r);
    vector e = splat(0x1.a01a02p-13f);
    e = multiply_add(e, r, splat(0x1.6c16c2p-10f));
    e = multiply_add(e, r, splat(0x1.111112p-7f));
    e = multiply_add(e, r, splat(0x1.555556p-5f));
    e = multiply_add(e, r, splat(0x1.555556p-3f));
    e = multiply_add(e, r, splat(0.5f));
    e = multiply_add(e * r, r, r) + 1.0f;
    vector_int power = (vector_int)shifted - 0x4b400000;
    vector_int half = power >> 1;
    return e * (vector)((half + 127) << 23) * (vector)((power - half + 127) << 23);
}

/* 1 / (1 + e^-x), without overflow. */
INLINE vector sigmoid(vector x) {
    vector e = exponential((vector)((vector_int)x | INT32_MIN));
    return choose(x < 0.0f, e, splat(1.0f)) / (e + 1.0f);
}

INLINE vector unit_value(vector gate, vector up, zm_activation activation) {
    if (activation == ZM_ACTIVATION_SWIGLU) return gate * sigmoid(gate) * up;
    if (activation == ZM_ACTIVATION_GEGLU) {
        /* gate (1 + tanh u) / 2 = gate sigmoid(2 u), u = sqrt(2 / pi) (gate + 0.044715 gate^3) */
        vector cubic = gate * multiply_add(gate * gate, splat(0.044715f), splat(1.0f));
        return gate * sigmoid(cubic * 0x1.988454p0f) * up;
    }
    gate = choose(gate > 7.0f, splat(7.0f), gate);
    up = choose(up > 7.0f, splat(7.0f), choose(up < -7.0f, splat(-7.0f), up));
    return gate * sigmoid(gate * 1.702f) * (up + 1.0f);
}

INLINE void activate_all(float *result, const float *gate, const float *up, size_t count,
                         zm_activation activation) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        store_vector(result + i, unit_value(load_vector(gate + i), load_vector(up + i), activation));
    if (i == count) return;
    float gates[LANES] = {0}, ups[LANES] = {0};
    memcpy(gates, gate + i, (count - i) * sizeof *gate);
    memcpy(ups, up + i, (count - i) * sizeof *up);
    store_vector(gates, unit_value(load_vector(gates), load_vector(ups), activation));
    memcpy(result + i, gates, (count - i) * sizeof *result);
}

static void activate(float *result, const float *gate, const float *up, size_t count,
                     zm_activation activation) {
    if (activation == ZM_ACTIVATION_SWIGLU) activate_all(result, gate, up, count, ZM_ACTIVATION_SWIGLU);
    else if (activation == ZM_ACTIVATION_GEGLU) activate_all(result, gate, up, count, ZM_ACTIVATION_GEGLU);
    else activate_all(result, gate, up, count, ZM_ACTIVATION_SWIGLU_OAI);
}

static void sigmoid_all(float *result, const float *x, size_t count) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) store_vector(result + i, sigmoid(load_vector(x + i)));
    if (i == count) return;
    float values[LANES] = {0};
    memcpy(values, x + i, (count - i) * sizeof *x);
    store_vector(values, sigmoid(load_vector(values)));
    memcpy(result + i, values, (count - i) * sizeof *result);
}

static float largest(const float *x, size_t count) {
    size_t i = 0;
    vector most = splat(x[0]);
    for (; i + LANES <= count; i += LANES) {
        vector values = load_vector(x + i);
        most = choose(values > most, values, most);
    }
    float lanes[LANES], result = x[0];
    store_vector(lanes, most);
    for (int lane = 0; lane < LANES; lane++) result = lanes[lane] > result ? lanes[lane] : result;
    for (; i < count; i++) result = x[i] > result ? x[i] : result;
    return result;
}

static float sum_exponentials(const float *x, size_t count, float shift) {
    size_t i = 0;
    vector sum = {0};
    for (; i + LANES <= count; i += LANES) sum += exponential(load_vector(x + i) - shift);
    if (i < count) {
        float rest[LANES];
        for (size_t lane = 0; lane < LANES; lane++) rest[lane] = i + lane < count ? x[i + lane] : -INFINITY;
        sum += exponential(load_vector(rest) - shift);
    }
    return sum_lanes(sum);
}
