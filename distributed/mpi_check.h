// Checks MPI calls: HIPTRAIN_MPI_CHECK(MPI_Barrier(comm)) throws with the expression and MPI's own error text.
#pragma once

#include <mpi.h>

#include <string>

#include "distributed/communicator.h"

namespace hiptrain {

inline void check_mpi(int result, const char* expression) {
  if (result == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(result, text, &length);
  throw CommunicationError(std::string(expression) + " failed: " + std::string(text, length));
}

}  // namespace hiptrain

#define HIPTRAIN_MPI_CHECK(expression) ::hiptrain::check_mpi((expression), #expression)
