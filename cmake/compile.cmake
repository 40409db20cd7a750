# SPDX-License-Identifier: MIT
# How everything is compiled: the target zmlx_compile.

# Developers' presets (all but release) turn it on; a newer compiler's warning must not stop a user's build.
option(ZMLX_WERROR "Treat warnings as errors" OFF)
option(ZMLX_FUZZ "Build the fuzz targets with clang's libFuzzer instead of the replay driver" OFF)
set(ZMLX_SANITIZE "" CACHE STRING "Sanitizers, as -fsanitize= takes them")

set(CMAKE_C_STANDARD 17)
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)

# One rounding per operation on every target: no contraction to fma. gcc's guess about unset variables does
# not see that zm_fail never returns ZMLX_OK; clang's -Wsometimes-uninitialized stays.
add_library(zmlx_compile INTERFACE)
target_compile_options(zmlx_compile INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -ffp-contract=off $<$<BOOL:${ZMLX_WERROR}>:-Werror>
  $<$<C_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
target_compile_definitions(zmlx_compile INTERFACE _GNU_SOURCE)

# The check of virtual tables needs type information that libmlx, built without, does not have. Reports need lines, no
# types, and the C++, which holds no loops over elements, compiles in half the time with less effort.
if(ZMLX_SANITIZE)
  target_compile_options(zmlx_compile INTERFACE
    -fsanitize=${ZMLX_SANITIZE} -fno-sanitize=vptr -fno-sanitize-recover=all -fno-omit-frame-pointer
    -g1 $<$<COMPILE_LANGUAGE:CXX>:-O1>
    $<$<BOOL:${ZMLX_FUZZ}>:-fsanitize=fuzzer-no-link>)
  target_link_options(zmlx_compile INTERFACE -fsanitize=${ZMLX_SANITIZE} -fno-sanitize=vptr)
endif()
