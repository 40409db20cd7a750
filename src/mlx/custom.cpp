/* SPDX-License-Identifier: MIT */
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mlx/mlx.h"
#include "mlx/transforms.h"

extern "C" {
#include "base/error.h"
#include "mlx/custom.h"
#include "mlx/streams.h"
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

/* What both functions have. */
struct Shared {
    std::string name;
    std::vector<char> context;
    mx::Stream stream;
};

/* Calls function(arrays to fill, stream, error) and takes the arrays. */
template <typename Call>
Arrays collect(const Shared &shared, size_t count, const Call &function) {
    std::vector<mlx_array> made(count, mlx_array{});
    mx::Stream own = shared.stream;
    zmlx_error error;
    zmlx_status status = function(made.data(), mlx_stream{&own}, &error);
    Arrays arrays;
    for (const mlx_array &handle : made) {
        if (!status && handle.ctx) arrays.push_back(*static_cast<mx::array *>(handle.ctx));
        mlx_array_free(handle);
    }
    if (status) throw std::runtime_error(shared.name + ": " + error.message);
    if (arrays.size() != count) throw std::runtime_error(shared.name + ": an array is missing");
    return arrays;
}

struct Gradient {
    Shared shared;
    zm_custom_gradient *function;

    Arrays operator()(const Arrays &primals, const Arrays &cotangents, const Arrays &) const {
        std::vector<mlx_array> inputs = borrow(primals), given = borrow(cotangents);
        return collect(shared, primals.size(), [&](mlx_array *gradients, mlx_stream stream, zmlx_error *error) {
            return function(shared.context.data(), gradients, inputs.data(), static_cast<int>(inputs.size()),
                            given.data(), static_cast<int>(given.size()), stream, error);
        });
    }
};

/* The outputs as they were computed already the first time, which is that of the caller's inputs. */
struct Value {
    Shared shared;
    zm_custom_value *function;
    Arrays results;
    std::shared_ptr<bool> is_used;

    Arrays operator()(const Arrays &arguments) const {
        if (!*is_used || !function) {
            *is_used = true;
            return results;
        }
        std::vector<mlx_array> inputs = borrow(arguments);
        return collect(shared, results.size(), [&](mlx_array *outputs, mlx_stream stream, zmlx_error *error) {
            return function(shared.context.data(), outputs, inputs.data(), static_cast<int>(inputs.size()), stream,
                            error);
        });
    }
};

class OnStream {
public:
    explicit OnStream(mlx_stream stream) : before_(zm_default_stream_begin(stream)) {}
    ~OnStream() { zm_default_stream_end(before_); }
    OnStream(const OnStream &) = delete;
    OnStream &operator=(const OnStream &) = delete;

private:
    mlx_stream before_;
};

using Function = std::function<Arrays(const Arrays &)>;

Function make_function(const Value &value, const Gradient &gradient) {
    if (value.function) return mx::custom_function(value, gradient);
    std::string name = value.shared.name;
    return mx::custom_function(
        value, gradient,
        [name](const Arrays &, const Arrays &, const std::vector<int> &) -> Arrays {
            throw std::runtime_error(name + " has no forward-mode derivative");
        },
        [name](const Arrays &, const std::vector<int> &) -> std::pair<Arrays, std::vector<int>> {
            throw std::runtime_error(name + " cannot be batched by vmap");
        });
}

}  // namespace

zmlx_status zm_custom_vjp(mlx_array *outputs, int n_outputs, const mlx_array *inputs, int n_inputs, const char *name,
                          zm_custom_gradient *gradient, zm_custom_value *value, const void *context, size_t size,
                          mlx_stream stream, zmlx_error *error) {
    try {
        const char *bytes = static_cast<const char *>(context);
        Shared shared{name, std::vector<char>(bytes, bytes + size), *static_cast<mx::Stream *>(stream.ctx)};
        Function function = make_function({shared, value, copy(outputs, n_outputs), std::make_shared<bool>(false)},
                                          {shared, gradient});
        Arrays arguments = copy(inputs, n_inputs);
        OnStream own(stream);
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
