# Tests of data/.
hiptrain_add_test(token_file_test SOURCES data/token_file_test.cpp LIBS hiptrain_data)
hiptrain_add_test(packing_test SOURCES data/packing_test.cpp LIBS hiptrain_data)
hiptrain_add_test(batch_stream_test SOURCES data/batch_stream_test.cpp LIBS hiptrain_data)
foreach(name prepare_tokens document_cutter)
  add_test(NAME ${name}_test
    COMMAND ${hiptrain_python} -m pytest -q -p no:cacheprovider ${CMAKE_CURRENT_LIST_DIR}/${name}_test.py)
  set_tests_properties(${name}_test PROPERTIES TIMEOUT 300)
endforeach()
