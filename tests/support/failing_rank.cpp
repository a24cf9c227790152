// A test that fails on rank 1 only (see tests/distributed/tests.cmake).
#include <gtest/gtest.h>

#include "tests/support/mpi_test.h"

TEST(FailingRank, FailsOnRankOne) { EXPECT_NE(hiptrain::test_runtime().rank(), 1) << "as it should"; }
