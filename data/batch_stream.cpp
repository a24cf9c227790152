#include "data/batch_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>

#include "data/document_plan.h"
#include "data/stream_plan.h"
#include "data/token_files.h"

namespace hiptrain {
namespace {

using Plan = std::variant<DocumentPlan, StreamPlan>;

// Cuts a piece to the tokens that lie in [begin, begin + size) of the sequence.
PlacedPiece part_of(const PlacedPiece& piece, int64_t begin, int64_t size) {
  const int64_t first = std::max(piece.start, begin), last = std::min(piece.start + piece.tokens, begin + size);
  return {.document = piece.document,
          .begin = piece.begin + first - piece.start,
          .tokens = std::max<int64_t>(last - first, 0),
          .start = first - begin};
}

// Copies the tokens and targets of one piece. The target of its last token is the document's next token, whether that
// token is in this batch or not.
void copy_piece(const TokenFiles& files, const PlacedPiece& piece, TokenBatch& batch) {
  if (piece.tokens == 0) return;
  const std::span<int32_t> tokens(batch.tokens.data() + piece.start, static_cast<size_t>(piece.tokens));
  const std::span<int32_t> targets(batch.targets.data() + piece.start, static_cast<size_t>(piece.tokens));
  files.read(piece.document, piece.begin, tokens);
  std::copy(tokens.begin() + 1, tokens.end(), targets.begin());
  const int64_t end = piece.begin + piece.tokens;
  const bool continues = end < files.document_tokens(piece.document);
  if (continues) files.read(piece.document, end, targets.last(1));
  batch.num_targets += piece.tokens - (continues ? 0 : 1);
}

void fill_positions(int64_t begin, TokenBatch& batch) {
  const std::vector<int64_t>& starts = batch.document_starts;
  auto next = std::upper_bound(starts.begin(), starts.end(), begin);
  for (size_t i = 0; i < batch.positions.size(); ++i) {
    const int64_t place = begin + static_cast<int64_t>(i);
    if (next != starts.end() && *next == place) ++next;
    batch.positions[i] = place - *(next - 1);
  }
}

void check_options(const StreamOptions& options) {
  if (options.sequence_length < 1 || options.document_alignment < 1 || options.vocabulary_size < 0)
    throw std::logic_error(fmt::format("BatchStream with sequence_length {}, document_alignment {}, vocabulary_size {}",
                                       options.sequence_length, options.document_alignment, options.vocabulary_size));
}

}  // namespace

struct BatchStream::Source {
  Source(std::vector<TokenFile> token_files, const StreamOptions& stream_options)
      : options(stream_options),
        files(std::move(token_files), options.vocabulary_size),
        plan(options.packing == Packing::kDocuments ? Plan(std::in_place_type<DocumentPlan>, files, options)
                                                    : Plan(std::in_place_type<StreamPlan>, files, options)) {}

  StreamOptions options;
  TokenFiles files;
  Plan plan;

  const PackingReport& report() const {
    return std::visit([](const auto& one) -> const PackingReport& { return one.report(); }, plan);
  }
  std::vector<PlacedPiece> sequence(int64_t epoch, int64_t index) const {
    return std::visit([=](const auto& one) { return one.sequence(epoch, index); }, plan);
  }
};

BatchStream::BatchStream(std::vector<TokenFile> files, StreamOptions options) {
  check_options(options);
  std::string names;
  for (const TokenFile& file : files) names += (names.empty() ? "" : ", ") + file.path().string();
  source_ = std::make_unique<Source>(std::move(files), options);
  state_.seed = options.seed;
  const PackingReport& packed = report();
  if (packed.sequences == 0)
    throw DataError(fmt::format(
        "data.path ({}): {} documents with {} tokens hold nothing to train on; expected a document of at least two "
        "tokens.",
        names, packed.documents, packed.tokens));
}

BatchStream::~BatchStream() = default;
BatchStream::BatchStream(BatchStream&&) noexcept = default;
BatchStream& BatchStream::operator=(BatchStream&&) noexcept = default;

int64_t BatchStream::sequences_per_epoch() const { return report().sequences; }

const PackingReport& BatchStream::report() const { return source_->report(); }

int64_t BatchStream::sequence_length() const { return source_->options.sequence_length; }

TokenBatch BatchStream::at(int64_t offset, int64_t begin, int64_t end) const {
  if (begin < 0 || begin > end || end > sequence_length())
    throw std::logic_error(fmt::format("tokens {} to {} of a sequence of {}", begin, end, sequence_length()));
  const StreamState place = state_after(offset);
  const size_t length = static_cast<size_t>(end - begin);
  TokenBatch batch{.tokens = std::vector<int32_t>(length, 0),
                   .targets = std::vector<int32_t>(length, -1),
                   .positions = std::vector<int64_t>(length),
                   .document_starts = {}};
  for (const PlacedPiece& piece : source_->sequence(place.epoch, place.index)) {
    copy_piece(source_->files, part_of(piece, begin, end - begin), batch);
    if (source_->options.packing == Packing::kDocuments || piece.start == 0)
      batch.document_starts.push_back(piece.start);
  }
  fill_positions(begin, batch);
  return batch;
}

StreamState BatchStream::state_after(int64_t sequences) const {
  if (sequences < 0) throw std::logic_error(fmt::format("a step of {} sequences", sequences));
  const int64_t place = state_.index + sequences;
  return {.seed = state_.seed,
          .epoch = state_.epoch + place / sequences_per_epoch(),
          .index = place % sequences_per_epoch()};
}

void BatchStream::advance(int64_t sequences) { state_ = state_after(sequences); }

StreamState BatchStream::state() const { return state_; }

void BatchStream::restore(const StreamState& state) {
  if (state.seed != source_->options.seed)
    throw DataError(fmt::format("the saved data order has seed {}; expected the run's seed {}.", state.seed,
                                source_->options.seed));
  if (state.epoch < 0 || state.index < 0 || state.index >= sequences_per_epoch())
    throw DataError(
        fmt::format("the saved data order is at sequence {} of epoch {}; expected a sequence below {}, which is what "
                    "data.path gives in an epoch at this sequence length.",
                    state.index, state.epoch, sequences_per_epoch()));
  state_ = state;
}

}  // namespace hiptrain
