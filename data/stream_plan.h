// Which tokens lie where in the sequences of an epoch, of one stream of documents. Plans hold no tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "data/sequence_plan.h"
#include "data/token_files.h"

namespace hiptrain {

// All documents one after the other, cut every sequence_length tokens.
class StreamPlan {
 public:
  StreamPlan(const TokenFiles& files, const StreamOptions& options);

  const PackingReport& report() const { return report_; }
  std::vector<PlacedPiece> sequence(int64_t epoch, int64_t index) const;

 private:
  // The documents of one epoch in their order there.
  struct Order {
    int64_t epoch;
    std::vector<int64_t> begins;  // (documents + 1): the token of the stream at which each place's document begins
  };

  int64_t document_at(int64_t epoch, int64_t place) const;
  std::shared_ptr<const Order> order_of(int64_t epoch) const;

  const TokenFiles& files_;
  StreamOptions options_;
  int64_t num_tokens_ = 0;  // taken in an epoch
  PackingReport report_;
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<const Order>> orders_;  // the last two asked for
};

}  // namespace hiptrain
