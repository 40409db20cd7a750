/* SPDX-License-Identifier: MIT */
/* Chains of kernels as executable CUDA graphs, kept from one evaluation to the next: where a chain has the kernels and
 * sizes of an earlier one, only the arguments that changed are set. */
#ifndef ZM_MLX_CUDA_EXECUTABLE_HPP
#define ZM_MLX_CUDA_EXECUTABLE_HPP

#include <cstdint>
#include <vector>

#include "mlx/cuda/driver.hpp"

extern "C" {
#include "mlx/chain.h"
}

namespace zm {

/* Launches the kernels on stream, one behind the other; addresses: those of the places that arguments name. */
void run_chain(const std::vector<zm_chain_launch_record> &launches, const std::vector<uint64_t> &addresses,
               CUstream stream);
/* The same one by one, without a graph: a few kernels run in less time than the host needs to begin one. */
void launch_each(const std::vector<zm_chain_launch_record> &launches, const std::vector<uint64_t> &addresses,
                 CUstream stream);

}  // namespace zm

#endif
