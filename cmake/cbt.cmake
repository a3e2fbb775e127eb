# SPDX-License-Identifier: LGPL-2.1-or-later
# Warnings, sanitizers and the two helpers every folder uses.

set(CBT_SANITIZE "" CACHE STRING "Comma-separated sanitizers for every target, for example address,undefined")

option(CBT_FUZZ "Whether the fuzz targets are linked with libFuzzer; needs clang" OFF)

add_compile_options(-Wall -Wextra -Wshadow -Wconversion -Werror -Wno-sign-conversion
                    -Wstrict-prototypes -Wmissing-prototypes -Wvla -fno-strict-aliasing)
add_compile_definitions(_GNU_SOURCE G_LOG_USE_STRUCTURED CBT_VERSION="${PROJECT_VERSION}"
                        GLIB_VERSION_MIN_REQUIRED=GLIB_VERSION_2_74)
if(CMAKE_C_COMPILER_ID MATCHES Clang)
  add_compile_options(-Wno-unused-variable) # it says so of an owner that only frees
endif()
if(CBT_SANITIZE)
  add_compile_options(-fsanitize=${CBT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${CBT_SANITIZE})
  # nbdkit is not built with the sanitizer, so its runtime has to be there before the plugin is.
  string(REGEX MATCH "thread|address" CBT_SANITIZER "${CBT_SANITIZE}")
  string(REPLACE "thread" "libtsan.so" CBT_SANITIZER_LIBRARY "${CBT_SANITIZER}")
  string(REPLACE "address" "libasan.so" CBT_SANITIZER_LIBRARY "${CBT_SANITIZER_LIBRARY}")
  execute_process(COMMAND ${CMAKE_C_COMPILER} -print-file-name=${CBT_SANITIZER_LIBRARY}
                  OUTPUT_VARIABLE CBT_PLUGIN_PRELOAD OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()

# cbt_library(NAME LIB...): one static library from all sources of this folder, included as <folder/header.h>,
# linked to LIB... and nothing else, so that a wrong include fails to link.
function(cbt_library name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARGN})
endfunction()

# cbt_unit_tests(FOLDER LIB...): one cmocka binary and one ctest entry for each tests/unit/FOLDER/test_*.c.
function(cbt_unit_tests folder)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/unit/${folder}/test_*.c)
  string(REPLACE / _ prefix ${folder})
  string(REPLACE / . dotted ${folder})
  foreach(source ${sources})
    get_filename_component(base ${source} NAME_WE)
    set(target ${prefix}_${base})
    add_executable(${target} ${source})
    target_link_libraries(${target} PRIVATE test-support ${ARGN} PkgConfig::CMOCKA)
    set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    add_test(NAME unit.${dotted}.${base} COMMAND ${target})
    set_tests_properties(unit.${dotted}.${base} PROPERTIES LABELS unit SKIP_RETURN_CODE 77 TIMEOUT 300
                         ENVIRONMENT "${CBT_TEST_ENVIRONMENT}")
  endforeach()
endfunction()
