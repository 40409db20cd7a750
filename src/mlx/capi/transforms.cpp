/* SPDX-License-Identifier: MIT */
/* mlx-c subset: evaluation, closures, transformations of functions. */
#include "private.hpp"

#include "mlx/transforms_impl.h"

using namespace zm::capi;

namespace {

/* Calls a C closure function on borrowed inputs and takes its outputs. */
template <typename Call>
Arrays call_closure(const Arrays &inputs, const Call &call) {
    mlx_vector_array input{const_cast<Arrays *>(&inputs)};
    mlx_vector_array output{};
    int status = call(&output, input);
    std::unique_ptr<Arrays> owned(static_cast<Arrays *>(output.ctx));
    if (status) throw std::runtime_error("a closure returned a non-zero value");
    return owned ? std::move(*owned) : Arrays();
}

/* Sets two results from a pair of vectors. */
template <typename Body>
int assign_pair(mlx_vector_array *first, mlx_vector_array *second, const Body &body) noexcept {
    return attempt([&] {
        auto [a, b] = body();
        put(*first, std::move(a));
        put(*second, std::move(b));
    });
}

}  // namespace

int mlx_eval(const mlx_vector_array outputs) {
    return attempt([&] { mx::eval(get(outputs)); });
}

int mlx_async_eval(const mlx_vector_array outputs) {
    return attempt([&] { mx::async_eval(get(outputs)); });
}

mlx_closure mlx_closure_new(void) { return mlx_closure{}; }

int mlx_closure_free(mlx_closure cls) { return release<Function>(cls); }

mlx_closure mlx_closure_new_func(int (*fun)(mlx_vector_array *, const mlx_vector_array)) {
    return make<mlx_closure>(
        [&] { return Function([fun](const Arrays &inputs) { return call_closure(inputs, fun); }); });
}

mlx_closure mlx_closure_new_func_payload(int (*fun)(mlx_vector_array *, const mlx_vector_array, void *),
                                         void *payload, void (*dtor)(void *)) {
    return make<mlx_closure>([&] {
        std::shared_ptr<void> owner(payload, dtor ? dtor : [](void *) {});
        return Function([fun, owner](const Arrays &inputs) {
            return call_closure(inputs, [&](mlx_vector_array *output, mlx_vector_array input) {
                return fun(output, input, owner.get());
            });
        });
    });
}

int mlx_closure_apply(mlx_vector_array *res, mlx_closure cls, const mlx_vector_array input) {
    return assign(res, [&] { return get(cls)(get(input)); });
}

mlx_closure_value_and_grad mlx_closure_value_and_grad_new(void) { return mlx_closure_value_and_grad{}; }

int mlx_closure_value_and_grad_free(mlx_closure_value_and_grad cls) {
    return release<mx::ValueAndGradFn>(cls);
}

int mlx_closure_value_and_grad_apply(mlx_vector_array *res_0, mlx_vector_array *res_1,
                                     mlx_closure_value_and_grad cls, const mlx_vector_array input) {
    return assign_pair(res_0, res_1, [&] { return get(cls)(get(input)); });
}

int mlx_value_and_grad(mlx_closure_value_and_grad *res, const mlx_closure fun, const int *argnums,
                       size_t argnums_num) {
    return assign(res, [&] { return mx::value_and_grad(get(fun), ints_of(argnums, argnums_num)); });
}

int mlx_vjp(mlx_vector_array *res_0, mlx_vector_array *res_1, const mlx_closure fun,
            const mlx_vector_array primals, const mlx_vector_array cotangents) {
    return assign_pair(res_0, res_1, [&] { return mx::vjp(get(fun), get(primals), get(cotangents)); });
}

int mlx_jvp(mlx_vector_array *res_0, mlx_vector_array *res_1, const mlx_closure fun,
            const mlx_vector_array primals, const mlx_vector_array tangents) {
    return assign_pair(res_0, res_1, [&] { return mx::jvp(get(fun), get(primals), get(tangents)); });
}

int mlx_compile(mlx_closure *res, const mlx_closure fun, bool shapeless) {
    return assign(res, [&] { return mx::compile(get(fun), shapeless); });
}

int mlx_detail_vmap_trace(mlx_vector_array *res_0, mlx_vector_array *res_1, const mlx_closure fun,
                          const mlx_vector_array inputs, const int *in_axes, size_t in_axes_num) {
    return assign_pair(res_0, res_1, [&] {
        return mx::detail::vmap_trace(get(fun), get(inputs), ints_of(in_axes, in_axes_num));
    });
}

int mlx_detail_vmap_replace(mlx_vector_array *res, const mlx_vector_array inputs,
                            const mlx_vector_array s_inputs, const mlx_vector_array s_outputs,
                            const int *in_axes, size_t in_axes_num, const int *out_axes,
                            size_t out_axes_num) {
    return assign(res, [&] {
        return mx::detail::vmap_replace(get(inputs), get(s_inputs), get(s_outputs),
                                        ints_of(in_axes, in_axes_num), ints_of(out_axes, out_axes_num));
    });
}
