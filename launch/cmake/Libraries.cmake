# LibTorch, MPI, NCCL, cuDNN and the small libraries.
set(MPI_CXX_SKIP_MPICXX ON)  # the old C++ bindings of mpi.h do not link
find_package(MPI REQUIRED COMPONENTS CXX)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(fmt REQUIRED)  # used as headers only: the program needs no libfmt.so where it runs
if(TARGET yaml-cpp AND NOT TARGET yaml-cpp::yaml-cpp)  # the name before 0.8
  add_library(yaml-cpp::yaml-cpp ALIAS yaml-cpp)
endif()

# libtorch.so exports parts of the C++ library it was built with, std::filesystem among them, and those crash: the
# machine's own C++ library must be the first that the loader searches.
add_link_options("LINKER:--push-state,--no-as-needed" -lstdc++ "LINKER:--pop-state")

find_package(Torch REQUIRED)
list(FILTER TORCH_LIBRARIES EXCLUDE REGEX "NOTFOUND")
add_library(hiptrain_torch INTERFACE)
target_include_directories(hiptrain_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
target_link_libraries(hiptrain_torch INTERFACE ${TORCH_LIBRARIES})

# ATen's header is compiled once, for all libraries that use tensors (REUSE_FROM).
file(CONFIGURE OUTPUT aten_header.cpp CONTENT "// Holds a precompiled header.\n")
add_library(hiptrain_aten_header OBJECT ${CMAKE_CURRENT_BINARY_DIR}/aten_header.cpp)
target_link_libraries(hiptrain_aten_header PRIVATE hiptrain_warnings hiptrain_torch)
target_precompile_headers(hiptrain_aten_header PRIVATE <ATen/ATen.h>)

# NCCL and cuDNN: of the same site-packages as torch, else of the toolkit.
set(hiptrain_cuda_libraries "${hiptrain_cuda_root}/lib64" "${hiptrain_cuda_root}/lib")
find_path(NCCL_INCLUDE_DIR nccl.h
  HINTS "${hiptrain_site_packages}/nvidia/nccl/include" "${hiptrain_cuda_root}/include" NO_DEFAULT_PATH REQUIRED)
find_library(NCCL_LIBRARY NAMES libnccl.so.2 nccl
  HINTS "${hiptrain_site_packages}/nvidia/nccl/lib" ${hiptrain_cuda_libraries} NO_DEFAULT_PATH REQUIRED)
find_path(CUDNN_INCLUDE_DIR cudnn.h
  HINTS "${hiptrain_site_packages}/nvidia/cudnn/include" "${hiptrain_cuda_root}/include" NO_DEFAULT_PATH REQUIRED)
find_library(CUDNN_LIBRARY NAMES libcudnn.so.9 cudnn
  HINTS "${hiptrain_site_packages}/nvidia/cudnn/lib" ${hiptrain_cuda_libraries} NO_DEFAULT_PATH REQUIRED)
add_library(hiptrain_nccl INTERFACE)
target_include_directories(hiptrain_nccl SYSTEM INTERFACE "${NCCL_INCLUDE_DIR}" ${CUDAToolkit_INCLUDE_DIRS})
target_link_libraries(hiptrain_nccl INTERFACE "${NCCL_LIBRARY}" CUDA::cudart)
add_library(hiptrain_cudnn INTERFACE)
target_include_directories(hiptrain_cudnn SYSTEM INTERFACE "${CUDNN_INCLUDE_DIR}" ${CUDAToolkit_INCLUDE_DIRS})
target_link_libraries(hiptrain_cudnn INTERFACE "${CUDNN_LIBRARY}")
