# Tests of kernels/.
add_library(attention_case STATIC support/attention_case.cpp support/attention_definition.cpp)
target_link_libraries(attention_case PRIVATE hiptrain_warnings PUBLIC hiptrain_kernels GTest::gtest)
hiptrain_add_test(sparse_attention_test SOURCES kernels/sparse_attention_test.cpp LIBS attention_case)
hiptrain_add_test(sparse_attention_gradient_test SOURCES kernels/sparse_attention_gradient_test.cpp LIBS attention_case)
hiptrain_add_test(matrix_tile_test SOURCES kernels/reference/matrix_tile_test.cpp LIBS hiptrain_kernels)
add_executable(sparse_attention_bench EXCLUDE_FROM_ALL bench/sparse_attention_bench.cpp)
target_link_libraries(sparse_attention_bench PRIVATE hiptrain_warnings attention_case)
hiptrain_add_test(attention_geometry_test SOURCES kernels/attention_geometry_test.cpp LIBS hiptrain_kernels)
hiptrain_add_test(element_test SOURCES kernels/element_test.cpp LIBS hiptrain_kernels)
hiptrain_add_test(index_test SOURCES kernels/index_test.cpp LIBS hiptrain_kernels CUDA::cudart_static)
hiptrain_add_test(invert_lists_test SOURCES kernels/invert_lists_test.cpp LIBS hiptrain_kernels CUDA::cudart_static)
hiptrain_add_test(published_search_test SOURCES kernels/published_search_test.cpp LIBS hiptrain_kernels CUDA::cudart_static)
hiptrain_add_test(search_test SOURCES kernels/search_test.cpp LIBS hiptrain_kernels CUDA::cudart_static)
hiptrain_add_test(search_tree_test SOURCES kernels/search_tree_test.cpp LIBS hiptrain_kernels CUDA::cudart_static)
hiptrain_add_test(sliding_union_test SOURCES kernels/sliding_union_test.cpp LIBS hiptrain_kernels CUDA::cudart_static)

# Timing of the CPU search: built, run by hand.
add_executable(search_bench bench/search_bench.cpp)
target_link_libraries(search_bench PRIVATE hiptrain_warnings hiptrain_kernels)
set_target_properties(search_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)

# Timing of the selection on a GPU: built, run by hand.
add_executable(selection_bench EXCLUDE_FROM_ALL bench/selection_bench.cu)
target_include_directories(selection_bench PRIVATE ${PROJECT_SOURCE_DIR})
target_compile_options(selection_bench PRIVATE --expt-relaxed-constexpr)
target_link_libraries(selection_bench PRIVATE hiptrain_warnings hiptrain_kernels hiptrain_cutlass CUDA::cudart_static)
set_target_properties(selection_bench PROPERTIES CUDA_ARCHITECTURES 90a
  RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)

foreach(kernel adamw cross_entropy embedding pointwise_large rms_norm rope sum_of_squares swiglu)
  hiptrain_add_test(${kernel}_test SOURCES kernels/${kernel}_test.cpp LIBS hiptrain_kernels CUDA::cudart_static)
endforeach()

# Timing of the GPU kernels: built, run by hand on a machine with a GPU.
add_executable(attention_bench bench/attention_bench.cu)
target_link_libraries(attention_bench PRIVATE hiptrain_warnings hiptrain_kernels)
set_target_properties(attention_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests
  CUDA_ARCHITECTURES 90a)
hiptrain_add_test(stochastic_rounding_test SOURCES kernels/stochastic_rounding_test.cpp LIBS hiptrain_kernels)
