/* SPDX-License-Identifier: MIT */
/* mlx-c subset: products and layers. */
#include "private.hpp"

using namespace zm::capi;

int mlx_matmul(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::matmul(get(a), get(b), get(s)); });
}

int mlx_addmm(mlx_array *res, const mlx_array c, const mlx_array a, const mlx_array b, float alpha,
              float beta, const mlx_stream s) {
    return assign(res, [&] { return mx::addmm(get(c), get(a), get(b), alpha, beta, get(s)); });
}

int mlx_gather_mm(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_array lhs_indices,
                  const mlx_array rhs_indices, bool sorted_indices, const mlx_stream s) {
    return assign(res, [&] {
        return mx::gather_mm(get(a), get(b), optional(lhs_indices), optional(rhs_indices), sorted_indices,
                             get(s));
    });
}

int mlx_quantize(mlx_vector_array *res, const mlx_array w, mlx_optional_int group_size,
                 mlx_optional_int bits, const char *mode, const mlx_array global_scale,
                 const mlx_stream s) {
    return assign(res, [&] {
        return mx::quantize(get(w), optional(group_size), optional(bits), std::string(mode),
                            optional(global_scale), get(s));
    });
}

int mlx_from_fp8(mlx_array *res, const mlx_array x, mlx_dtype dtype, const mlx_stream s) {
    return assign(res, [&] { return mx::from_fp8(get(x), to_cpp(dtype), get(s)); });
}

int mlx_dequantize(mlx_array *res, const mlx_array w, const mlx_array scales, const mlx_array biases,
                   mlx_optional_int group_size, mlx_optional_int bits, const char *mode,
                   const mlx_array global_scale, mlx_optional_dtype dtype, const mlx_stream s) {
    return assign(res, [&] {
        return mx::dequantize(get(w), get(scales), optional(biases), optional(group_size), optional(bits),
                              std::string(mode), optional(global_scale), optional(dtype), get(s));
    });
}

int mlx_quantized_matmul(mlx_array *res, const mlx_array x, const mlx_array w, const mlx_array scales,
                         const mlx_array biases, bool transpose, mlx_optional_int group_size,
                         mlx_optional_int bits, const char *mode, const mlx_stream s) {
    return assign(res, [&] {
        return mx::quantized_matmul(get(x), get(w), get(scales), optional(biases), transpose,
                                    optional(group_size), optional(bits), std::string(mode), get(s));
    });
}

int mlx_gather_qmm(mlx_array *res, const mlx_array x, const mlx_array w, const mlx_array scales,
                   const mlx_array biases, const mlx_array lhs_indices, const mlx_array rhs_indices,
                   bool transpose, mlx_optional_int group_size, mlx_optional_int bits, const char *mode,
                   bool sorted_indices, const mlx_stream s) {
    return assign(res, [&] {
        return mx::gather_qmm(get(x), get(w), get(scales), optional(biases), optional(lhs_indices),
                              optional(rhs_indices), transpose, optional(group_size), optional(bits),
                              std::string(mode), std::nullopt, sorted_indices, get(s));
    });
}

int mlx_conv1d(mlx_array *res, const mlx_array input, const mlx_array weight, int stride, int padding,
               int dilation, int groups, const mlx_stream s) {
    return assign(res, [&] {
        return mx::conv1d(get(input), get(weight), stride, padding, dilation, groups, get(s));
    });
}

int mlx_fast_layer_norm(mlx_array *res, const mlx_array x, const mlx_array weight, const mlx_array bias, float eps,
                        const mlx_stream s) {
    return assign(res, [&] { return mx::fast::layer_norm(get(x), optional(weight), optional(bias), eps, get(s)); });
}

int mlx_fast_rms_norm(mlx_array *res, const mlx_array x, const mlx_array weight, float eps,
                      const mlx_stream s) {
    return assign(res, [&] { return mx::fast::rms_norm(get(x), optional(weight), eps, get(s)); });
}

int mlx_fast_rope(mlx_array *res, const mlx_array x, int dims, bool traditional, mlx_optional_float base,
                  float scale, int offset, const mlx_array freqs, const mlx_stream s) {
    return assign(res, [&] {
        return mx::fast::rope(get(x), dims, traditional, optional(base), scale, offset, optional(freqs),
                              get(s));
    });
}

int mlx_fast_scaled_dot_product_attention(mlx_array *res, const mlx_array queries, const mlx_array keys,
                                          const mlx_array values, float scale, const char *mask_mode,
                                          const mlx_array mask_arr, const mlx_array sinks,
                                          const mlx_stream s) {
    return assign(res, [&] {
        return mx::fast::scaled_dot_product_attention(get(queries), get(keys), get(values), scale,
                                                      std::string(mask_mode), optional(mask_arr),
                                                      optional(sinks), false, get(s));
    });
}
