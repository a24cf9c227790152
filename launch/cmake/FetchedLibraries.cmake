# hiptrain_find_or_fetch(NAME): find_package(NAME); where it is missing and HIPTRAIN_FETCH_HEADERS is on, the source
# archive of a fixed version and hash is fetched and built along. For machines without network, FETCHCONTENT_SOURCE_DIR_
# and the name in capitals says where unpacked sources lie.
include(FetchContent)
option(HIPTRAIN_FETCH_HEADERS
  "Fetch CLI11, fmt, GoogleTest, nlohmann-json, xxHash and yaml-cpp where they are missing" OFF)

# Debian's pool has the source archives of every library under one address; old releases move to archive.debian.org.
set(hiptrain_pools "https://deb.debian.org/debian/pool/main" "https://archive.debian.org/debian/pool/main")
set(hiptrain_archive_CLI11 c/cli11/cli11_2.4.1+ds.orig.tar.xz
  0b8fbf2398875f15f30a675c7f412123a2aaa38df2863e991de72004fd5f1292)
set(hiptrain_archive_fmt f/fmtlib/fmtlib_10.1.1+ds1.orig.tar.gz
  7000f214d2628f04174822f8048c573f1608194408d7931121595a03f1c18a17)
set(hiptrain_archive_GTest g/googletest/googletest_1.12.1.orig.tar.gz
  81964fe578e9bd7c94dfdb09c8e4d6e6759e19967e397dbea48d1c10e45d0df2)
set(hiptrain_archive_nlohmann_json n/nlohmann-json3/nlohmann-json3_3.11.3.orig.tar.gz
  0d8ef5af7f9794e3263480193c491549b2ba6cc74bb018906202ada498a79406)
set(hiptrain_archive_xxHash x/xxhash/xxhash_0.8.3.orig.tar.gz
  aae608dfe8213dfd05d909a57718ef82f30722c392344583d3f39050c7f29a80)
set(hiptrain_archive_yaml-cpp y/yaml-cpp/yaml-cpp_0.8.0+dfsg.orig.tar.xz
  32c85a5f36633a9005b20261b35fccb0d8ec69e9ef16c67de7d5d007944e3709)

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
  list(TRANSFORM hiptrain_pools APPEND "/${archive}" OUTPUT_VARIABLE urls)
  list(GET hiptrain_archive_${name} 1 hash)
  string(TOUPPER ${name} upper_name)
  if(FETCHCONTENT_SOURCE_DIR_${upper_name})
    message(STATUS "${name} was not found and is built from ${FETCHCONTENT_SOURCE_DIR_${upper_name}}")
  else()
    message(STATUS "${name} was not found and is built from Debian's source archive ${archive}")
  endif()
  set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)  # the options below also hold for sources of old CMake versions
  set(CMAKE_POLICY_VERSION_MINIMUM 3.5)
  set(BUILD_SHARED_LIBS OFF)
  foreach(option CLI11_BUILD_TESTS CLI11_BUILD_EXAMPLES CLI11_BUILD_DOCS CLI11_INSTALL FMT_INSTALL INSTALL_GTEST
      JSON_BuildTests JSON_Install YAML_CPP_BUILD_CONTRIB YAML_CPP_BUILD_TESTS YAML_CPP_BUILD_TOOLS YAML_CPP_INSTALL)
    set(${option} OFF)
  endforeach()
  string(TOLOWER ${name} lower_name)
  FetchContent_Declare(${name} URL ${urls} URL_HASH SHA256=${hash} ${ARGN})
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
