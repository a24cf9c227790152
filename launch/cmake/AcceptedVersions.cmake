# Which versions of CUDA and LibTorch are accepted. launch/README.md has the same as a table.
function(hiptrain_check_cuda version compiler)
  if(version VERSION_LESS 12.8)
    message(FATAL_ERROR "CUDA ${version} (${compiler}) is too old: 12.8 or newer is needed; set CUDAToolkit_ROOT to "
      "another toolkit.")
  elseif(version VERSION_LESS 13 OR version VERSION_GREATER_EQUAL 14)
    message(WARNING "CUDA ${version} is accepted, but has not been tested; 13.0 has.")
  endif()
endfunction()

# cuda_of_torch: the major version of CUDA that LibTorch was built with; empty if it does not say so.
function(hiptrain_check_torch version folder cuda_of_torch cuda_version)
  if(version VERSION_LESS 2.9)
    message(FATAL_ERROR "LibTorch ${version} (${folder}) is too old: 2.9 or newer is needed; set Torch_DIR to the folder "
      "of another TorchConfig.cmake.")
  elseif(NOT version MATCHES "^2\\.11(\\.|$)")
    message(WARNING "LibTorch ${version} is accepted, but has not been tested; 2.11 has.")
  endif()
  string(REGEX MATCH "^[0-9]+" cuda_major "${cuda_version}")
  if(NOT cuda_of_torch STREQUAL "" AND NOT cuda_of_torch STREQUAL cuda_major)
    message(FATAL_ERROR "LibTorch ${version} (${folder}) was built with CUDA ${cuda_of_torch}, and the CUDA compiler is "
      "${cuda_version}; their major versions must agree: set CUDAToolkit_ROOT or Torch_DIR.")
  endif()
endfunction()
