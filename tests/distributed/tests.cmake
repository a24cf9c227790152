# Tests of distributed/.
