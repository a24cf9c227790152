# Tests of launch/, of the tools in tests/bench, and of pages.
add_test(NAME run_tools_test
  COMMAND ${hiptrain_python} -m pytest -q ${CMAKE_CURRENT_SOURCE_DIR}/launch/run_tools_test.py)
add_test(NAME summarize_tests_test
  COMMAND ${hiptrain_python} -m pytest -q ${CMAKE_CURRENT_SOURCE_DIR}/launch/summarize_tests_test.py)
add_test(NAME make_retrieval_test
  COMMAND ${hiptrain_python} -m pytest -q -p no:cacheprovider ${CMAKE_CURRENT_SOURCE_DIR}/launch/make_retrieval_test.py)
foreach(name make_results pages)
  add_test(NAME ${name}_test
    COMMAND ${hiptrain_python} -m pytest -q -p no:cacheprovider ${CMAKE_CURRENT_SOURCE_DIR}/launch/${name}_test.py)
endforeach()
foreach(name mpirun mpirun_arguments slurm)
  add_test(NAME ${name}_test COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/launch/${name}_test.sh)
  set_tests_properties(${name}_test PROPERTIES TIMEOUT 60)
endforeach()
add_test(NAME refuse_serialized_wgmma_test
  COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/launch/refuse_serialized_wgmma_test.sh ${CMAKE_CUDA_COMPILER})
set_tests_properties(run_tools_test summarize_tests_test make_retrieval_test make_results_test pages_test PROPERTIES TIMEOUT 120)
add_test(NAME install_test COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/launch/install_test.sh
  ${CMAKE_COMMAND} ${CMAKE_BINARY_DIR} ${hiptrain_python})
set_tests_properties(install_test PROPERTIES TIMEOUT 120)
add_test(NAME accepted_versions_test COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/launch/accepted_versions_test.sh ${CMAKE_COMMAND})
set_tests_properties(accepted_versions_test PROPERTIES TIMEOUT 60)
