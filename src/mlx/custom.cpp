/* SPDX-License-Identifier: MIT */
#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/mlx.h"
#include "mlx/transforms.h"

extern "C" {
#include "base/error.h"
#include "mlx/custom.h"
}

namespace mx = mlx::core;

namespace {

using Arrays = std::vector<mx::array>;

mlx_array borrow(const mx::array &array) { return mlx_array{const_cast<mx::array *>(&array)}; }

std::vector<mlx_array> borrow(const Arrays &arrays) {
    std::vector<mlx_array> handles;
    for (const mx::array &array : arrays) handles.push_back(borrow(array));
    return handles;
}

Arrays copy(const mlx_array *handles, int count) {
    Arrays arrays;
    for (int i = 0; i < count; i++) {
        if (!handles[i].ctx) throw std::invalid_argument("an array is empty");
        arrays.push_back(*static_cast<mx::array *>(handles[i].ctx));
    }
    return arrays;
}

struct Gradient {
    std::string name;
    zm_custom_gradient *function;
    std::vector<char> context;
    mx::Stream stream;

    Arrays operator()(const Arrays &primals, const Arrays &cotangents, const Arrays &) const {
        std::vector<mlx_array> inputs = borrow(primals), given = borrow(cotangents), made(primals.size(), mlx_array{});
        mx::Stream own = stream;
        zmlx_error error;
        zmlx_status status = function(context.data(), made.data(), inputs.data(), static_cast<int>(inputs.size()), given.data(),
                                      static_cast<int>(given.size()), mlx_stream{&own}, &error);
        Arrays gradients;
        for (const mlx_array &handle : made) {
            if (!status && handle.ctx) gradients.push_back(*static_cast<mx::array *>(handle.ctx));
            mlx_array_free(handle);
        }
        if (status) throw std::runtime_error(name + ": " + error.message);
        if (gradients.size() != primals.size()) throw std::runtime_error(name + ": a gradient is missing");
        return gradients;
    }
};

}  // namespace

zmlx_status zm_custom_vjp(mlx_array *outputs, int n_outputs, const mlx_array *inputs, int n_inputs, const char *name,
                          zm_custom_gradient *gradient, const void *context, size_t size, mlx_stream stream,
                          zmlx_error *error) {
    try {
        const char *bytes = static_cast<const char *>(context);
        Arrays results = copy(outputs, n_outputs), arguments = copy(inputs, n_inputs);
        std::string refused = name;
        auto function = mx::custom_function(
            [results](const Arrays &) { return results; },
            Gradient{name, gradient, std::vector<char>(bytes, bytes + size), *static_cast<mx::Stream *>(stream.ctx)},
            [refused](const Arrays &, const Arrays &, const std::vector<int> &) -> Arrays {
                throw std::runtime_error(refused + " has no forward-mode derivative");
            },
            [refused](const Arrays &, const std::vector<int> &) -> std::pair<Arrays, std::vector<int>> {
                throw std::runtime_error(refused + " cannot be batched by vmap");
            });
        Arrays made = function(arguments);
        for (int i = 0; i < n_outputs; i++) *static_cast<mx::array *>(outputs[i].ctx) = made[static_cast<size_t>(i)];
        return ZMLX_OK;
    } catch (const std::exception &exception) {
        return zm_fail(error, ZMLX_ERROR_MLX, name, "%s", exception.what());
    }
}

zmlx_status zm_evaluate_after(mlx_array *array, mlx_array other, zmlx_error *error) {
    if (!other.ctx) return ZMLX_OK;
    try {
        mx::array &own = *static_cast<mx::array *>(array->ctx);
        own = mx::depends({own}, {*static_cast<mx::array *>(other.ctx)})[0];
        return ZMLX_OK;
    } catch (const std::exception &exception) {
        return zm_fail(error, ZMLX_ERROR_MLX, nullptr, "%s", exception.what());
    }
}
