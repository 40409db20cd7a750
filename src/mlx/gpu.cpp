/* SPDX-License-Identifier: MIT */
#include "mlx/backend/cuda/cuda.h"
#include "mlx/backend/metal/metal.h"
#include "mlx/device.h"

extern "C" {
#include "mlx/gpu.h"
}

namespace mx = mlx::core;

namespace {

struct Gpu {
    zm_gpu_kind kind = ZM_GPU_NONE;
    int capability = 0;

    Gpu() noexcept {
        try {
            find();
        } catch (...) { /* a device without its facts counts as none */
        }
    }

    void find() {
        if (mx::metal::is_available()) {
            kind = ZM_GPU_METAL;
        } else if (mx::cu::is_available()) {
            auto &info = mx::device_info(mx::Device(mx::Device::gpu, 0));
            auto number = [&](const char *key) { return static_cast<int>(std::get<size_t>(info.at(key))); };
            capability = 10 * number("compute_capability_major") + number("compute_capability_minor");
            kind = ZM_GPU_CUDA;
        }
    }
};

}  // namespace

zm_gpu_kind zm_gpu_get(int *compute_capability) {
    static const Gpu gpu;
    if (compute_capability) *compute_capability = gpu.capability;
    return gpu.kind;
}
