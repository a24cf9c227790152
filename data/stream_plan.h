// Plan of an epoch of one stream of documents: which tokens lie where in which sequence. Plans hold no tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "data/sequence_plan.h"
#include "data/token_files.h"

namespace hiptrain {

// Concatenates all documents and cuts the stream every sequence_length tokens.
class StreamPlan {
 public:
  StreamPlan(const TokenFiles& files, const StreamOptions& options);

  const PackingReport& report() const { return report_; }
  std::vector<PlacedPiece> sequence(int64_t epoch, int64_t index) const;

 private:
  // The order of the documents in one epoch.
  struct Order {
    int64_t epoch;
    // (documents + 1): position in the stream of the first token of the document at each place
    std::vector<int64_t> begins;
  };

  int64_t document_at(int64_t epoch, int64_t place) const;
  std::shared_ptr<const Order> order_of(int64_t epoch) const;

  const TokenFiles& files_;
  StreamOptions options_;
  int64_t num_tokens_ = 0;  // tokens used per epoch
  PackingReport report_;
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<const Order>> orders_;  // of the two epochs used last
};

}  // namespace hiptrain
