# SPDX-License-Identifier: MIT
# The MLX to build against, as the target `mlx`, and its C interface, as the target zmlx_mlxc.
#
# Default: the wheel that `make setup` fetched for ZMLX_BACKEND. With MLX_DIR (the folder of
# MLXConfig.cmake, or the prefix above it) an MLX of the user's own.

file(STRINGS cmake/versions.env version_line REGEX "^MLX_VERSION=")
string(REGEX REPLACE "^MLX_VERSION=" "" pinned_version "${version_line}")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS cmake/versions.env)

if(APPLE)
  set(default_backend metal)
else()
  set(default_backend cpu)
endif()
set(ZMLX_BACKEND ${default_backend} CACHE STRING "MLX wheel to use: cpu, cuda or metal; arm64: cpu for the preset of that name")
set_property(CACHE ZMLX_BACKEND PROPERTY STRINGS cpu cuda metal)
set(MLX_DIR "" CACHE PATH "An MLX to use instead of the fetched wheel")
set(ZMLX_MLXC AUTO CACHE STRING
    "mlx-c: OFF the subset in src/mlx/capi, ON an installed one, AUTO installed if found together with MLX_DIR")
set_property(CACHE ZMLX_MLXC PROPERTY STRINGS AUTO ON OFF)

if(MLX_DIR)
  if(EXISTS "${MLX_DIR}/share/cmake/MLX/MLXConfig.cmake")
    set(MLX_DIR "${MLX_DIR}/share/cmake/MLX")
  endif()
  find_package(MLX CONFIG REQUIRED)
  if(NOT MLX_VERSION VERSION_EQUAL pinned_version)
    message(WARNING "The MLX in ${MLX_DIR} is ${MLX_VERSION}; zmlx is tested with ${pinned_version}.")
  endif()
else()
  set(ZMLX_MLX_ROOT "${PROJECT_SOURCE_DIR}/build/wheel-${ZMLX_BACKEND}-${pinned_version}")
  set(library "${ZMLX_MLX_ROOT}/mlx/lib/${CMAKE_SHARED_LIBRARY_PREFIX}mlx${CMAKE_SHARED_LIBRARY_SUFFIX}")
  if(NOT EXISTS "${library}")
    message(FATAL_ERROR "There is no MLX ${pinned_version} (${ZMLX_BACKEND}) in ${ZMLX_MLX_ROOT}. "
                        "Fetch it with `make setup BACKEND=${ZMLX_BACKEND}`, "
                        "or give the folder of one that is installed with -DMLX_DIR=.")
  endif()
  add_library(mlx SHARED IMPORTED)
  set_target_properties(mlx PROPERTIES IMPORTED_LOCATION "${library}")
  target_include_directories(mlx INTERFACE "${ZMLX_MLX_ROOT}/mlx/include")
  target_compile_features(mlx INTERFACE cxx_std_20)
  if(ZMLX_BACKEND STREQUAL metal)
    target_compile_definitions(mlx INTERFACE _METAL_)
    target_include_directories(mlx INTERFACE "${ZMLX_MLX_ROOT}/mlx/include/metal_cpp")
  elseif(ZMLX_BACKEND STREQUAL cuda)
    # libmlx needs the driver's library, which the building machine need not have.
    set(mlx_link_options "-Wl,--allow-shlib-undefined")
    target_link_options(mlx INTERFACE ${mlx_link_options})
    target_include_directories(mlx SYSTEM INTERFACE "${ZMLX_MLX_ROOT}/nvidia/cu13/include")
  endif()
endif()

# Chains of CUDA kernels go through MLX's command encoder. With an MLX of the user's own its CUDA headers must be found.
set(mlx_cuda_folder no_cuda)
if(ZMLX_BACKEND STREQUAL cuda)
  set(mlx_cuda_folder cuda)
  include(CheckIncludeFileCXX)
  check_include_file_cxx(fmt/format.h ZMLX_HAS_FMT)
  if(NOT ZMLX_HAS_FMT)
    target_include_directories(mlx SYSTEM INTERFACE "${PROJECT_SOURCE_DIR}/src/mlx/cuda/stand_in")
  endif()
  if(MLX_DIR)
    find_package(CUDAToolkit REQUIRED)
    target_include_directories(mlx SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
  endif()
endif()

# An installed mlx-c brings the MLX it was built with, so it is looked for only beside an installed MLX.
if(ZMLX_MLXC STREQUAL ON OR (ZMLX_MLXC STREQUAL AUTO AND MLX_DIR))
  if(ZMLX_MLXC STREQUAL ON)
    set(required REQUIRED)
  endif()
  find_package(MLXC CONFIG ${required})
endif()
add_library(zmlx_mlxc INTERFACE)
if(TARGET mlxc)
  target_link_libraries(zmlx_mlxc INTERFACE mlxc)
  set(mlx_libraries "-lmlxc -lmlx")
else()
  set(mlx_libraries "-lmlx")
  target_include_directories(zmlx_mlxc INTERFACE "${PROJECT_SOURCE_DIR}/src/mlx/capi")
endif()
