// Fails on rank 1 only; see failing_rank_test.sh.
#include <gtest/gtest.h>

#include "tests/support/mpi_test.h"

TEST(FailingRank, FailsOnRankOne) { EXPECT_NE(hiptrain::test_runtime().rank(), 1) << "as it should"; }
