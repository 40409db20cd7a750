/* SPDX-License-Identifier: MIT */
#include "mlx/cuda/pool.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "mlx/backend/cuda/device.h"
#include "mlx/backend/cuda/utils.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"

namespace mx = mlx::core;

namespace {

using Buffers = std::vector<mx::array>;

bool is_free(const mx::array &buffer) { return buffer.data_shared_ptr().use_count() == 1; }

/* Memory of the device, made by what stream runs before anything encoded later. */
mx::array new_buffer(size_t bytes, mx::Stream stream) {
    mx::array fresh = mx::arange(0.0, static_cast<double>(bytes / sizeof(float)), 1.0, mx::float32, stream);
    Buffers results{fresh};
    fresh.primitive().eval_gpu(fresh.inputs(), results);
    fresh.detach();
    return fresh;
}

class Pool {
public:
    /* most: bytes of buffers that nothing refers to, which are kept. */
    explicit Pool(size_t most) : most_(most) {}

    void give(mx::array &array, size_t bytes, mx::Stream stream) {
        std::lock_guard<std::mutex> lock(mutex_);
        const Place place{stream.index, bytes};
        for (const mx::array &buffer : buffers_[place])
            if (is_free(buffer)) return share(array, buffer);
        trim();
        buffers_[place].push_back(new_buffer(bytes, stream));
        share(array, buffers_[place].back());
    }

private:
    /* A stream's index, and bytes. The kernel that writes a result which nobody read may still be under way, so only
     * its own stream may write there again. */
    using Place = std::pair<int, size_t>;
    size_t most_;
    std::mutex mutex_;
    std::map<Place, Buffers> buffers_;

    void trim() {
        size_t unused = 0;
        for (const auto &[place, list] : buffers_)
            unused += place.second * static_cast<size_t>(std::count_if(list.begin(), list.end(), is_free));
        if (unused <= most_) return;
        for (auto &[place, list] : buffers_) list.erase(std::remove_if(list.begin(), list.end(), is_free), list.end());
    }
    static void share(mx::array &array, const mx::array &buffer) {
        mx::Strides strides(array.ndim());
        int64_t stride = 1;
        for (size_t i = array.ndim(); i-- > 0; stride *= array.shape(static_cast<int>(i))) strides[i] = stride;
        array.copy_shared_buffer(buffer, strides, {true, true, array.size() <= 1 || array.ndim() <= 1}, array.size());
    }
};

/* bytes in whole grains. MLX has memory that the host reads without a copy for arrays of a scalar. */
size_t in_grains(size_t bytes, size_t grain) {
    constexpr size_t scalar = 8;
    return bytes <= scalar ? scalar : (bytes + grain - 1) / grain * grain;
}

constexpr size_t least_grain = 512;

/* Where a dimension is 1 its stride says nothing. */
bool is_in_rows(const mx::array &array) {
    int64_t stride = 1;
    for (int i = static_cast<int>(array.ndim()) - 1; i >= 0; stride *= array.shape(i--))
        if (array.shape(i) != 1 && array.strides(i) != stride) return false;
    return true;
}

}  // namespace

/* What is static here is never destroyed: MLX may still be running at exit. */
uint64_t zm::workspace(size_t bytes, mx::Stream stream) {
    constexpr size_t grain = 1 << 20;
    static std::mutex *mutex = new std::mutex;
    static auto *workspaces = new std::map<int, mx::array>; /* of a stream */
    std::lock_guard<std::mutex> lock(*mutex);
    auto own = workspaces->find(stream.index);
    if (own == workspaces->end() || own->second.nbytes() < bytes) {
        mx::array larger = new_buffer((bytes / grain + 1) * grain, stream);
        /* Kernels may still use the one before. */
        if (own != workspaces->end()) mx::cu::get_command_encoder(stream).add_temporary(own->second);
        own = workspaces->insert_or_assign(stream.index, larger).first;
    }
    return reinterpret_cast<uint64_t>(mx::gpu_ptr<void>(own->second));
}

void zm::give_buffer(mx::array &array, mx::Stream stream) {
    static Pool *pool = new Pool(std::numeric_limits<size_t>::max());
    pool->give(array, in_grains(array.nbytes(), least_grain), stream);
}

void zm::give_shared_buffer(mx::array &array, mx::Stream stream) {
    static Pool *pool = new Pool(size_t{1} << 30);
    size_t grain = least_grain;
    while (grain * 16 < array.nbytes()) grain *= 2;
    pool->give(array, in_grains(array.nbytes(), grain), stream);
}

mx::array zm::copy_in_rows(const mx::array &input, mx::Stream stream) {
    mx::array copy = mx::contiguous(input, false, stream);
    Buffers copies{copy};
    copy.primitive().eval_gpu(copy.inputs(), copies);
    copy.detach();
    mx::cu::get_command_encoder(stream).add_temporary(copy);
    return copy;
}

mx::array zm::in_rows(const mx::array &input, mx::Stream stream) {
    return is_in_rows(input) ? input : copy_in_rows(input, stream);
}
