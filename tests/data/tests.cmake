# Tests of data/.
