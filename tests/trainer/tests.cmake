# Tests of trainer/.
