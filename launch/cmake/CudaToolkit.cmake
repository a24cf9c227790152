# The toolkit of the CUDA compiler, whether its version is accepted, and CUTLASS's headers.
include(AcceptedVersions)
hiptrain_check_cuda(${CMAKE_CUDA_COMPILER_VERSION} "${CMAKE_CUDA_COMPILER}")

# What is on PATH may be a wrapper elsewhere, so nvcc itself is asked where its toolkit is.
execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --dryrun -x cu /dev/null
  ERROR_VARIABLE hiptrain_dryrun OUTPUT_QUIET)
if(hiptrain_dryrun MATCHES "TOP=([^\n]+)")
  get_filename_component(hiptrain_cuda_root "${CMAKE_MATCH_1}" REALPATH)
else()
  get_filename_component(hiptrain_cuda_root "${CMAKE_CUDA_COMPILER}" REALPATH)
  get_filename_component(hiptrain_cuda_root "${hiptrain_cuda_root}/../.." ABSOLUTE)
endif()
if(NOT CUDAToolkit_ROOT)
  set(CUDAToolkit_ROOT "${hiptrain_cuda_root}")
endif()
set(CUDA_TOOLKIT_ROOT_DIR "${hiptrain_cuda_root}" CACHE PATH "" FORCE)  # read by LibTorch's own CMake files
find_package(CUDAToolkit REQUIRED)

find_path(CUTLASS_INCLUDE_DIR cute/tensor.hpp HINTS "${hiptrain_site_packages}/cutlass_library/source/include")
if(NOT CUTLASS_INCLUDE_DIR)
  message(FATAL_ERROR "CUTLASS's headers were not found: set CUTLASS_INCLUDE_DIR to the folder of cute/tensor.hpp, or "
    "run '${hiptrain_python} -m pip install --no-deps nvidia-cutlass==4.2.0.0'.")
endif()
# The real path: ccache keeps this option as it is written, and working trees may share one .venv by links.
file(REAL_PATH "${CUTLASS_INCLUDE_DIR}" hiptrain_cutlass_headers)
add_library(hiptrain_cutlass INTERFACE)
target_include_directories(hiptrain_cutlass SYSTEM INTERFACE "${hiptrain_cutlass_headers}")
