# SPDX-License-Identifier: MIT
# Installed: program, libraries, headers, the files find_package and pkg-config read, licences and, where MLX
# is a fetched wheel, a private copy of it in lib/zmlx that the library finds relative to itself.
include(CMakePackageConfigHelpers)

set(package_folder "${CMAKE_INSTALL_LIBDIR}/cmake/zmlx")
if(APPLE)
  set(origin @loader_path)
  set(cxx_library c++)
else()
  set(origin $ORIGIN)
  set(cxx_library stdc++)
endif()

install(TARGETS zmlx EXPORT zmlxTargets)
install(TARGETS zmlx_static)
if(TARGET zmlx_mlxc_subset)
  install(TARGETS zmlx_mlxc_subset EXPORT zmlxTargets)
  install(DIRECTORY src/mlx/capi/mlx DESTINATION "${mlxc_include}")
  set(mlxc_cflags "-I\${includedir}/zmlx/mlxc")
endif()
install(DIRECTORY include/zmlx "${generated_include}/zmlx" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT zmlxTargets NAMESPACE zmlx:: DESTINATION "${package_folder}")

install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")

file(RELATIVE_PATH lib_from_bin "/${CMAKE_INSTALL_BINDIR}" "/${CMAKE_INSTALL_LIBDIR}")
set(program_rpath "${origin}/${lib_from_bin}")
install(TARGETS zmlx_program)

get_target_property(mlx_library mlx LOCATION)
if(ZMLX_MLX_ROOT)
  file(GLOB wheel_libraries "${ZMLX_MLX_ROOT}/*.libs" "${ZMLX_MLX_ROOT}/nvidia")
  install(DIRECTORY "${ZMLX_MLX_ROOT}/mlx/lib" DESTINATION "${CMAKE_INSTALL_LIBDIR}/zmlx/mlx"
          USE_SOURCE_PERMISSIONS)
  install(DIRECTORY ${wheel_libraries} DESTINATION "${CMAKE_INSTALL_LIBDIR}/zmlx" USE_SOURCE_PERMISSIONS)
  file(GLOB package_infos "${ZMLX_MLX_ROOT}/*.dist-info")
  foreach(info IN LISTS package_infos)
    get_filename_component(package ${info} NAME)
    string(REGEX REPLACE "\\.dist-info$" "" package ${package})
    file(GLOB licences "${info}/licenses/*" "${info}/[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]*.*")
    install(FILES ${licences} DESTINATION "${CMAKE_INSTALL_DOCDIR}/${package}")
  endforeach()
  set_target_properties(zmlx PROPERTIES INSTALL_RPATH "${origin}/zmlx/mlx/lib")
  list(APPEND program_rpath "${origin}/${lib_from_bin}/zmlx/mlx/lib") # it uses MLX itself, through mlx-c's functions
  set(mlx_folder "\${libdir}/zmlx/mlx/lib")
  get_filename_component(mlx_name "${mlx_library}" NAME)
  set(installed_mlx "$<INSTALL_PREFIX>/${CMAKE_INSTALL_LIBDIR}/zmlx/mlx/lib/${mlx_name}")
else()
  set(mlx_folder "$<TARGET_FILE_DIR:mlx>")
  set(installed_mlx "${mlx_library}")
  set_target_properties(zmlx zmlx_program PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
endif()
set_target_properties(zmlx_program PROPERTIES INSTALL_RPATH "${program_rpath}")
if(TARGET zmlx_mlxc_subset) # a program in C alone has to be told of C++'s library, and when it is installed of MLX's folder
  target_link_libraries(zmlx_mlxc_subset INTERFACE "$<INSTALL_INTERFACE:${installed_mlx}>" ${cxx_library})
  get_filename_component(installed_mlx_folder "${installed_mlx}" DIRECTORY)
  target_link_options(zmlx_mlxc_subset INTERFACE "$<INSTALL_INTERFACE:LINKER:-rpath,${installed_mlx_folder}>")
endif()

configure_package_config_file(cmake/zmlxConfig.cmake.in zmlxConfig.cmake
                              INSTALL_DESTINATION "${package_folder}")
write_basic_package_version_file(zmlxConfigVersion.cmake COMPATIBILITY SameMinorVersion)
file(RELATIVE_PATH prefix_from_pc "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REGEX REPLACE "/$" "" prefix_from_pc "${prefix_from_pc}")
set(pkg_config_files zmlx.pc)
if(TARGET zmlx_mlxc_subset)
  list(APPEND pkg_config_files zmlx-mlxc.pc)
endif()
list(TRANSFORM CMAKE_DL_LIBS REPLACE "^([^-].*)$" "-l\\1" OUTPUT_VARIABLE dl_libraries) # where dlopen is not in libc
list(JOIN dl_libraries " " dl_libraries)
foreach(file IN LISTS pkg_config_files)
  configure_file(cmake/${file}.in ${file}.configured @ONLY)
  file(GENERATE OUTPUT ${file} INPUT "${CMAKE_CURRENT_BINARY_DIR}/${file}.configured")
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/${file}" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endforeach()
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/zmlxConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/zmlxConfigVersion.cmake"
        DESTINATION "${package_folder}")

install(CODE "set(lib \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}\")")
install(CODE [[
message(STATUS "zmlx is in $ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}. To link with it: "
               "PKG_CONFIG_PATH=${lib}/pkgconfig, and ldconfig or -Wl,-rpath,${lib}")
]])
