/* SPDX-License-Identifier: MIT */
/* A kernel as a node of the graph that MLX's command encoder is building. MLX's own custom kernel hashes its code at
 * every launch, which costs more than the launch. */
#include "mlx/launch.hpp"

#include <map>
#include <mutex>
#include <utility>

#include "mlx/backend/cuda/device.h"
#include "mlx/backend/cuda/utils.h"
#include "mlx/cuda/driver.hpp"
#include "mlx/cuda/pool.hpp"

namespace mx = mlx::core;

namespace {

/* By the addresses of code and symbol, which stay. */
class Functions {
public:
    CUfunction get(const zm_gpu_launch &launch) {
        std::lock_guard<std::mutex> lock(mutex_);
        Function &function = functions_[{launch.code, launch.name}];
        if (!function.handle) function.handle = load(launch);
        if (launch.shared_bytes > function.shared_bytes) {
            zm::check(zm::driver().function_set(function.handle, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                                launch.shared_bytes),
                      "cuFuncSetAttribute");
            function.shared_bytes = launch.shared_bytes;
        }
        return function.handle;
    }

private:
    struct Function {
        CUfunction handle = nullptr;
        int shared_bytes = 0; /* allowed */
    };
    std::mutex mutex_;
    std::map<std::pair<const char *, const char *>, Function> functions_;

    static CUfunction load(const zm_gpu_launch &launch) {
        const zm::Driver &driver = zm::driver();
        CUmodule module;
        CUfunction function;
        mx::cu::device(mx::Device(mx::Device::gpu, 0)).make_current();
        zm::check(driver.module_load(&module, launch.code), "cuModuleLoadData");
        zm::check(driver.module_function(&function, module, launch.name), "cuModuleGetFunction");
        return function;
    }
};

/* Never destroyed: the driver may be gone at exit. */
Functions &functions() {
    static Functions *made = new Functions;
    return *made;
}

}  // namespace

bool zm::can_launch_directly() { return zm::driver().complete; }

void zm::launch_directly(const zm_gpu_launch &launch, const std::vector<mx::array> &inputs,
                         std::vector<mx::array> &outputs, mx::Stream stream) {
    auto &encoder = mx::cu::get_command_encoder(stream);
    CUfunction function = functions().get(launch);
    /* Copies and new buffers are kernels of MLX, so all of them come before this kernel's arrays are named to the
     * encoder. */
    std::vector<mx::array> rows;
    for (const mx::array &input : inputs) /* as the node has told its class, which knows their alignment */
        rows.push_back(input.flags().row_contiguous ? input : zm::copy_in_rows(input, stream));
    for (mx::array &output : outputs) zm::give_shared_buffer(output, stream);
    std::vector<void *> addresses, arguments;
    for (const mx::array &input : rows) {
        encoder.set_input_array(input);
        addresses.push_back(mx::gpu_ptr<void>(input));
    }
    for (const mx::array &output : outputs) {
        encoder.set_output_array(output);
        addresses.push_back(mx::gpu_ptr<void>(output));
    }
    for (void *&address : addresses) arguments.push_back(&address);
    for (int i = 0; i < launch.n_scalars; i++) arguments.push_back(const_cast<uint32_t *>(&launch.scalars[i]));
    dim3 grid(static_cast<unsigned>((launch.grid + launch.block - 1) / launch.block)),
        block(static_cast<unsigned>(launch.block));
    encoder.add_kernel_node_raw(function, grid, block, {}, static_cast<uint32_t>(launch.shared_bytes),
                                arguments.data());
}
