/* SPDX-License-Identifier: MIT */
/* mlx-c subset: devices and streams. */
#include "private.hpp"

using namespace zm::capi;

namespace {

/* mlx-c's status for a key that is missing or of another type. */
constexpr int not_found = 2;

template <typename Type, typename Take>
int look_up(mlx_device_info info, const char *key, const Take &take) noexcept {
    int status = not_found;
    bool finished = guard([&] {
        auto entry = get(info).find(key);
        if (entry == get(info).end()) return;
        if (const Type *value = std::get_if<Type>(&entry->second)) {
            take(*value);
            status = 0;
        }
    });
    return finished ? status : 1;
}

}  // namespace

mx::Device::DeviceType zm::capi::to_cpp(mlx_device_type type) {
    if (type == MLX_CPU) return mx::Device::cpu;
    if (type == MLX_GPU) return mx::Device::gpu;
    throw std::invalid_argument("unknown device type");
}

mlx_device mlx_device_new(void) { return mlx_device{}; }

mlx_device mlx_device_new_type(mlx_device_type type, int index) {
    return make<mlx_device>([&] { return mx::Device(to_cpp(type), index); });
}

int mlx_device_free(mlx_device dev) { return release<mx::Device>(dev); }

int mlx_device_get_type(mlx_device_type *type, mlx_device dev) {
    return attempt([&] { *type = get(dev).type == mx::Device::gpu ? MLX_GPU : MLX_CPU; });
}

int mlx_get_default_device(mlx_device *dev) {
    return assign(dev, [] { return mx::default_device(); });
}

int mlx_set_default_device(mlx_device dev) {
    return attempt([&] { mx::set_default_device(get(dev)); });
}

int mlx_device_is_available(bool *avail, mlx_device dev) {
    return attempt([&] { *avail = mx::is_available(get(dev)); });
}

mlx_device_info mlx_device_info_new(void) { return mlx_device_info{}; }

int mlx_device_info_get(mlx_device_info *info, mlx_device dev) {
    return assign(info, [&] { return DeviceInfo(mx::device_info(get(dev))); });
}

int mlx_device_info_free(mlx_device_info info) { return release<DeviceInfo>(info); }

int mlx_device_info_get_string(const char **value, mlx_device_info info, const char *key) {
    return look_up<std::string>(info, key, [&](const std::string &found) { *value = found.c_str(); });
}

int mlx_device_info_get_size(size_t *value, mlx_device_info info, const char *key) {
    return look_up<size_t>(info, key, [&](size_t found) { *value = found; });
}

int mlx_stream_set(mlx_stream *stream, const mlx_stream src) {
    return assign(stream, [&] { return get(src); });
}

int mlx_stream_free(mlx_stream stream) { return release<mx::Stream>(stream); }

bool mlx_stream_equal(mlx_stream lhs, mlx_stream rhs) {
    return value_or(false, [&] { return get(lhs) == get(rhs); });
}

int mlx_stream_get_device(mlx_device *dev, mlx_stream stream) {
    return assign(dev, [&] { return get(stream).device; });
}

int mlx_stream_get_index(int *index, mlx_stream stream) {
    return attempt([&] { *index = get(stream).index; });
}

int mlx_synchronize(mlx_stream stream) {
    return attempt([&] { mx::synchronize(get(stream)); });
}

mlx_stream mlx_default_cpu_stream_new(void) {
    return make<mlx_stream>([] { return mx::default_stream(mx::Device::cpu); });
}
