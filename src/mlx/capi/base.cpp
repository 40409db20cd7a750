/* SPDX-License-Identifier: MIT */
/* mlx-c subset: errors, strings, version, memory. */
#include <cstdarg>
#include <cstdio>
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

void _mlx_error(const char *file, const int line, const char *fmt, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, fmt);
    int length = std::vsnprintf(text, sizeof text, fmt, arguments);
    va_end(arguments);
    if (length >= 0 && static_cast<size_t>(length) < sizeof text)
        std::snprintf(text + length, sizeof text - static_cast<size_t>(length), " at %s:%d", file, line);
    report(text);
}

mlx_string mlx_string_new(void) { return mlx_string{}; }

mlx_string mlx_string_new_data(const char *str) {
    return make<mlx_string>([&] { return std::string(str); });
}

int mlx_string_set(mlx_string *str, const mlx_string src) {
    return assign(str, [&] { return get(src); });
}

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

int mlx_get_cache_memory(size_t *res) {
    return attempt([&] { *res = mx::get_cache_memory(); });
}

int mlx_get_memory_limit(size_t *res) {
    return attempt([&] { *res = mx::get_memory_limit(); });
}

int mlx_get_peak_memory(size_t *res) {
    return attempt([&] { *res = mx::get_peak_memory(); });
}

int mlx_reset_peak_memory(void) { return attempt([] { mx::reset_peak_memory(); }); }

int mlx_set_cache_limit(size_t *res, size_t limit) {
    return attempt([&] { *res = mx::set_cache_limit(limit); });
}

int mlx_set_memory_limit(size_t *res, size_t limit) {
    return attempt([&] { *res = mx::set_memory_limit(limit); });
}

int mlx_set_wired_limit(size_t *res, size_t limit) {
    return attempt([&] { *res = mx::set_wired_limit(limit); });
}
