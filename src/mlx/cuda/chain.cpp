/* SPDX-License-Identifier: MIT */
/* A chain is a graph of its own, launched on the encoder's stream behind what MLX has encoded so far. */
#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mlx/backend/cuda/device.h"
#include "mlx/backend/cuda/utils.h"
#include "mlx/cuda/driver.hpp"
#include "mlx/cuda/executable.hpp"
#include "mlx/cuda/pool.hpp"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

#include "mlx/dtypes.hpp"

extern "C" {
#include "base/error.h"
#include "mlx/chain.h"
#include "mlx/gpu.h"
}

namespace mx = mlx::core;

struct zm_cuda_module {
    CUmodule handle;
};

namespace {

using Arrays = std::vector<mx::array>;

enum class Kind { input, constant, temporary, output };

struct Place {
    Kind kind;
    uint64_t index; /* in inputs or outputs; of a temporary the offset in the workspace; of a constant its address */
};

struct Record {
    const char *name;
    Arrays inputs;
    std::vector<zm_node_output> outputs;
    std::vector<int> overwrites; /* an output's input in the same memory; -1: it has its own */
    std::vector<Place> places;
    std::vector<zm_chain_launch_record> launches;
    size_t workspace = 0;
};

/* MLX's encoder does not tell what it holds; an explicit instantiation may name members that are private. */
template <auto nodes, auto temporaries>
struct Encoded {
    friend int n_nodes(const mx::cu::CommandEncoder &encoder) { return encoder.*nodes; }
    friend size_t n_temporaries(const mx::cu::CommandEncoder &encoder) { return (encoder.*temporaries).size(); }
};
template struct Encoded<&mx::cu::CommandEncoder::node_count_, &mx::cu::CommandEncoder::temporaries_>;
int n_nodes(const mx::cu::CommandEncoder &encoder);
size_t n_temporaries(const mx::cu::CommandEncoder &encoder);

/* What is encoded so far comes before what is launched next. A commit of no nodes is left out, as its event would part
 * kernels that overlap otherwise and takes longer than their launches; but now and then it gives buffers back. */
void commit(mx::cu::CommandEncoder &encoder) {
    constexpr size_t most_kept = 64;
    if (n_nodes(encoder) || n_temporaries(encoder) > most_kept) encoder.commit();
}

uint64_t address_of(const mx::array &array) {
    return reinterpret_cast<uint64_t>(mx::gpu_ptr<void>(array));
}

class Chain : public mx::Primitive {
public:
    Chain(mx::Stream stream, std::shared_ptr<Record> record) : Primitive(stream), record_(std::move(record)) {}

    void eval_cpu(const Arrays &, Arrays &) override { refuse("evaluation on the CPU"); }

    void eval_gpu(const Arrays &inputs, Arrays &outputs) override {
        auto &encoder = mx::cu::get_command_encoder(stream());
        Arrays rows;
        for (const mx::array &input : inputs) rows.push_back(zm::in_rows(input, stream()));
        for (size_t i = 0; i < outputs.size(); i++) {
            if (record_->overwrites[i] < 0) zm::give_buffer(outputs[i], stream());
            else outputs[i].copy_shared_buffer(rows[static_cast<size_t>(record_->overwrites[i])]);
        }
        uint64_t workspace = zm::workspace(record_->workspace, stream());

        std::vector<uint64_t> addresses;
        addresses.reserve(record_->places.size());
        for (const Place &place : record_->places) {
            switch (place.kind) {
            case Kind::input: addresses.push_back(address_of(rows[place.index])); break;
            case Kind::constant: addresses.push_back(place.index); break;
            case Kind::temporary: addresses.push_back(workspace + place.index); break;
            case Kind::output: addresses.push_back(address_of(outputs[place.index])); break;
            }
        }
        commit(encoder);
        auto run = is_short() ? zm::launch_each : zm::run_chain;
        run(record_->launches, addresses, static_cast<cudaStream_t>(encoder.stream()));
        /* Copies in row order were temporaries of what is committed above, and may end with it; the chain reads them
         * later. */
        for (size_t i = 0; i < rows.size(); i++)
            if (rows[i].data_shared_ptr() != inputs[i].data_shared_ptr()) encoder.add_temporary(rows[i]);
    }

    Arrays vjp(const Arrays &, const Arrays &, const std::vector<int> &, const Arrays &) override { refuse("vjp"); }
    Arrays jvp(const Arrays &, const Arrays &, const std::vector<int> &) override { refuse("jvp"); }
    std::pair<Arrays, std::vector<int>> vmap(const Arrays &, const std::vector<int> &) override { refuse("vmap"); }
    bool is_equivalent(const mx::Primitive &other) const override { return this == &other; }
    const char *name() const override { return record_->name; }

private:
    std::shared_ptr<Record> record_;

    /* Few kernels that only fill new arrays. */
    bool is_short() const {
        constexpr size_t few = 3;
        return record_->launches.size() <= few &&
               std::all_of(record_->overwrites.begin(), record_->overwrites.end(), [](int input) { return input < 0; });
    }

    [[noreturn]] void refuse(const char *what) const {
        throw std::runtime_error(std::string(name()) + " does not support " + what);
    }
};

}  // namespace

struct zm_chain {
    std::shared_ptr<Record> record = std::make_shared<Record>();
    std::string failure;

    int add(Kind kind, uint64_t index) {
        record->places.push_back({kind, index});
        return static_cast<int>(record->places.size()) - 1;
    }
};

bool zm_chain_available(void) {
    constexpr int least = 90;
    int capability;
    return zm_gpu_get(&capability) == ZM_GPU_CUDA && capability >= least && zm::driver().complete;
}

zmlx_status zm_cuda_module_load(zm_cuda_module **module, const char *code, zmlx_error *error) {
    *module = nullptr;
    try {
        if (!zm_chain_available()) throw std::runtime_error("the GPU or its driver is too old");
        mx::cu::device(mx::Device(mx::Device::gpu, 0)).make_current();
        CUmodule handle;
        zm::check(zm::driver().module_load(&handle, code), "cuModuleLoadData");
        *module = new zm_cuda_module{handle};
        return ZMLX_OK;
    } catch (const std::exception &exception) {
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "CUDA", "%s", exception.what());
    }
}

void *zm_cuda_module_kernel(zm_cuda_module *module, const char *symbol, int shared_bytes) {
    CUfunction function;
    if (zm::driver().module_function(&function, module->handle, symbol) != CUDA_SUCCESS) return nullptr;
    constexpr int most = 227 * 1024; /* of a block, at compute capability 9.0; those with less refuse it */
    int own;                         /* declared in the text */
    if (zm::driver().function_get(&own, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function) != CUDA_SUCCESS) return nullptr;
    if (shared_bytes > most - own) shared_bytes = most - own;
    /* All of a multiprocessor's memory that can be shared is: split as one kernel needs it, the blocks of the next,
     * which come early, would find no room. */
    const std::pair<CUfunction_attribute, int> attributes[] = {
        {CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes},
        {CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, CU_SHAREDMEM_CARVEOUT_MAX_SHARED}};
    for (auto [attribute, value] : attributes)
        if (zm::driver().function_set(function, attribute, value) != CUDA_SUCCESS) return nullptr;
    return function;
}

int zm_cuda_kernel_registers(void *kernel) {
    int registers;
    auto result = zm::driver().function_get(&registers, CU_FUNC_ATTRIBUTE_NUM_REGS, static_cast<CUfunction>(kernel));
    return result == CUDA_SUCCESS ? registers : 0;
}

zm_chain *zm_chain_new(const char *name) {
    try {
        auto chain = std::make_unique<zm_chain>();
        chain->record->name = name;
        return chain.release();
    } catch (...) {
        return nullptr;
    }
}

void zm_chain_free(zm_chain *chain) { delete chain; }

/* Runs a step of building; what it throws is kept for zm_chain_apply. */
template <typename Step>
static int build(zm_chain *chain, Step step) {
    try {
        return step();
    } catch (const std::exception &exception) {
        if (chain->failure.empty()) chain->failure = exception.what();
        return -1;
    }
}

static const mx::array &get(mlx_array array) {
    if (!array.ctx) throw std::invalid_argument("an array is empty");
    return *static_cast<const mx::array *>(array.ctx);
}

int zm_chain_input(zm_chain *chain, mlx_array array) {
    return build(chain, [&] {
        chain->record->inputs.push_back(get(array));
        return chain->add(Kind::input, chain->record->inputs.size() - 1);
    });
}

int zm_chain_constant(zm_chain *chain, mlx_array array) {
    return build(chain, [&] {
        const mx::array &constant = get(array);
        if (!constant.is_available() || !constant.flags().row_contiguous)
            throw std::invalid_argument("a constant is not evaluated, or not in row order");
        return chain->add(Kind::constant, address_of(constant));
    });
}

int zm_chain_temporary(zm_chain *chain, size_t bytes) {
    return build(chain, [&] {
        constexpr size_t alignment = 128;
        size_t offset = chain->record->workspace;
        chain->record->workspace += (bytes + alignment - 1) / alignment * alignment;
        return chain->add(Kind::temporary, offset);
    });
}

int zm_chain_output(zm_chain *chain, const zm_node_output *spec) {
    return build(chain, [&] {
        chain->record->outputs.push_back(*spec);
        chain->record->overwrites.push_back(-1);
        return chain->add(Kind::output, chain->record->outputs.size() - 1);
    });
}

int zm_chain_overwrite(zm_chain *chain, mlx_array array) {
    return build(chain, [&] {
        const mx::array &before = get(array);
        zm_node_output spec{};
        if (before.ndim() > ZM_NODE_MAX_DIMS) throw std::invalid_argument("too many dimensions");
        spec.n_dims = static_cast<int>(before.ndim());
        for (int i = 0; i < spec.n_dims; i++) spec.shape[i] = before.shape(i);
        spec.dtype = zm::to_c(before.dtype());
        chain->record->inputs.push_back(before);
        chain->record->outputs.push_back(spec);
        chain->record->overwrites.push_back(static_cast<int>(chain->record->inputs.size()) - 1);
        return chain->add(Kind::output, chain->record->outputs.size() - 1);
    });
}

void zm_chain_launch(zm_chain *chain, const zm_chain_launch_record *launch) {
    build(chain, [&] {
        if (!launch->kernel) throw std::invalid_argument("a kernel is missing");
        for (int i = 0; i < launch->n_arguments; i++)
            if (launch->arguments[i].kind == zm_chain_argument::ZM_ARGUMENT_ARRAY && launch->arguments[i].place < 0)
                throw std::invalid_argument("an argument names no array");
        chain->record->launches.push_back(*launch);
        return 0;
    });
}

int zm_chain_launches(const zm_chain *chain) { return static_cast<int>(chain->record->launches.size()); }

static Arrays make_arrays(zm_chain *chain, mlx_stream stream) {
    if (!chain->failure.empty()) throw std::runtime_error(chain->failure);
    Record &record = *chain->record;
    if (!stream.ctx || record.outputs.empty() || record.launches.empty())
        throw std::invalid_argument("a chain needs a stream, a kernel and an output");
    std::vector<mx::Shape> shapes;
    std::vector<mx::Dtype> types;
    for (const zm_node_output &output : record.outputs) {
        shapes.emplace_back(output.shape, output.shape + output.n_dims);
        types.push_back(zm::to_cpp(output.dtype));
    }
    Arrays inputs = std::move(record.inputs);
    auto node = std::make_shared<Chain>(*static_cast<mx::Stream *>(stream.ctx), chain->record);
    if (shapes.size() == 1) return {mx::array(shapes[0], types[0], std::move(node), std::move(inputs))};
    return mx::array::make_arrays(std::move(shapes), types, node, inputs);
}

zmlx_status zm_chain_apply(mlx_array *outputs, zm_chain *chain, mlx_stream stream, zmlx_error *error) {
    std::unique_ptr<zm_chain> owner(chain);
    size_t n_outputs = chain->record->outputs.size();
    for (size_t i = 0; i < n_outputs; i++) outputs[i] = mlx_array{};
    try {
        Arrays arrays = make_arrays(chain, stream);
        for (size_t i = 0; i < arrays.size(); i++) outputs[i].ctx = new mx::array(std::move(arrays[i]));
        return ZMLX_OK;
    } catch (const std::exception &exception) {
        for (size_t i = 0; i < n_outputs; i++) {
            mlx_array_free(outputs[i]);
            outputs[i] = mlx_array{};
        }
        return zm_fail(error, ZMLX_ERROR_MLX, chain->record->name, "%s", exception.what());
    }
}
