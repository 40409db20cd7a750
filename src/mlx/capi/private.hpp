/* SPDX-License-Identifier: MIT */
/* What the files of this folder share: the exception guard and the conversions between handles and
 * MLX's objects. */
#ifndef ZM_MLX_CAPI_PRIVATE_HPP
#define ZM_MLX_CAPI_PRIVATE_HPP

#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "mlx/c/mlx.h"
#include "mlx/dtypes.hpp"
#include "mlx/mlx.h"

namespace zm::capi {

namespace mx = mlx::core;

using DeviceInfo = std::unordered_map<std::string, std::variant<std::string, size_t>>;
using Arrays = std::vector<mx::array>;
using Function = std::function<Arrays(const Arrays &)>;

/* Passes text to the error handler as it is: never as a format string. */
void report(const char *text) noexcept;

/* Runs body; an exception goes to the error handler. */
template <typename Body>
bool guard(const Body &body) noexcept {
    try {
        body();
        return true;
    } catch (const std::exception &exception) {
        report(exception.what());
    } catch (...) {
        report("unknown exception");
    }
    return false;
}

/* The status of a function of mlx-c: 0, or 1 after an exception. */
template <typename Body>
int attempt(const Body &body) noexcept {
    return guard(body) ? 0 : 1;
}

/* What body returns, or fallback after an exception. */
template <typename Result, typename Body>
Result value_or(Result fallback, const Body &body) noexcept {
    guard([&] { fallback = body(); });
    return fallback;
}

/* The object behind a handle; an empty handle is an error. */
template <typename Object, typename Handle>
Object &object(Handle handle) {
    if (!handle.ctx) throw std::invalid_argument("expected a non-empty MLX handle");
    return *static_cast<Object *>(handle.ctx);
}

inline mx::array &get(mlx_array handle) { return object<mx::array>(handle); }
inline mx::Device &get(mlx_device handle) { return object<mx::Device>(handle); }
inline mx::Stream &get(mlx_stream handle) { return object<mx::Stream>(handle); }
inline std::string &get(mlx_string handle) { return object<std::string>(handle); }
inline Arrays &get(mlx_vector_array handle) { return object<Arrays>(handle); }
inline Function &get(mlx_closure handle) { return object<Function>(handle); }
inline DeviceInfo &get(mlx_device_info handle) { return object<DeviceInfo>(handle); }
inline mx::ValueAndGradFn &get(mlx_closure_value_and_grad handle) {
    return object<mx::ValueAndGradFn>(handle);
}

inline std::optional<mx::array> optional(mlx_array handle) {
    return handle.ctx ? std::make_optional(get(handle)) : std::nullopt;
}
inline std::optional<int> optional(mlx_optional_int value) {
    return value.has_value ? std::make_optional(value.value) : std::nullopt;
}
inline std::optional<float> optional(mlx_optional_float value) {
    return value.has_value ? std::make_optional(value.value) : std::nullopt;
}

inline mx::Shape shape_of(const int *values, size_t count) { return mx::Shape(values, values + count); }
inline std::vector<int> ints_of(const int *values, size_t count) {
    return std::vector<int>(values, values + count);
}

using zm::to_c;
using zm::to_cpp;
mx::Device::DeviceType to_cpp(mlx_device_type type);

inline std::optional<mx::Dtype> optional(mlx_optional_dtype dtype) {
    return dtype.has_value ? std::make_optional(to_cpp(dtype.value)) : std::nullopt;
}

/* Puts a new value into a handle, reusing its object. */
template <typename Handle, typename Value>
void put(Handle &handle, Value value) {
    if (handle.ctx)
        *static_cast<Value *>(handle.ctx) = std::move(value);
    else
        handle.ctx = new Value(std::move(value));
}

/* *result = body(), the shape of nearly every function here. */
template <typename Handle, typename Body>
int assign(Handle *result, const Body &body) noexcept {
    return attempt([&] { put(*result, body()); });
}

/* A new handle of body(), empty after an exception. */
template <typename Handle, typename Body>
Handle make(const Body &body) noexcept {
    Handle handle{};
    guard([&] { put(handle, body()); });
    return handle;
}

template <typename Object, typename Handle>
int release(Handle handle) noexcept {
    return attempt([&] { delete static_cast<Object *>(handle.ctx); });
}

}  // namespace zm::capi

#endif
