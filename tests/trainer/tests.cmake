# Tests of trainer/.
foreach(name model_config model_export rope_frequencies safetensors)
  hiptrain_add_test(${name}_test SOURCES trainer/${name}_test.cpp LIBS hiptrain_trainer)
endforeach()
target_compile_definitions(rope_frequencies_test PRIVATE HIPTRAIN_GOLDEN_FOLDER="${PROJECT_SOURCE_DIR}/tests/golden")
hiptrain_add_mpi_test(transformer_ranks_test RANKS 1 2 3 4 SOURCES trainer/transformer_ranks_test.cpp LIBS hiptrain_trainer)
hiptrain_add_mpi_test(checkpoint_store_test RANKS 1 2 3 SOURCES trainer/checkpoint_store_test.cpp LIBS hiptrain_trainer)
