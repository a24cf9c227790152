# Tests of data/.
hiptrain_add_test(token_file_test SOURCES data/token_file_test.cpp LIBS hiptrain_data)
hiptrain_add_test(packing_test SOURCES data/packing_test.cpp LIBS hiptrain_data)
hiptrain_add_test(batch_stream_test SOURCES data/batch_stream_test.cpp LIBS hiptrain_data)
