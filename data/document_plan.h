// Plan of an epoch of isolated documents: which tokens lie where in which sequence. Plans hold no tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "data/sequence_plan.h"
#include "data/token_files.h"

namespace hiptrain {

// Places isolated documents. With shuffling they are packed by best fit, which depends only on their sizes. From epoch
// to epoch, documents of equal size are exchanged and sequences are reordered, so that all epochs have the same number
// of sequences and share one plan. In file order, documents are packed in order, with more padding.
class DocumentPlan {
 public:
  DocumentPlan(const TokenFiles& files, const StreamOptions& options);

  const PackingReport& report() const { return report_; }
  std::vector<PlacedPiece> sequence(int64_t epoch, int64_t index) const;

 private:
  struct Piece {
    int64_t document, begin, tokens;
  };

  void cut_documents(const TokenFiles& files);
  void sort_by_size();
  void pack();
  int64_t packed_size(const Piece& piece) const;
  int64_t shuffled_slot(int64_t epoch, int64_t slot) const;
  std::vector<int64_t> slots_of(int64_t epoch, int64_t index) const;

  StreamOptions options_;
  int64_t capacity_;
  PackingReport report_;
  std::vector<Piece> pieces_;             // (pieces), descending by packed size when shuffled
  std::vector<int64_t> class_begins_;     // (sizes + 1): first piece of each packed size, then the number of pieces
  std::vector<int64_t> slots_;            // (pieces): indices into pieces_, sequence by sequence
  std::vector<int64_t> sequence_begins_;  // (sequences + 1), into slots_
};

}  // namespace hiptrain
