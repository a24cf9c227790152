// SIGTERM, SIGINT and SIGUSR1 ask a run to finish its step (or to give it up: train.on_signal), save and stop.
#pragma once

#include "distributed/communicator.h"

namespace hiptrain {

// Catches the signals while it lives; one object a process.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // Collective: whether any rank was asked to stop. The answer is the same on every rank.
  bool requested(Communicator& world) const;
};

}  // namespace hiptrain
