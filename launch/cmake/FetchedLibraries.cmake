# hiptrain_find_or_fetch(NAME): find_package(NAME); where it is missing and HIPTRAIN_FETCH_HEADERS is on, the source
# archive of a fixed version and hash is fetched and built along. For machines without network, FETCHCONTENT_SOURCE_DIR_
# and the name in capitals says where unpacked sources lie.
include(FetchContent)
option(HIPTRAIN_FETCH_HEADERS
  "Fetch CLI11, fmt, GoogleTest, nlohmann-json, xxHash and yaml-cpp where they are missing" OFF)

set(hiptrain_archive_CLI11 "https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.4.2.tar.gz"
  f2d893a65c3b1324c50d4e682c0cdc021dd0477ae2c048544f39eed6654b699a)
set(hiptrain_archive_fmt "https://github.com/fmtlib/fmt/archive/refs/tags/10.2.1.tar.gz"
  1250e4cc58bf06ee631567523f48848dc4596133e163f02615c97f78bab6c811)
set(hiptrain_archive_GTest "https://github.com/google/googletest/archive/refs/tags/release-1.12.1.tar.gz"
  81964fe578e9bd7c94dfdb09c8e4d6e6759e19967e397dbea48d1c10e45d0df2)
set(hiptrain_archive_nlohmann_json "https://github.com/nlohmann/json/archive/refs/tags/v3.11.3.tar.gz"
  0d8ef5af7f9794e3263480193c491549b2ba6cc74bb018906202ada498a79406)
set(hiptrain_archive_xxHash "https://github.com/Cyan4973/xxHash/archive/refs/tags/v0.8.3.tar.gz"
  aae608dfe8213dfd05d909a57718ef82f30722c392344583d3f39050c7f29a80)
set(hiptrain_archive_yaml-cpp "https://github.com/jbeder/yaml-cpp/archive/refs/tags/yaml-cpp-0.9.0.tar.gz"
  25cb043240f828a8c51beb830569634bc7ac603978e0f69d6b63558dadefd49a)

function(hiptrain_refuse_missing name)
  message(FATAL_ERROR "${name} was not found: install its development package, add its folder to CMAKE_PREFIX_PATH, or "
    "configure with -DHIPTRAIN_FETCH_HEADERS=ON, which fetches its source.")
endfunction()

# Only the libraries of the sources, without their tests and install rules, and without warnings in their headers.
function(hiptrain_fetch name)
  if(NOT HIPTRAIN_FETCH_HEADERS)
    hiptrain_refuse_missing(${name})
  endif()
  list(GET hiptrain_archive_${name} 0 archive)
  list(GET hiptrain_archive_${name} 1 hash)
  string(TOUPPER ${name} upper_name)
  if(FETCHCONTENT_SOURCE_DIR_${upper_name})
    message(STATUS "${name} was not found and is built from ${FETCHCONTENT_SOURCE_DIR_${upper_name}}")
  else()
    message(STATUS "${name} was not found and is built from ${archive}")
  endif()
  set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)  # the options below also hold for sources of old CMake versions
  set(CMAKE_POLICY_VERSION_MINIMUM 3.5)
  set(BUILD_SHARED_LIBS OFF)
  foreach(option CLI11_BUILD_TESTS CLI11_BUILD_EXAMPLES CLI11_BUILD_DOCS CLI11_INSTALL FMT_INSTALL INSTALL_GTEST
      JSON_BuildTests JSON_Install YAML_CPP_BUILD_CONTRIB YAML_CPP_BUILD_TESTS YAML_CPP_BUILD_TOOLS YAML_CPP_INSTALL)
    set(${option} OFF)
  endforeach()
  string(TOLOWER ${name} lower_name)
  FetchContent_Declare(${name} URL "${archive}" URL_HASH SHA256=${hash} ${ARGN})
  FetchContent_MakeAvailable(${name})
  foreach(target CLI11 fmt-header-only gtest gtest_main gmock nlohmann_json yaml-cpp)
    if(TARGET ${target})
      get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
      set_target_properties(${target} PROPERTIES INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${folders}")
    endif()
  endforeach()
  set(${lower_name}_SOURCE_DIR "${${lower_name}_SOURCE_DIR}" PARENT_SCOPE)
endfunction()

function(hiptrain_find_or_fetch name)
  find_package(${name} QUIET)
  if(NOT ${name}_FOUND)
    hiptrain_fetch(${name})
  endif()
endfunction()
