# Tests of trainer/: a test links the room it is of, and those whose parts it needs.
hiptrain_add_test(safetensors_test SOURCES trainer/formats/safetensors_test.cpp LIBS hiptrain_formats)

hiptrain_add_test(config_reader_test SOURCES trainer/config/config_reader_test.cpp LIBS hiptrain_config)
target_compile_definitions(config_reader_test PRIVATE HIPTRAIN_FIELDS_PAGE="${PROJECT_SOURCE_DIR}/configs/fields.md")

foreach(name host_memory profiler)
  hiptrain_add_test(${name}_test SOURCES trainer/device/${name}_test.cpp LIBS hiptrain_device)
endforeach()

hiptrain_add_test(provenance_test SOURCES trainer/provenance/provenance_test.cpp LIBS hiptrain_provenance)
target_compile_definitions(provenance_test PRIVATE HIPTRAIN_VERSION="${PROJECT_VERSION}")
add_library(fake_nvml SHARED trainer/provenance/fake_nvml.cpp)
target_link_libraries(fake_nvml PRIVATE hiptrain_warnings)
set_target_properties(fake_nvml PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/fake_nvml
  OUTPUT_NAME nvidia-ml SUFFIX .so.1)
add_dependencies(provenance_test fake_nvml)
set_tests_properties(provenance_test PROPERTIES
  ENVIRONMENT "HIPTRAIN_FAKE_NVML=yes;LD_LIBRARY_PATH=$<TARGET_FILE_DIR:fake_nvml>:$ENV{LD_LIBRARY_PATH}")
add_test(NAME build_version_test
  COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/provenance/build_version_test.sh ${CMAKE_COMMAND})
set_tests_properties(build_version_test PROPERTIES TIMEOUT 60)

foreach(name dense_attention published_selection)
  hiptrain_add_test(${name}_test SOURCES trainer/ops/${name}_test.cpp LIBS hiptrain_ops)
endforeach()

foreach(name model_checks model_config rope_frequencies)
  hiptrain_add_test(${name}_test SOURCES trainer/model/${name}_test.cpp LIBS hiptrain_model)
endforeach()
target_compile_definitions(rope_frequencies_test PRIVATE HIPTRAIN_GOLDEN_FOLDER="${PROJECT_SOURCE_DIR}/tests/golden")

foreach(name recall_report sequence_search)
  hiptrain_add_test(${name}_test SOURCES trainer/attention/${name}_test.cpp LIBS hiptrain_attention)
endforeach()
hiptrain_add_mpi_test(selection_recall_test RANKS 1
  SOURCES trainer/attention/selection_recall_test.cpp LIBS hiptrain_attention)

hiptrain_add_mpi_test(transformer_ranks_test RANKS 1 2 3 4
  SOURCES trainer/transformer/transformer_ranks_test.cpp LIBS hiptrain_transformer hiptrain_checkpoint)

hiptrain_add_mpi_test(checkpoint_store_test RANKS 1 2 3
  SOURCES trainer/checkpoint/checkpoint_store_test.cpp LIBS hiptrain_checkpoint)
hiptrain_add_test(model_export_test SOURCES trainer/checkpoint/model_export_test.cpp LIBS hiptrain_checkpoint)

hiptrain_add_mpi_test(memory_engine_test RANKS 1 2 3
  SOURCES trainer/engine/memory_engine_test.cpp LIBS hiptrain_engine)
hiptrain_add_mpi_test(training_engine_test RANKS 1 2
  SOURCES trainer/engine/training_engine_test.cpp LIBS hiptrain_engine)
hiptrain_add_mpi_test(training_step_test RANKS 1 SOURCES trainer/engine/training_step_test.cpp LIBS hiptrain_engine)
# Matrices this small are no work for several threads, which would wait for each other most of the time.
set_tests_properties(memory_engine_test_1_ranks training_engine_test_1_ranks training_step_test_1_ranks
  transformer_ranks_test_1_ranks PROPERTIES ENVIRONMENT OMP_NUM_THREADS=1)

hiptrain_add_test(memory_plan_test SOURCES trainer/planner/memory_plan_test.cpp LIBS hiptrain_planner)

foreach(name learning_rate metrics_log step_progress)
  hiptrain_add_test(${name}_test SOURCES trainer/training/${name}_test.cpp LIBS hiptrain_training)
endforeach()

hiptrain_add_test(command_line_test SOURCES trainer/commands/command_line_test.cpp LIBS hiptrain_commands)

# KILL ends at once, by mpirun; the end by heartbeat takes a minute and is run with the tests on GPUs.
add_test(NAME lost_rank_test
  COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/commands/lost_rank_test.sh KILL 30 $<TARGET_FILE:hiptrain>
          ${CMAKE_CURRENT_LIST_DIR}/commands/small_model.json --tokens 4096 --set device=cpu)
set_tests_properties(lost_rank_test PROPERTIES TIMEOUT 120 ENVIRONMENT OMP_NUM_THREADS=1)

foreach(part "logits" "not logits")
  string(REPLACE "not logits" "training" name ${part})
  add_test(NAME parity_${name}_test
    COMMAND ${hiptrain_python} -m pytest -q -p no:cacheprovider -k ${part} ${CMAKE_CURRENT_LIST_DIR}/commands/parity_test.py)
  set_tests_properties(parity_${name}_test PROPERTIES TIMEOUT 900 ENVIRONMENT "HIPTRAIN_BUILD=${CMAKE_BINARY_DIR}")
endforeach()
set(python_tests attention_command bench plan selection training)
# The trained model is too large for the repository.
set(shared ${PROJECT_SOURCE_DIR}/../shared)
if(EXISTS ${shared}/models/kernel-llama-29m AND EXISTS ${shared}/data/retrieval_8k.safetensors)
  list(APPEND python_tests quality)
else()
  message(STATUS "no quality_test: it needs models/kernel-llama-29m and data/retrieval_8k.safetensors in ../shared")
endif()
foreach(name ${python_tests})
  add_test(NAME ${name}_test
    COMMAND ${hiptrain_python} -m pytest -q -p no:cacheprovider ${CMAKE_CURRENT_LIST_DIR}/commands/${name}_test.py)
  set_tests_properties(${name}_test PROPERTIES TIMEOUT 600 ENVIRONMENT "HIPTRAIN_BUILD=${CMAKE_BINARY_DIR}")
endforeach()
