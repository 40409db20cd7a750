/* SPDX-License-Identifier: MIT */
/* The pool is filled at first use: MLX looks a stream up without a lock, so none may be added while
 * another thread evaluates. */
#include <memory>
#include <mutex>
#include <vector>

#include "mlx/mlx.h"

extern "C" {
#include "base/error.h"
#include "mlx/streams.h"
}

namespace mx = mlx::core;

namespace {

struct Slot {
    mx::Stream stream;
    bool used;
};

struct Pool {
    std::mutex mutex;
    std::vector<Slot> slots;
};

Pool &pool_of(bool gpu) {
    static Pool pools[2];
    return pools[gpu];
}

mx::Stream take_stream(bool gpu) {
    Pool &pool = pool_of(gpu);
    size_t size = gpu ? ZM_MAX_GPU_STREAMS : ZM_MAX_CPU_STREAMS;
    std::lock_guard<std::mutex> lock(pool.mutex);
    pool.slots.reserve(size);
    while (pool.slots.size() < size) {
        auto device = gpu ? mx::Device::gpu : mx::Device::cpu;
        pool.slots.push_back({mx::new_thread_unsafe_stream(device), false});
    }
    for (Slot &slot : pool.slots) {
        if (slot.used) continue;
        slot.used = true;
        return slot.stream;
    }
    throw std::runtime_error("too many streams in use: " + std::to_string(size));
}

void give_stream_back(const mx::Stream &stream) {
    Pool &pool = pool_of(stream.device == mx::Device::gpu);
    std::lock_guard<std::mutex> lock(pool.mutex);
    for (Slot &slot : pool.slots)
        if (slot.stream == stream) slot.used = false;
}

}  // namespace

zmlx_status zm_stream_new(mlx_stream *stream, mlx_device_type device, zmlx_error *error) {
    *stream = mlx_stream{};
    if (device != MLX_CPU && device != MLX_GPU)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "device", "%d is none", static_cast<int>(device));
    try {
        if (device == MLX_GPU && !mx::is_available(mx::Device::gpu))
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, nullptr, "MLX has no GPU here");
        stream->ctx = new mx::Stream(take_stream(device == MLX_GPU));
        return ZMLX_OK;
    } catch (const std::exception &exception) {
        return zm_fail(error, ZMLX_ERROR_MLX, nullptr, "%s", exception.what());
    }
}

void zm_stream_free(mlx_stream stream) {
    if (!stream.ctx) return;
    mlx_synchronize(stream);
    give_stream_back(*static_cast<mx::Stream *>(stream.ctx));
    mlx_stream_free(stream);
}

mlx_stream zm_default_stream_begin(mlx_stream stream) {
    if (!stream.ctx) return mlx_stream{};
    try {
        const mx::Stream &own = *static_cast<mx::Stream *>(stream.ctx);
        auto before = std::make_unique<mx::Stream>(mx::default_stream(own.device));
        mx::set_default_stream(own);
        return mlx_stream{before.release()};
    } catch (const std::exception &) {
        return mlx_stream{};
    }
}

void zm_default_stream_end(mlx_stream before) {
    std::unique_ptr<mx::Stream> own(static_cast<mx::Stream *>(before.ctx));
    if (own) mx::set_default_stream(*own);
}
