# Tests of distributed/.
hiptrain_add_test(sequence_shard_test SOURCES distributed/sequence_shard_test.cpp LIBS hiptrain_distributed)
foreach(name communicator_test process_grid_test sequence_rows_test)
  hiptrain_add_mpi_test(${name} RANKS 1 2 3 4 SOURCES distributed/${name}.cpp LIBS hiptrain_distributed)
endforeach()

# Runs a program in which one rank fails, and checks its exit code and message.
function(add_failing_ranks_test name exit_code message)
  target_link_libraries(${name} PRIVATE hiptrain_warnings hiptrain_distributed)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name}_test
    COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/support/failing_ranks_test.sh
            $<TARGET_FILE:${name}> ${exit_code} ${message})
  set_tests_properties(${name}_test PROPERTIES TIMEOUT 60)
endfunction()

# One rank does not join a collective; one is stopped; one fails a test, which rank 0 must print.
add_executable(missing_rank distributed/missing_rank.cpp)
add_failing_ranks_test(missing_rank 6
  "\\[rank [01]\\] collective all_reduce_sum \\(number 2\\) did not complete within 2 s: no answer from rank 2")
add_executable(stopped_rank distributed/stopped_rank.cpp)
add_failing_ranks_test(stopped_rank 6
  "\\[rank 0\\] rank 2 has sent no heartbeat for 3 s: .*last known collective was all_reduce_sum \\(number 1\\)")
add_executable(failing_rank support/failing_rank.cpp $<TARGET_OBJECTS:hiptrain_mpi_main>)
target_link_libraries(failing_rank PRIVATE GTest::gtest)
add_failing_ranks_test(failing_rank 1 "^\\[rank 1\\] FailingRank\\.FailsOnRankOne .*failing_rank\\.cpp:")

# A process that was started by another MPI's launcher must report it.
add_test(NAME foreign_launcher_test COMMAND process_grid_test)
set_tests_properties(foreign_launcher_test PROPERTIES TIMEOUT 60 ENVIRONMENT "PMI_SIZE=3"
  PASS_REGULAR_EXPRESSION "3 processes were started \\(PMI_SIZE\\)")
