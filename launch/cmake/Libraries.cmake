# LibTorch, MPI, NCCL, cuDNN and the small libraries.
set(MPI_CXX_SKIP_MPICXX ON)  # the old C++ bindings of mpi.h do not link
set(MPI_DETERMINE_LIBRARY_VERSION ON)
find_package(MPI 3.1 REQUIRED COMPONENTS CXX)  # by MPI_HOME, MPI_CXX_COMPILER or PATH
include(FetchedLibraries)
hiptrain_find_or_fetch(yaml-cpp)
hiptrain_find_or_fetch(nlohmann_json)
hiptrain_find_or_fetch(CLI11)
hiptrain_find_or_fetch(fmt)  # used as headers only: the program needs no libfmt.so where it runs
if(TARGET yaml-cpp AND NOT TARGET yaml-cpp::yaml-cpp)  # the name before 0.8
  add_library(yaml-cpp::yaml-cpp ALIAS yaml-cpp)
endif()
find_path(XXHASH_INCLUDE_DIR xxhash.h)
if(NOT XXHASH_INCLUDE_DIR)
  hiptrain_fetch(xxHash SOURCE_SUBDIR none)  # only its header is used
  set(XXHASH_INCLUDE_DIR "${xxhash_SOURCE_DIR}")
endif()
add_library(hiptrain_xxhash INTERFACE)
target_include_directories(hiptrain_xxhash SYSTEM INTERFACE "${XXHASH_INCLUDE_DIR}")
add_library(xxHash::xxhash ALIAS hiptrain_xxhash)

# libtorch.so exports parts of the C++ library it was built with, std::filesystem among them, and those crash: the
# machine's own C++ library must be the first that the loader searches.
add_link_options("LINKER:--push-state,--no-as-needed" -lstdc++ "LINKER:--pop-state")

find_package(Torch QUIET HINTS "${hiptrain_site_packages}/torch/share/cmake/Torch")
if(NOT Torch_FOUND)
  message(FATAL_ERROR "LibTorch 2.9 or newer was not found: set Torch_DIR to the folder of its TorchConfig.cmake or "
    "Python_EXECUTABLE to a Python that has torch (here it is ${hiptrain_python}), or run 'bash launch/setup.sh'.")
elseif(NOT TARGET torch_cuda)
  message(FATAL_ERROR "LibTorch ${Torch_VERSION} (${Torch_DIR}) was built without CUDA; one with CUDA is needed.")
endif()
set(hiptrain_cuda_of_torch "")
if(EXISTS "${TORCH_INSTALL_PREFIX}/version.py")
  file(STRINGS "${TORCH_INSTALL_PREFIX}/version.py" hiptrain_version_line REGEX "^cuda.*'[0-9]+\\.")
  if(hiptrain_version_line MATCHES "'([0-9]+)\\.")
    set(hiptrain_cuda_of_torch ${CMAKE_MATCH_1})
  endif()
endif()
hiptrain_check_torch(${Torch_VERSION} "${Torch_DIR}" "${hiptrain_cuda_of_torch}" ${CMAKE_CUDA_COMPILER_VERSION})
list(FILTER TORCH_LIBRARIES EXCLUDE REGEX "NOTFOUND")
add_library(hiptrain_torch INTERFACE)
target_include_directories(hiptrain_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
target_link_libraries(hiptrain_torch INTERFACE ${TORCH_LIBRARIES})

# ATen's header is compiled once, for all libraries that use tensors (REUSE_FROM).
file(CONFIGURE OUTPUT aten_header.cpp CONTENT "// Holds a precompiled header.\n")
add_library(hiptrain_aten_header OBJECT ${CMAKE_CURRENT_BINARY_DIR}/aten_header.cpp)
target_link_libraries(hiptrain_aten_header PRIVATE hiptrain_warnings hiptrain_torch)
target_precompile_headers(hiptrain_aten_header PRIVATE <ATen/ATen.h>)

# NCCL and cuDNN are those that LibTorch loads. Where it is a wheel they lie beside it; else they are found by
# NCCL_ROOT, CUDNN_ROOT or CMAKE_PREFIX_PATH, or in the toolkit.
function(hiptrain_find_beside_torch name wheel header)
  set(roots "${${name}_ROOT}" "$ENV{${name}_ROOT}" "${TORCH_INSTALL_PREFIX}/../nvidia/${wheel}")
  find_path(${name}_INCLUDE_DIR ${header} HINTS ${roots} PATH_SUFFIXES include NO_DEFAULT_PATH)
  find_path(${name}_INCLUDE_DIR ${header} HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
  find_library(${name}_LIBRARY NAMES ${ARGN} HINTS ${roots} PATH_SUFFIXES lib lib64 NO_DEFAULT_PATH)
  find_library(${name}_LIBRARY NAMES ${ARGN} HINTS ${CUDAToolkit_LIBRARY_DIR} "${hiptrain_cuda_root}/lib" REQUIRED)
endfunction()
hiptrain_find_beside_torch(NCCL nccl nccl.h libnccl.so.2 nccl)
hiptrain_find_beside_torch(CUDNN cudnn cudnn.h libcudnn.so.9 cudnn)
add_library(hiptrain_nccl INTERFACE)
target_include_directories(hiptrain_nccl SYSTEM INTERFACE "${NCCL_INCLUDE_DIR}" ${CUDAToolkit_INCLUDE_DIRS})
target_link_libraries(hiptrain_nccl INTERFACE "${NCCL_LIBRARY}" CUDA::cudart)
add_library(hiptrain_cudnn INTERFACE)
target_include_directories(hiptrain_cudnn SYSTEM INTERFACE "${CUDNN_INCLUDE_DIR}" ${CUDAToolkit_INCLUDE_DIRS})
target_link_libraries(hiptrain_cudnn INTERFACE "${CUDNN_LIBRARY}")

message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION}: ${hiptrain_cuda_root}; LibTorch ${Torch_VERSION}: ${Torch_DIR}")
string(REGEX REPLACE "[\n,].*" "" hiptrain_mpi_version "${MPI_CXX_LIBRARY_VERSION_STRING}")
message(STATUS "MPI: ${hiptrain_mpi_version}; launched by ${MPIEXEC_EXECUTABLE}")
message(STATUS "NCCL: ${NCCL_LIBRARY}; cuDNN: ${CUDNN_LIBRARY}; Python: ${hiptrain_python}")
