# Tests of distributed/.
hiptrain_add_test(sequence_shard_test SOURCES distributed/sequence_shard_test.cpp LIBS hiptrain_distributed)
foreach(name communicator_test process_grid_test sequence_rows_test)
  hiptrain_add_mpi_test(${name} RANKS 1 2 3 4 SOURCES distributed/${name}.cpp LIBS hiptrain_distributed)
endforeach()

# Ranks that stay away, and ranks that are stopped: programs that must end in a message and exit code 6.
foreach(name missing_rank stopped_rank)
  add_executable(${name} distributed/${name}.cpp)
  target_link_libraries(${name} PRIVATE hiptrain_warnings hiptrain_distributed)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name}_test
    COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/distributed/${name}_test.sh
            ${MPIEXEC_EXECUTABLE} $<TARGET_FILE:${name}>)
  set_tests_properties(${name}_test PROPERTIES TIMEOUT 60)
endforeach()

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
