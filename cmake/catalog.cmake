# SPDX-License-Identifier: MIT
# What is generated from the catalogue's lists: the public header and its definitions, before anything else is compiled;
# and the C texts of its kernels, compiled for each level of instruction set.
#
# A build with sanitizers compiles kernels when they are first used instead, as a user's own expressions are.

if(ZMLX_SANITIZE)
  set(prebuilt OFF)
else()
  set(prebuilt ON)
endif()
option(ZMLX_PREBUILT "Compile the catalogue's kernels with the library" ${prebuilt})

set(generated "${PROJECT_BINARY_DIR}/generated")
set(generated_include "${generated}/include")
file(GLOB_RECURSE catalog_lists CONFIGURE_DEPENDS src/kernels/*.def)

add_executable(zmlx_catalog_lists tools/catalog/header.c src/kernels/rows.c src/kernels/catalog.c
               src/kernels/signature.c src/kernels/sizes.c src/base/arena.c src/base/error.c src/base/number.c src/base/text.c)
target_include_directories(zmlx_catalog_lists PRIVATE include src)
target_compile_definitions(zmlx_catalog_lists PRIVATE ZM_CATALOG_TEXTS_ONLY ZMLX_VERSION="${PROJECT_VERSION}")
target_link_libraries(zmlx_catalog_lists PRIVATE zmlx_compile zmlx_mlxc Threads::Threads m)

foreach(part header functions docs)
  set(file_header "${generated_include}/zmlx/kernels.h")
  set(file_functions "${generated}/kernels.c")
  set(file_docs "${generated}/kernels.md")
  get_filename_component(folder "${file_${part}}" DIRECTORY)
  file(MAKE_DIRECTORY "${folder}")
  add_custom_command(OUTPUT "${file_${part}}" DEPENDS zmlx_catalog_lists ${catalog_lists} VERBATIM
    COMMAND zmlx_catalog_lists ${part} > "${file_${part}}")
endforeach()
add_custom_target(zmlx_kernels_docs ALL DEPENDS "${generated}/kernels.md")

# Defines <library>_prebuilt: objects with the table that runtime/prebuilt.h declares. objects: those of the library.
function(zmlx_add_prebuilt objects)
  if(NOT ZMLX_PREBUILT)
    add_library(zmlx_prebuilt OBJECT tools/catalog/none.c)
    target_include_directories(zmlx_prebuilt PRIVATE src)
    target_link_libraries(zmlx_prebuilt PRIVATE zmlx_compile)
    return()
  endif()
  add_executable(zmlx_catalog_emit tools/catalog/emit.c tools/catalog/variants.c tools/catalog/none.c ${objects})
  target_link_libraries(zmlx_catalog_emit PRIVATE zmlx_objects)
  set_target_properties(zmlx_catalog_emit PROPERTIES LINKER_LANGUAGE CXX)
  file(STRINGS src/kernels/families.def families REGEX "^ZM_FAMILY")
  list(TRANSFORM families REPLACE "ZM_FAMILY\\(([a-z0-9_]*),.*" "\\1")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS src/kernels/families.def)
  set(folder "${PROJECT_BINARY_DIR}/generated/prebuilt")
  file(MAKE_DIRECTORY "${folder}")
  foreach(family IN LISTS families)
    list(APPEND texts "${folder}/prebuilt_${family}.c")
  endforeach()
  # With an MLX for CUDA the emitter needs the driver's library to start. It calls nothing in it, and the machine
  # that builds need not have one.
  set(emit zmlx_catalog_emit)
  if(ZMLX_BACKEND STREQUAL cuda)
    file(WRITE "${generated}/driver/none.c" "extern int zm_no_driver;\n")
    add_library(zmlx_no_driver SHARED "${generated}/driver/none.c")
    set_target_properties(zmlx_no_driver PROPERTIES OUTPUT_NAME cuda SUFFIX .so.1
                          LIBRARY_OUTPUT_DIRECTORY "${generated}/driver")
    set(emit ${CMAKE_COMMAND} -E env "LD_LIBRARY_PATH=${generated}/driver" $<TARGET_FILE:zmlx_catalog_emit>)
  endif()
  add_custom_command(OUTPUT ${texts} "${folder}/prebuilt_table.c" VERBATIM
    DEPENDS zmlx_catalog_emit $<$<STREQUAL:${ZMLX_BACKEND},cuda>:zmlx_no_driver>
    COMMAND ${emit} "${folder}" ${families})
  set(levels 0)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(levels 0 1 2)
    set(options_1 -mavx2 -mfma -mf16c)
    set(options_2 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl)
  endif()
  list(LENGTH levels n_levels)
  add_library(zmlx_prebuilt OBJECT "${folder}/prebuilt_table.c")
  target_include_directories(zmlx_prebuilt PRIVATE src)
  target_compile_definitions(zmlx_prebuilt PRIVATE ZM_LEVELS=${n_levels})
  target_link_libraries(zmlx_prebuilt PRIVATE zmlx_compile)
  foreach(level IN LISTS levels)
    add_library(zmlx_prebuilt_${level} OBJECT ${texts})
    # As runtime/host_compiler.c compiles them; those for the oldest processors with less effort.
    if(level EQUAL 0 AND n_levels GREATER 1)
      set(effort -O1)
    else()
      set(effort -O2)
    endif()
    target_compile_options(zmlx_prebuilt_${level} PRIVATE
      ${effort} -ffp-contract=off -fno-math-errno -fno-trapping-math -w ${options_${level}})
    set_target_properties(zmlx_prebuilt_${level} PROPERTIES C_EXTENSIONS ON)
    target_compile_definitions(zmlx_prebuilt_${level} PRIVATE ZM_LEVEL=${level})
    list(APPEND all $<TARGET_OBJECTS:zmlx_prebuilt_${level}>)
  endforeach()
  set(prebuilt_levels ${all} PARENT_SCOPE)
endfunction()
