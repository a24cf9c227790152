// Which tokens lie where in the sequences of an epoch, of isolated documents. Plans hold no tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "data/sequence_plan.h"
#include "data/token_files.h"

namespace hiptrain {

// Isolated documents. Shuffled: packed by best fit, which depends on the documents' sizes alone;
// documents of equal size change places and sequences change order from epoch to epoch, so that
// every epoch has equally many sequences and none needs a plan of its own. In file order: packed in
// order, with more padding.
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
  std::vector<int64_t> class_begins_;     // first piece of each packed size, and the number of pieces
  std::vector<int64_t> slots_;            // (pieces): numbers of pieces, sequence after sequence
  std::vector<int64_t> sequence_begins_;  // (sequences + 1), into slots_
};

}  // namespace hiptrain
