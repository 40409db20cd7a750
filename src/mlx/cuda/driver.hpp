/* SPDX-License-Identifier: MIT */
/* The functions of CUDA's driver that chains need, found at run time: the machine that builds need not have a
 * driver. */
#ifndef ZM_MLX_CUDA_DRIVER_HPP
#define ZM_MLX_CUDA_DRIVER_HPP

#include <cuda.h>

namespace zm {

struct Driver {
    decltype(&cuGetErrorString) error_string = nullptr;
    decltype(&cuModuleLoadData) module_load = nullptr;
    decltype(&cuModuleGetFunction) module_function = nullptr;
    decltype(&cuFuncSetAttribute) function_set = nullptr;
    decltype(&cuFuncGetAttribute) function_get = nullptr;
    decltype(&cuLaunchKernelEx) launch = nullptr;
    decltype(&cuGraphCreate) graph_create = nullptr;
    decltype(&cuGraphDestroy) graph_destroy = nullptr;
    decltype(&cuGraphAddKernelNode) graph_add_kernel = nullptr;
    decltype(&cuGraphAddDependencies) graph_add_dependencies = nullptr;
    decltype(&cuGraphInstantiate) graph_instantiate = nullptr;
    decltype(&cuGraphExecKernelNodeSetParams) executable_set = nullptr;
    decltype(&cuGraphLaunch) executable_launch = nullptr;
    decltype(&cuGraphExecDestroy) executable_destroy = nullptr;
    bool complete = false;
};

const Driver &driver();
/* Throws what the driver says about a failed call. */
void check(CUresult result, const char *what);

}  // namespace zm

#endif
