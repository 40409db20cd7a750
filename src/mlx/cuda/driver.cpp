/* SPDX-License-Identifier: MIT */
#include "mlx/cuda/driver.hpp"

#include <dlfcn.h>

#include <cstring>
#include <stdexcept>
#include <string>

namespace {

#define ZM_SYMBOL_TEXT(name) #name
#define ZM_SYMBOL(name) ZM_SYMBOL_TEXT(name) /* cuda.h renames functions to their newest version */

zm::Driver find() {
    zm::Driver found;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return found;
    bool complete = true;
    auto get = [&](auto &function, const char *symbol) {
        void *address = dlsym(library, symbol);
        std::memcpy(&function, &address, sizeof address);
        complete = complete && address;
    };
    get(found.error_string, ZM_SYMBOL(cuGetErrorString));
    get(found.module_load, ZM_SYMBOL(cuModuleLoadData));
    get(found.module_function, ZM_SYMBOL(cuModuleGetFunction));
    get(found.function_set, ZM_SYMBOL(cuFuncSetAttribute));
    get(found.function_get, ZM_SYMBOL(cuFuncGetAttribute));
    get(found.launch, ZM_SYMBOL(cuLaunchKernelEx));
    get(found.graph_create, ZM_SYMBOL(cuGraphCreate));
    get(found.graph_destroy, ZM_SYMBOL(cuGraphDestroy));
    get(found.graph_add_kernel, ZM_SYMBOL(cuGraphAddKernelNode));
    get(found.graph_add_dependencies, ZM_SYMBOL(cuGraphAddDependencies));
    get(found.graph_instantiate, ZM_SYMBOL(cuGraphInstantiate));
    get(found.executable_set, ZM_SYMBOL(cuGraphExecKernelNodeSetParams));
    get(found.executable_launch, ZM_SYMBOL(cuGraphLaunch));
    get(found.executable_destroy, ZM_SYMBOL(cuGraphExecDestroy));
    found.complete = complete;
    return found;
}

}  // namespace

const zm::Driver &zm::driver() {
    static const Driver found = find();
    return found;
}

void zm::check(CUresult result, const char *what) {
    if (result == CUDA_SUCCESS) return;
    const char *text = nullptr;
    if (driver().error_string(result, &text) != CUDA_SUCCESS || !text) text = "unknown to the driver";
    throw std::runtime_error(std::string(what) + ": " + text + " (CUDA error " +
                             std::to_string(static_cast<int>(result)) + ")");
}
