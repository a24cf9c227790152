# `cmake --install build --prefix X` copies the program to X/bin and the tools, scripts, configs and pages that belong to
# it to X/share/hiptrain, with the folders of this repository. X can be moved. Libraries are not copied: the program
# looks for them in X/lib, then where they were when it was configured.
install(TARGETS hiptrain RUNTIME DESTINATION bin)
set(library_folders "${TORCH_INSTALL_PREFIX}/lib")
foreach(library "${CUDA_cudart_LIBRARY}" "${NCCL_LIBRARY}" "${CUDNN_LIBRARY}")
  get_filename_component(folder "${library}" DIRECTORY)
  list(APPEND library_folders "${folder}")
endforeach()
list(REMOVE_DUPLICATES library_folders)
set_target_properties(hiptrain PROPERTIES
  INSTALL_RPATH "$ORIGIN/../lib;${library_folders}"
  INSTALL_RPATH_USE_LINK_PATH ON)  # the folders of the other libraries, such as MPI's

set(share share/hiptrain)
install(FILES LICENSE README.md CHANGELOG.md CITATION.cff DESTINATION ${share})
install(DIRECTORY configs DESTINATION ${share})
install(DIRECTORY data DESTINATION ${share} FILES_MATCHING PATTERN "*.py" PATTERN __pycache__ EXCLUDE)
install(DIRECTORY launch DESTINATION ${share} FILES_MATCHING
  PATTERN "*.py" PATTERN README.md PATTERN "requirements*.txt"
  PATTERN __pycache__ EXCLUDE PATTERN cmake EXCLUDE PATTERN summarize_tests.py EXCLUDE)
install(PROGRAMS launch/mpirun.sh launch/slurm.sbatch DESTINATION ${share}/launch)
