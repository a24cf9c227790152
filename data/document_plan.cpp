#include "data/document_plan.h"

#include <algorithm>
#include <numeric>

#include "data/packing.h"
#include "data/shuffle.h"

namespace hiptrain {
namespace {

// What a permutation is used for. It is part of the key, so that the permutations of one epoch are independent.
enum class Purpose : uint64_t { kDocuments = 1, kSequences = 2, kWithinSequence = 3 };

uint64_t key_for(const StreamOptions& options, int64_t epoch, Purpose purpose, int64_t number) {
  return mix_key(
      {options.seed, static_cast<uint64_t>(epoch), static_cast<uint64_t>(purpose), static_cast<uint64_t>(number)});
}

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// The tokens of a sequence that documents can use if they start on multiples of the alignment. The rest of the
// sequence, shorter than the alignment, is used only by a piece that fills the sequence alone.
int64_t aligned_capacity(const StreamOptions& options) {
  const int64_t whole = options.sequence_length / options.document_alignment;
  return std::max<int64_t>(whole, 1) * options.document_alignment;
}

}  // namespace

DocumentPlan::DocumentPlan(const TokenFiles& files, const StreamOptions& options)
    : options_(options), capacity_(aligned_capacity(options)) {
  report_.documents = files.num_documents();
  report_.tokens = files.num_tokens();
  cut_documents(files);
  if (options_.shuffle) sort_by_size();
  pack();
  report_.sequences = static_cast<int64_t>(sequence_begins_.size()) - 1;
  report_.padding_tokens = report_.sequences * options_.sequence_length - (report_.tokens - report_.dropped_tokens);
}

void DocumentPlan::cut_documents(const TokenFiles& files) {
  pieces_.reserve(static_cast<size_t>(files.num_documents()));
  for (int64_t document = 0; document < files.num_documents(); ++document) {
    const int64_t length = files.document_tokens(document);
    report_.cut_documents += length > options_.sequence_length;
    for (int64_t begin = 0; begin < length; begin += options_.sequence_length) {
      const int64_t tokens = std::min(options_.sequence_length, length - begin);
      const bool has_target = tokens > 1 || begin + tokens < length;
      if (has_target)
        pieces_.push_back({document, begin, tokens});
      else
        ++report_.dropped_tokens;  // a single last token has no target and nothing attends to it
    }
  }
}

int64_t DocumentPlan::packed_size(const Piece& piece) const {
  return std::min(round_up(piece.tokens, options_.document_alignment), capacity_);
}

void DocumentPlan::sort_by_size() {
  std::stable_sort(pieces_.begin(), pieces_.end(),
                   [this](const Piece& a, const Piece& b) { return packed_size(a) > packed_size(b); });
  const int64_t count = static_cast<int64_t>(pieces_.size());
  for (int64_t i = 0; i < count; ++i)
    if (i == 0 || packed_size(pieces_[i]) != packed_size(pieces_[i - 1])) class_begins_.push_back(i);
  class_begins_.push_back(count);
}

void DocumentPlan::pack() {
  std::vector<int64_t> sizes(pieces_.size());
  std::transform(pieces_.begin(), pieces_.end(), sizes.begin(),
                 [this](const Piece& piece) { return packed_size(piece); });
  const BinAssignment packed = options_.shuffle ? pack_best_fit(sizes, capacity_) : pack_in_order(sizes, capacity_);

  sequence_begins_.assign(static_cast<size_t>(packed.num_bins) + 1, 0);
  for (const int64_t bin : packed.bins) ++sequence_begins_[bin + 1];
  std::partial_sum(sequence_begins_.begin(), sequence_begins_.end(), sequence_begins_.begin());
  std::vector<int64_t> next = sequence_begins_;
  slots_.resize(pieces_.size());
  for (size_t i = 0; i < packed.bins.size(); ++i) slots_[next[packed.bins[i]]++] = static_cast<int64_t>(i);
}

// Returns the piece that takes the place of `slot` in this epoch. It has the same packed size.
int64_t DocumentPlan::shuffled_slot(int64_t epoch, int64_t slot) const {
  const auto next = std::upper_bound(class_begins_.begin(), class_begins_.end(), slot);
  const int64_t begin = *(next - 1);
  const Permutation permutation(*next - begin, key_for(options_, epoch, Purpose::kDocuments, begin));
  return begin + permutation(slot - begin);
}

std::vector<int64_t> DocumentPlan::slots_of(int64_t epoch, int64_t index) const {
  if (!options_.shuffle)
    return {slots_.begin() + sequence_begins_[index], slots_.begin() + sequence_begins_[index + 1]};
  const Permutation sequences(report_.sequences, key_for(options_, epoch, Purpose::kSequences, 0));
  const int64_t sequence = sequences(index);
  const int64_t begin = sequence_begins_[sequence];
  const int64_t count = sequence_begins_[sequence + 1] - begin;
  const Permutation places(count, key_for(options_, epoch, Purpose::kWithinSequence, sequence));
  std::vector<int64_t> slots(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) slots[i] = shuffled_slot(epoch, slots_[begin + places(i)]);
  return slots;
}

std::vector<PlacedPiece> DocumentPlan::sequence(int64_t epoch, int64_t index) const {
  std::vector<PlacedPiece> placed;
  int64_t start = 0;
  for (const int64_t slot : slots_of(epoch, index)) {
    const Piece& piece = pieces_[slot];
    placed.push_back({piece.document, piece.begin, piece.tokens, start});
    start += packed_size(piece);
  }
  return placed;
}

}  // namespace hiptrain
