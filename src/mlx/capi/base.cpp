/* SPDX-License-Identifier: MIT */
/* mlx-c subset: errors, strings, version, memory. */
#include <mutex>

#include "private.hpp"

using namespace zm::capi;

namespace {

struct Handler {
    mlx_error_handler_func function = nullptr;
    std::shared_ptr<void> data;
};

std::mutex handler_mutex;
Handler handler;

}  // namespace

void zm::capi::report(const char *text) noexcept {
    Handler current;
    {
        std::lock_guard<std::mutex> lock(handler_mutex);
        current = handler;
    }
    if (current.function) current.function(text, current.data.get());
}

void mlx_set_error_handler(mlx_error_handler_func function, void *data, void (*dtor)(void *)) {
    guard([&] {
        Handler next{function, std::shared_ptr<void>(data, dtor ? dtor : [](void *) {})};
        std::lock_guard<std::mutex> lock(handler_mutex);
        std::swap(handler, next);
    });
}

mlx_string mlx_string_new(void) { return mlx_string{}; }

const char *mlx_string_data(mlx_string str) {
    return value_or<const char *>(nullptr, [&] { return get(str).c_str(); });
}

int mlx_string_free(mlx_string str) { return release<std::string>(str); }

int mlx_version(mlx_string *str) {
    return assign(str, [] { return std::string(mx::version()); });
}

int mlx_clear_cache(void) { return attempt([] { mx::clear_cache(); }); }

int mlx_get_active_memory(size_t *res) {
    return attempt([&] { *res = mx::get_active_memory(); });
}

int mlx_get_peak_memory(size_t *res) {
    return attempt([&] { *res = mx::get_peak_memory(); });
}

int mlx_reset_peak_memory(void) { return attempt([] { mx::reset_peak_memory(); }); }

int mlx_set_cache_limit(size_t *res, size_t limit) {
    return attempt([&] { *res = mx::set_cache_limit(limit); });
}
