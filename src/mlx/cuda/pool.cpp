/* SPDX-License-Identifier: MIT */
#include "mlx/cuda/pool.hpp"

#include <map>
#include <mutex>
#include <vector>

#include "mlx/backend/cuda/utils.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"

namespace mx = mlx::core;

namespace {

struct Pool {
    std::mutex mutex;
    std::map<size_t, std::vector<mx::array>> buffers; /* by size */
    std::map<int, std::vector<mx::array>> workspaces; /* of a stream; kernels may still use those before the last */
};

/* Never destroyed: MLX may still be running at exit. */
Pool &pool() {
    static Pool *made = new Pool;
    return *made;
}

/* Memory of the device, made by what stream runs before anything encoded later. */
mx::array new_buffer(size_t bytes, mx::Stream stream) {
    mx::array fresh = mx::arange(0.0, static_cast<double>(bytes / sizeof(float)), 1.0, mx::float32, stream);
    std::vector<mx::array> results{fresh};
    fresh.primitive().eval_gpu(fresh.inputs(), results);
    fresh.detach();
    return fresh;
}

}  // namespace

uint64_t zm::workspace(size_t bytes, mx::Stream stream) {
    constexpr size_t grain = 1 << 20;
    std::lock_guard<std::mutex> lock(pool().mutex);
    std::vector<mx::array> &own = pool().workspaces[stream.index];
    if (own.empty() || own.back().nbytes() < bytes) own.push_back(new_buffer((bytes / grain + 1) * grain, stream));
    return reinterpret_cast<uint64_t>(mx::gpu_ptr<void>(own.back()));
}

void zm::give_buffer(mx::array &array, mx::Stream stream) {
    constexpr size_t grain = 512;
    constexpr size_t scalar = 8; /* MLX has memory that the host reads without a copy for arrays so small */
    size_t bytes = array.nbytes() <= scalar ? scalar : (array.nbytes() + grain - 1) / grain * grain;
    mx::Strides strides(array.ndim());
    int64_t stride = 1;
    for (size_t i = array.ndim(); i-- > 0; stride *= array.shape(static_cast<int>(i))) strides[i] = stride;
    auto share = [&](const mx::array &buffer) {
        array.copy_shared_buffer(buffer, strides, {true, true, array.size() <= 1 || array.ndim() <= 1}, array.size());
    };
    std::lock_guard<std::mutex> lock(pool().mutex);
    std::vector<mx::array> &buffers = pool().buffers[bytes];
    for (const mx::array &buffer : buffers)
        if (buffer.data_shared_ptr().use_count() == 1) return share(buffer);
    buffers.push_back(new_buffer(bytes, stream));
    share(buffers.back());
}
