# Tests of distributed/.
foreach(name communicator_test process_grid_test sequence_shard_test)
  hiptrain_add_mpi_test(${name} RANKS 1 2 3 4 SOURCES distributed/${name}.cpp LIBS hiptrain_distributed)
endforeach()

add_executable(missing_rank distributed/missing_rank.cpp)
target_link_libraries(missing_rank PRIVATE hiptrain_warnings hiptrain_distributed)
set_target_properties(missing_rank PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_test(NAME missing_rank_test
  COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/distributed/missing_rank_test.sh
          ${MPIEXEC_EXECUTABLE} $<TARGET_FILE:missing_rank>)
set_tests_properties(missing_rank_test PROPERTIES TIMEOUT 60)

# A process that another MPI's launcher started must say so.
add_test(NAME foreign_launcher_test COMMAND process_grid_test)
set_tests_properties(foreign_launcher_test PROPERTIES TIMEOUT 60 ENVIRONMENT "PMI_SIZE=3"
  PASS_REGULAR_EXPRESSION "3 processes were started \\(PMI_SIZE\\)")

add_executable(failing_rank support/failing_rank.cpp $<TARGET_OBJECTS:hiptrain_mpi_main>)
target_link_libraries(failing_rank PRIVATE hiptrain_warnings hiptrain_distributed GTest::gtest)
set_target_properties(failing_rank PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_test(NAME failing_rank_test
  COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/support/failing_rank_test.sh
          ${MPIEXEC_EXECUTABLE} $<TARGET_FILE:failing_rank>)
set_tests_properties(failing_rank_test PROPERTIES TIMEOUT 60)
