# Finds nvcc 13.x and LibTorch before the languages are enabled, from what launch/setup.sh left in .venv.
set(hiptrain_venv "${CMAKE_CURRENT_SOURCE_DIR}/.venv")
file(GLOB hiptrain_site_packages "${hiptrain_venv}/lib/python3*/site-packages")
if(NOT EXISTS "${hiptrain_venv}/cuda_toolkit" OR NOT hiptrain_site_packages)
  message(FATAL_ERROR "No complete .venv in ${CMAKE_CURRENT_SOURCE_DIR}: run 'bash launch/setup.sh' first.")
endif()
set(hiptrain_python "${hiptrain_venv}/bin/python")
set(Python_EXECUTABLE "${hiptrain_python}")  # LibTorch looks for a Python while it configures
list(APPEND CMAKE_PREFIX_PATH "${hiptrain_site_packages}/torch/share/cmake")

if(NOT CMAKE_CUDA_COMPILER)
  file(STRINGS "${hiptrain_venv}/cuda_toolkit" hiptrain_cuda_root LIMIT_COUNT 1)
  get_filename_component(hiptrain_cuda_root "${hiptrain_cuda_root}" ABSOLUTE)  # wheels: relative to the tree
  set(CMAKE_CUDA_COMPILER "${hiptrain_cuda_root}/bin/nvcc")
endif()
get_filename_component(hiptrain_cuda_root "${CMAKE_CUDA_COMPILER}" REALPATH)
get_filename_component(hiptrain_cuda_root "${hiptrain_cuda_root}" DIRECTORY)
get_filename_component(hiptrain_cuda_root "${hiptrain_cuda_root}" DIRECTORY)
set(CUDAToolkit_ROOT "${hiptrain_cuda_root}")
set(CUDA_TOOLKIT_ROOT_DIR "${hiptrain_cuda_root}" CACHE PATH "" FORCE)  # read by LibTorch's own CMake files
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90a)
endif()
set(ENV{TORCH_CUDA_ARCH_LIST} "9.0")  # else LibTorch asks for architectures that CUDA 13 has dropped
set(TORCH_CUDA_ARCH_LIST "9.0")

find_program(hiptrain_ccache ccache)
if(hiptrain_ccache AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Precompiled headers are cached only under this sloppiness.
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      "${hiptrain_ccache}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${hiptrain_ccache}")
endif()
