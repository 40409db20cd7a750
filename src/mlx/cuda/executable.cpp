/* SPDX-License-Identifier: MIT */
#include "mlx/cuda/executable.hpp"

#include <cstring>
#include <list>
#include <memory>
#include <mutex>

namespace {

/* One kernel and the values of its arguments, as the driver reads them. */
struct Kernel {
    void *function;
    int grid, block, shared_bytes, n_arguments;
    uint64_t values[ZM_CHAIN_MAX_ARGUMENTS];

    Kernel(const zm_chain_launch_record &launch, const std::vector<uint64_t> &addresses)
        : function(launch.kernel), grid(launch.grid), block(launch.block), shared_bytes(launch.shared_bytes),
          n_arguments(launch.n_arguments) {
        for (int i = 0; i < n_arguments; i++) {
            const zm_chain_argument &argument = launch.arguments[i];
            values[i] = 0;
            if (argument.kind == zm_chain_argument::ZM_ARGUMENT_WORD) values[i] = argument.word;
            if (argument.kind == zm_chain_argument::ZM_ARGUMENT_ARRAY)
                values[i] = addresses[static_cast<size_t>(argument.place)];
        }
    }
    bool same_shape(const zm_chain_launch_record &launch) const {
        return function == launch.kernel && grid == launch.grid && block == launch.block &&
               shared_bytes == launch.shared_bytes && n_arguments == launch.n_arguments;
    }
    bool same_values(const Kernel &other) const {
        return !std::memcmp(values, other.values, static_cast<size_t>(n_arguments) * sizeof values[0]);
    }
};

/* Calls use with the kernel as the driver takes it. */
template <typename Use>
void with_parameters(Kernel &kernel, Use use) {
    void *arguments[ZM_CHAIN_MAX_ARGUMENTS];
    for (int i = 0; i < kernel.n_arguments; i++) arguments[i] = &kernel.values[i]; /* a word is the low half */
    CUDA_KERNEL_NODE_PARAMS parameters{};
    parameters.func = static_cast<CUfunction>(kernel.function);
    parameters.gridDimX = static_cast<unsigned>(kernel.grid);
    parameters.blockDimX = static_cast<unsigned>(kernel.block);
    parameters.gridDimY = parameters.gridDimZ = parameters.blockDimY = parameters.blockDimZ = 1;
    parameters.sharedMemBytes = static_cast<unsigned>(kernel.shared_bytes);
    parameters.kernelParams = arguments;
    use(parameters);
}

class Executable {
public:
    /* Delegating, so that a failure here destroys what was made. */
    Executable(const std::vector<zm_chain_launch_record> &launches, const std::vector<uint64_t> &addresses)
        : Executable() {
        const zm::Driver &driver = zm::driver();
        zm::check(driver.graph_create(&graph_, 0), "cuGraphCreate");
        for (const zm_chain_launch_record &launch : launches) {
            kernels_.emplace_back(launch, addresses);
            CUgraphNode node;
            with_parameters(kernels_.back(), [&](const CUDA_KERNEL_NODE_PARAMS &parameters) {
                zm::check(driver.graph_add_kernel(&node, graph_, nullptr, 0, &parameters), "cuGraphAddKernelNode");
            });
            nodes_.push_back(node);
        }
        CUgraphEdgeData edge{};
        edge.from_port = CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC;
        edge.type = CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC;
        std::vector<CUgraphEdgeData> edges(nodes_.size() - 1, edge);
        if (!edges.empty())
            zm::check(driver.graph_add_dependencies(graph_, nodes_.data(), nodes_.data() + 1, edges.data(),
                                                    edges.size()),
                      "cuGraphAddDependencies");
        zm::check(driver.graph_instantiate(&executable_, graph_, 0), "cuGraphInstantiate");
    }
    ~Executable() {
        if (executable_) zm::driver().executable_destroy(executable_);
        if (graph_) zm::driver().graph_destroy(graph_);
    }
    Executable(const Executable &) = delete;
    Executable &operator=(const Executable &) = delete;

    bool serves(const std::vector<zm_chain_launch_record> &launches) const {
        if (launches.size() != kernels_.size()) return false;
        for (size_t i = 0; i < launches.size(); i++)
            if (!kernels_[i].same_shape(launches[i])) return false;
        return true;
    }

    /* Launches that are under way keep the arguments they began with. */
    void set(const std::vector<zm_chain_launch_record> &launches, const std::vector<uint64_t> &addresses) {
        for (size_t i = 0; i < launches.size(); i++) {
            Kernel next(launches[i], addresses);
            if (kernels_[i].same_values(next)) continue;
            with_parameters(next, [&](const CUDA_KERNEL_NODE_PARAMS &parameters) {
                zm::check(zm::driver().executable_set(executable_, nodes_[i], &parameters),
                          "cuGraphExecKernelNodeSetParams");
            });
            kernels_[i] = next; /* what the graph has: not before it has it */
        }
    }

    void launch(CUstream stream) { zm::check(zm::driver().executable_launch(executable_, stream), "cuGraphLaunch"); }

private:
    Executable() = default;

    CUgraph graph_ = nullptr;
    CUgraphExec executable_ = nullptr;
    std::vector<Kernel> kernels_;
    std::vector<CUgraphNode> nodes_;
};

}  // namespace

void zm::launch_each(const std::vector<zm_chain_launch_record> &launches, const std::vector<uint64_t> &addresses,
                     CUstream stream) {
    CUlaunchAttribute early{};
    early.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    early.value.programmaticStreamSerializationAllowed = 1;
    for (const zm_chain_launch_record &launch : launches) {
        Kernel kernel(launch, addresses);
        with_parameters(kernel, [&](const CUDA_KERNEL_NODE_PARAMS &parameters) {
            CUlaunchConfig config{};
            config.gridDimX = parameters.gridDimX;
            config.blockDimX = parameters.blockDimX;
            config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
            config.sharedMemBytes = parameters.sharedMemBytes;
            config.hStream = stream;
            config.attrs = &early;
            config.numAttrs = 1;
            zm::check(zm::driver().launch(&config, parameters.func, parameters.kernelParams, nullptr),
                      "cuLaunchKernelEx");
        });
    }
}

namespace {

struct Cache {
    std::mutex mutex;
    std::list<std::unique_ptr<Executable>> executables; /* the one used last comes first */
};

/* Never destroyed: the driver may be gone at exit. */
Cache &cache() {
    static Cache *made = new Cache;
    return *made;
}

}  // namespace

void zm::run_chain(const std::vector<zm_chain_launch_record> &launches, const std::vector<uint64_t> &addresses,
                   CUstream stream) {
    constexpr size_t most = 32;
    std::lock_guard<std::mutex> lock(cache().mutex);
    auto &executables = cache().executables;
    auto found = executables.begin();
    while (found != executables.end() && !(*found)->serves(launches)) ++found;
    if (found != executables.end()) {
        executables.splice(executables.begin(), executables, found);
        executables.front()->set(launches, addresses);
    } else {
        executables.push_front(std::make_unique<Executable>(launches, addresses));
        if (executables.size() > most) executables.pop_back();
    }
    executables.front()->launch(stream);
}
