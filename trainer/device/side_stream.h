// Work that goes on beside the computation: host copies and collectives.
//
// The compute stream is the current stream of the thread that calls. Rules for tensors of such work: they are allocated
// on the compute stream, before, and named in run(); the ticket keeps them until the compute stream waits for it, so
// their memory is never handed out while the work is under way.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <vector>

namespace hiptrain {

class SideStream {
 public:
  // Work under way. If it was not waited for, the compute stream waits when the ticket is destroyed.
  class Ticket {
   public:
    Ticket() = default;  // of no work: nothing to wait for
    bool pending() const { return work_ != nullptr; }

   private:
    friend class SideStream;
    struct Work;
    std::shared_ptr<Work> work_;
  };

  // exposed_name: of the profiled range in which the compute stream waits; a literal.
  SideStream(at::Device device, const char* exposed_name);
  ~SideStream();
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

  // Gives `work` to the side stream, which starts on it after all that the compute stream was given so far. Within
  // `work` the side stream is the current one. On the CPU the work is done when this returns.
  Ticket run(const std::function<void()>& work, std::vector<at::Tensor> tensors);

  // From here on the compute stream has the results; the host does not wait. A second wait does nothing.
  void wait(Ticket& ticket);

  // The host waits for all work that was given so far.
  void synchronize();

  // Seconds that the compute stream has waited since the last reading; on the CPU all time of the work. Waits for the
  // device.
  double take_exposed_seconds();

 private:
  class Streams;  // of CUDA

  const char* exposed_name_;
  std::unique_ptr<Streams> streams_;  // none on the CPU
  double host_seconds_ = 0;
};

}  // namespace hiptrain
