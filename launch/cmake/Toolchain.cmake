# Chooses the Python, the CUDA compiler and LibTorch's place before the languages are enabled. The usual variables
# decide: Python_EXECUTABLE; CMAKE_CUDA_COMPILER, CUDACXX or CUDAToolkit_ROOT; Torch_DIR, Torch_ROOT or
# CMAKE_PREFIX_PATH. What they leave open is taken from the .venv of launch/setup.sh, and where there is none from PATH.
set(hiptrain_venv "${CMAKE_CURRENT_SOURCE_DIR}/.venv")

# A Python with torch and pytest: wheels bring LibTorch, NCCL, cuDNN and CUTLASS, and the tools and tests run in it.
if(NOT Python_EXECUTABLE AND EXISTS "${hiptrain_venv}/bin/python")
  set(Python_EXECUTABLE "${hiptrain_venv}/bin/python")
elseif(NOT Python_EXECUTABLE)
  find_program(Python_EXECUTABLE NAMES python3 python REQUIRED)
endif()
set(hiptrain_python "${Python_EXECUTABLE}")
execute_process(
  COMMAND "${hiptrain_python}" -c "import importlib.util, pathlib, sysconfig
torch = importlib.util.find_spec('torch')
print(pathlib.Path(torch.origin).parents[1] if torch and torch.origin else sysconfig.get_path('purelib'))"
  OUTPUT_VARIABLE hiptrain_site_packages OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)

function(hiptrain_find_nvcc result)
  set(toolkit "${CUDAToolkit_ROOT}")
  if(NOT toolkit)
    set(toolkit "$ENV{CUDAToolkit_ROOT}")
  endif()
  if(NOT toolkit AND EXISTS "${hiptrain_venv}/cuda_toolkit")
    file(STRINGS "${hiptrain_venv}/cuda_toolkit" toolkit LIMIT_COUNT 1)
    get_filename_component(toolkit "${toolkit}" ABSOLUTE)  # wheels: relative to the tree
  endif()
  if(toolkit)
    set(nvcc "${toolkit}/bin/nvcc")
  else()
    find_program(nvcc nvcc PATHS ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES bin NO_CACHE)
  endif()
  if(NOT EXISTS "${nvcc}")
    message(FATAL_ERROR "No CUDA compiler (${nvcc}): set CUDAToolkit_ROOT to a CUDA toolkit of version 12.8 or newer, "
      "put its nvcc on PATH, or run 'bash launch/setup.sh'.")
  endif()
  set(${result} "${nvcc}" PARENT_SCOPE)
endfunction()

if(NOT CMAKE_CUDA_COMPILER AND "$ENV{CUDACXX}" STREQUAL "")
  hiptrain_find_nvcc(CMAKE_CUDA_COMPILER)
endif()
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
