// The main function of a test program on several MPI ranks. Rank 0 prints as usual, and prints failures of other ranks
// at the end. The program fails if a test failed on any rank.
#include <gtest/gtest.h>
#include <mpi.h>

#include <exception>
#include <iostream>
#include <sstream>
#include <string>

#include "distributed/mpi_check.h"
#include "tests/support/mpi_test.h"

namespace hiptrain {
namespace {

const MpiRuntime* runtime = nullptr;

class FailureNotes : public testing::EmptyTestEventListener {
 public:
  FailureNotes(int rank, std::string& notes) : rank_(rank), notes_(notes) {}

 private:
  // GoogleTest reports results while it holds its lock, so the test's name must be known before.
  void OnTestStart(const testing::TestInfo& test) override {
    test_ = std::string(test.test_suite_name()) + '.' + test.name();
  }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::ostringstream note;
    note << "[rank " << rank_ << "] " << test_ << ' ' << (result.file_name() ? result.file_name() : "") << ':'
         << result.line_number() << '\n'
         << result.message() << '\n';
    notes_ += note.str();
  }

  int rank_;
  std::string test_ = "outside a test";
  std::string& notes_;
};

// Rank 0 receives and prints the failures of the others.
void print_notes(const std::string& own_notes) {
  if (runtime->rank() != 0) {
    HIPTRAIN_MPI_CHECK(MPI_Send(own_notes.data(), static_cast<int>(own_notes.size()), MPI_CHAR, 0, 0, MPI_COMM_WORLD));
    return;
  }
  for (int rank = 1; rank < runtime->size(); ++rank) {
    MPI_Status status;
    int length = 0;
    HIPTRAIN_MPI_CHECK(MPI_Probe(rank, 0, MPI_COMM_WORLD, &status));
    HIPTRAIN_MPI_CHECK(MPI_Get_count(&status, MPI_CHAR, &length));
    std::string notes(length, ' ');
    HIPTRAIN_MPI_CHECK(MPI_Recv(notes.data(), length, MPI_CHAR, rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
    std::cout << notes;
  }
  std::cout << std::flush;
}

int run_tests() {
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  std::string notes;
  if (runtime->rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailureNotes(runtime->rank(), notes));
  }
  const int own_result = RUN_ALL_TESTS();
  print_notes(notes);
  int result = 1;
  HIPTRAIN_MPI_CHECK(MPI_Allreduce(&own_result, &result, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD));
  return result;
}

}  // namespace

const MpiRuntime& test_runtime() { return *runtime; }

}  // namespace hiptrain

int main(int argc, char** argv) try {
  const hiptrain::MpiRuntime mpi(&argc, &argv);
  hiptrain::runtime = &mpi;
  testing::InitGoogleTest(&argc, argv);
  return hiptrain::run_tests();
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
