/* SPDX-License-Identifier: MIT */
#include "mlx/launch.hpp"

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string_view>

#include "mlx/fast.h"
#include "mlx/primitives.h"

namespace mx = mlx::core;

namespace {

using Arrays = std::vector<mx::array>;
using Size = std::tuple<int, int, int>;

/* The grid of MLX counts threads with int, so a long one is spread over two dimensions of whole blocks; kernels
 * take block y * blocks of x + x as their number and ignore those past the end. */
Size spread(int64_t grid, int block) {
    constexpr int64_t most = int64_t{1} << 30;
    if (grid <= most) return {static_cast<int>(grid), 1, 1};
    int64_t wide = most / block * block, rows = (grid + wide - 1) / wide;
    if (rows > 65535) throw std::invalid_argument("the array is too large for one launch");
    return {static_cast<int>(wide), static_cast<int>(rows), 1};
}

std::vector<mx::Shape> shapes_of(const Arrays &arrays) {
    std::vector<mx::Shape> shapes;
    for (const mx::array &array : arrays) shapes.push_back(array.shape());
    return shapes;
}

std::vector<mx::Dtype> dtypes_of(const Arrays &arrays) {
    std::vector<mx::Dtype> dtypes;
    for (const mx::array &array : arrays) dtypes.push_back(array.dtype());
    return dtypes;
}

/* MLX's primitive of a CUDA kernel holds a copy of the code and the scalars; it says nothing about arrays, so one
 * serves all launches that differ in arrays alone. */
class Launches {
public:
    std::shared_ptr<mx::Primitive> get(const zm_gpu_launch &launch, const Arrays &inputs, const Arrays &outputs,
                                       mx::Stream stream) {
        std::vector<uint64_t> key{reinterpret_cast<uintptr_t>(launch.code), static_cast<uint64_t>(launch.grid),
                                  static_cast<uint64_t>(launch.block), static_cast<uint64_t>(launch.shared_bytes),
                                  static_cast<uint64_t>(stream.index), std::hash<std::string_view>()(launch.name)};
        key.insert(key.end(), launch.scalars, launch.scalars + launch.n_scalars);
        std::lock_guard<std::mutex> lock(mutex_);
        std::shared_ptr<mx::Primitive> &primitive = primitives_[key];
        if (primitive) return primitive;
        constexpr size_t most = 256; /* seeds make a new one each time */
        std::shared_ptr<mx::Primitive> made = primitive = make(launch, inputs, outputs, stream);
        if (primitives_.size() > most) primitives_.clear();
        return made;
    }

private:
    std::mutex mutex_;
    std::map<std::vector<uint64_t>, std::shared_ptr<mx::Primitive>> primitives_;

    static std::shared_ptr<mx::Primitive> make(const zm_gpu_launch &launch, const Arrays &inputs, const Arrays &outputs,
                                               mx::Stream stream) {
        std::vector<mx::fast::ScalarArg> scalars;
        for (int i = 0; i < launch.n_scalars; i++) {
            int word;
            std::memcpy(&word, &launch.scalars[i], sizeof word);
            scalars.emplace_back(word);
        }
        return mx::fast::precompiled_cuda_kernel(launch.name, std::string(launch.code, launch.code_size), inputs,
                                                 shapes_of(outputs), dtypes_of(outputs), scalars,
                                                 spread(launch.grid, launch.block), {launch.block, 1, 1},
                                                 launch.shared_bytes, std::nullopt, true, stream)[0]
            .primitive_ptr();
    }
};

/* Never destroyed: MLX may still be running at exit. */
Launches &launches() {
    static Launches *made = new Launches;
    return *made;
}

/* The scalars are the last of inputs here. */
Arrays metal(const zm_gpu_launch &launch, const Arrays &inputs, const Arrays &outputs, mx::Stream stream) {
    std::vector<std::string> input_names(launch.input_names, launch.input_names + inputs.size() - 1);
    std::vector<std::string> output_names(launch.output_names, launch.output_names + outputs.size());
    input_names.emplace_back("zm_scalars");
    auto kernel = mx::fast::metal_kernel(launch.name, input_names, output_names,
                                         std::string(launch.code, launch.code_size), launch.header);
    return kernel(inputs, shapes_of(outputs), dtypes_of(outputs), spread(launch.grid, launch.block),
                  {launch.block, 1, 1}, {}, std::nullopt, false, stream);
}

}  // namespace

void zm::launch_on_gpu(const zm_gpu_launch &launch, const Arrays &inputs, Arrays &outputs, mx::Stream stream) {
    if (launch.often && can_launch_directly()) return launch_directly(launch, inputs, outputs, stream);
    if (!launch.header) return launches().get(launch, inputs, outputs, stream)->eval_gpu(inputs, outputs);
    Arrays results = metal(launch, inputs, outputs, stream);
    results[0].primitive().eval_gpu(results[0].inputs(), results);
    for (size_t i = 0; i < outputs.size(); i++) outputs[i].copy_shared_buffer(results[i]);
}
