#include "data/batch_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include "tests/data/token_fixtures.h"

namespace hiptrain {
namespace {

using ::testing::AllOf;
using testing::Documents;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::write_pair;

// Documents of the given lengths with tokens 1, 2, 3, ... across all of them, so that each token identifies its origin.
Documents counting_documents(const std::vector<int64_t>& lengths) {
  Documents documents;
  int64_t token = 1;
  for (const int64_t length : lengths) {
    documents.emplace_back(static_cast<size_t>(length));
    std::iota(documents.back().begin(), documents.back().end(), token);
    token += length;
  }
  return documents;
}

std::vector<int64_t> random_lengths(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::lognormal_distribution<double> length(3.0, 1.5);
  std::vector<int64_t> lengths(count);
  for (int64_t& one : lengths) one = static_cast<int64_t>(length(random));
  return lengths;
}

std::vector<TokenBatch> take_epoch(const BatchStream& stream, int64_t epoch = 0) {
  std::vector<TokenBatch> batches;
  for (int64_t i = 0; i < stream.sequences_per_epoch(); ++i)
    batches.push_back(stream.at(epoch * stream.sequences_per_epoch() + i));
  return batches;
}

// Tokens without padding, in the order of an epoch.
std::vector<int32_t> inputs_of(const std::vector<TokenBatch>& batches) {
  std::vector<int32_t> inputs;
  for (const TokenBatch& batch : batches)
    std::copy_if(batch.tokens.begin(), batch.tokens.end(), std::back_inserter(inputs),
                 [](int32_t token) { return token != 0; });
  return inputs;
}

class BatchStreamTest : public ::testing::Test {
 protected:
  BatchStream open(const Documents& documents, const StreamOptions& options) {
    write_pair<int32_t>(folder_ / "text", documents, 4);
    std::vector<TokenFile> files;
    files.emplace_back(folder_ / "text");
    return BatchStream(std::move(files), options);
  }

  TemporaryFolder folder_;
};

struct Case {
  Packing packing;
  bool shuffle;
  int64_t sequence_length;
  int64_t alignment;
};

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  const Case& one = info.param;
  return std::string(one.packing == Packing::kDocuments ? "documents" : "stream") +
         (one.shuffle ? "_shuffled_" : "_in_order_") + std::to_string(one.sequence_length) + "_" +
         std::to_string(one.alignment);
}

class EveryPacking : public BatchStreamTest, public ::testing::WithParamInterface<Case> {
 protected:
  EveryPacking() : lengths_(random_lengths(700, 3)) {
    // Edge cases: empty, one token, exactly one sequence, one token more, several sequences.
    const int64_t length = GetParam().sequence_length;
    for (const int64_t corner : {int64_t{0}, int64_t{1}, int64_t{2}, length - 1, length, length + 1, 2 * length,
                                 3 * length + 5, 7 * length + 1})
      lengths_.insert(lengths_.begin() + 50, corner);
    documents_ = counting_documents(lengths_);
  }
  StreamOptions options() const {
    return {.sequence_length = GetParam().sequence_length,
            .packing = GetParam().packing,
            .shuffle = GetParam().shuffle,
            .seed = 11,
            .document_alignment = GetParam().alignment};
  }

  std::vector<int64_t> lengths_;
  Documents documents_;
};

// The shards that ranks read add up to the whole sequence.
TEST_P(EveryPacking, RangesEqualTheWholeSequence) {
  const BatchStream stream = open(documents_, options());
  const int64_t length = GetParam().sequence_length;
  for (int64_t sequence = 0; sequence < std::min<int64_t>(stream.sequences_per_epoch(), 20); ++sequence) {
    const TokenBatch whole = stream.at(sequence);
    int64_t num_targets = 0;
    for (int64_t begin = 0; begin < length;) {
      const int64_t end = std::min(length, begin + 1 + begin / 2);  // ranges of all sizes
      const TokenBatch part = stream.at(sequence, begin, end);
      const auto cut = [&](const auto& values) { return std::vector(values.begin() + begin, values.begin() + end); };
      EXPECT_EQ(part.tokens, cut(whole.tokens));
      EXPECT_EQ(part.targets, cut(whole.targets));
      EXPECT_EQ(part.positions, cut(whole.positions));
      EXPECT_EQ(part.document_starts, whole.document_starts);
      num_targets += part.num_targets;
      begin = end;
    }
    EXPECT_EQ(num_targets, whole.num_targets);
    EXPECT_TRUE(stream.at(sequence, length, length).tokens.empty());
  }
  EXPECT_THROW(stream.at(0, 1, length + 1), std::logic_error);
}

TEST_P(EveryPacking, AnEpochHasEveryTokenOnceExceptReportedOnes) {
  const BatchStream stream = open(documents_, options());
  const int64_t total = std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0});
  EXPECT_EQ(stream.report().tokens, total);
  EXPECT_EQ(stream.report().documents, static_cast<int64_t>(lengths_.size()));
  for (const int64_t epoch : {0, 1, 5}) {
    std::vector<int32_t> inputs = inputs_of(take_epoch(stream, epoch));
    std::sort(inputs.begin(), inputs.end());
    EXPECT_EQ(std::adjacent_find(inputs.begin(), inputs.end()), inputs.end()) << "a token twice";
    EXPECT_EQ(static_cast<int64_t>(inputs.size()), total - stream.report().dropped_tokens);
  }
  EXPECT_EQ(stream.report().sequences * GetParam().sequence_length,
            total - stream.report().dropped_tokens + stream.report().padding_tokens);
}

TEST_P(EveryPacking, EveryNextTokenIsATargetOnce) {
  const BatchStream stream = open(documents_, options());
  std::set<int32_t> last_tokens;
  for (const auto& document : documents_)
    if (!document.empty()) last_tokens.insert(static_cast<int32_t>(document.back()));
  int64_t num_targets = 0;
  for (const TokenBatch& batch : take_epoch(stream, 1)) {
    int64_t here = 0;
    for (size_t i = 0; i < batch.tokens.size(); ++i) {
      const bool predicts = batch.tokens[i] != 0 && !last_tokens.contains(batch.tokens[i]);
      ASSERT_EQ(batch.targets[i], predicts ? batch.tokens[i] + 1 : -1);
      here += predicts;
    }
    EXPECT_EQ(batch.num_targets, here);
    EXPECT_GT(here, 0);
    num_targets += here;
  }
  int64_t pairs = 0;
  for (const int64_t length : lengths_) pairs += std::max<int64_t>(length - 1, 0);
  EXPECT_EQ(num_targets, pairs);
}

TEST_P(EveryPacking, DocumentsStartAlignedAndDoNotMix) {
  const BatchStream stream = open(documents_, options());
  std::map<int32_t, int64_t> document_of;
  for (size_t i = 0; i < documents_.size(); ++i)
    for (const int64_t token : documents_[i]) document_of[static_cast<int32_t>(token)] = i;
  for (const TokenBatch& batch : take_epoch(stream)) {
    ASSERT_EQ(batch.document_starts.front(), 0);
    if (GetParam().packing == Packing::kStream) {
      ASSERT_EQ(batch.document_starts.size(), 1u);
    }
    for (size_t span = 0; span < batch.document_starts.size(); ++span) {
      const int64_t begin = batch.document_starts[span];
      const int64_t end =
          span + 1 < batch.document_starts.size() ? batch.document_starts[span + 1] : GetParam().sequence_length;
      ASSERT_LT(begin, end);
      ASSERT_EQ(begin % GetParam().alignment, 0);
      for (int64_t i = begin; i < end; ++i) {
        ASSERT_EQ(batch.positions[i], i - begin);
        if (GetParam().packing == Packing::kStream || batch.tokens[i] == 0) continue;
        ASSERT_EQ(document_of[batch.tokens[i]], document_of[batch.tokens[begin]]);
        ASSERT_EQ(batch.tokens[i], batch.tokens[begin] + i - begin) << "padding inside a document";
      }
    }
  }
}

TEST_P(EveryPacking, OrderDependsOnEpochAndSeedOnlyWhenShuffled) {
  const BatchStream stream = open(documents_, options());
  const std::vector<int32_t> first = inputs_of(take_epoch(stream, 0));
  EXPECT_EQ(first == inputs_of(take_epoch(stream, 1)), !GetParam().shuffle);
  StreamOptions other = options();
  other.seed = 12;
  EXPECT_EQ(first == inputs_of(take_epoch(open(documents_, other))), !GetParam().shuffle);
  EXPECT_EQ(first, inputs_of(take_epoch(open(documents_, options()))));
  EXPECT_EQ(std::is_sorted(first.begin(), first.end()), !GetParam().shuffle) << "file order";
}

TEST_P(EveryPacking, ResumesFromAnyState) {
  BatchStream stream = open(documents_, options());
  BatchStream other = open(documents_, options());
  const int64_t per_epoch = stream.sequences_per_epoch();
  for (const int64_t place : {int64_t{0}, int64_t{1}, per_epoch - 1, per_epoch, 3 * per_epoch + 2}) {
    BatchStream resumed = open(documents_, options());
    resumed.advance(place);
    other.restore(resumed.state());
    EXPECT_EQ(other.state(), resumed.state());
    EXPECT_EQ(resumed.state().epoch, place / per_epoch);
    EXPECT_EQ(other.at(2).tokens, stream.at(place + 2).tokens);
    EXPECT_EQ(other.at(2).targets, stream.at(place + 2).targets);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, EveryPacking,
    ::testing::Values(Case{Packing::kDocuments, true, 512, 64}, Case{Packing::kDocuments, false, 512, 64},
                      Case{Packing::kDocuments, true, 200, 64},  // length is not a multiple of the alignment
                      Case{Packing::kDocuments, false, 200, 64}, Case{Packing::kDocuments, true, 48, 64},
                      Case{Packing::kDocuments, true, 97, 1}, Case{Packing::kStream, true, 512, 64},
                      Case{Packing::kStream, false, 512, 64}, Case{Packing::kStream, true, 33, 64}),
    name_of);

TEST_F(BatchStreamTest, DocumentsThatFitStayWholeAndTheOthersAreCounted) {
  const BatchStream stream = open(counting_documents({100, 30, 65, 64, 129}),
                                  {.sequence_length = 128, .shuffle = false, .document_alignment = 64});
  EXPECT_EQ(stream.report().cut_documents, 1);
  EXPECT_EQ(stream.report().dropped_tokens, 1);  // the 129th: a target, and no input
  const std::vector<TokenBatch> batches = take_epoch(stream);
  ASSERT_EQ(batches.size(), 5u);
  EXPECT_EQ(batches[0].num_targets, 99);
  EXPECT_EQ(batches[4].num_targets, 128);
  EXPECT_EQ(batches[4].targets.back(), 100 + 30 + 65 + 64 + 129);
}

TEST_F(BatchStreamTest, TwoDocumentsShareASequence) {
  const BatchStream stream =
      open(counting_documents({3, 4}), {.sequence_length = 16, .shuffle = false, .document_alignment = 8});
  const TokenBatch batch = stream.at(0);
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{1, 2, 3, 0, 0, 0, 0, 0, 4, 5, 6, 7, 0, 0, 0, 0}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{2, 3, -1, -1, -1, -1, -1, -1,  //
                                                 5, 6, 7, -1, -1, -1, -1, -1}));
  EXPECT_EQ(batch.positions, (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(batch.document_starts, (std::vector<int64_t>{0, 8}));
  EXPECT_EQ(stream.report().padding_tokens, 9);
}

TEST_F(BatchStreamTest, AStreamCrossesDocumentsButItsTargetsDoNot) {
  const BatchStream stream =
      open(counting_documents({3, 4}), {.sequence_length = 5, .packing = Packing::kStream, .shuffle = false});
  EXPECT_EQ(stream.at(0).tokens, (std::vector<int32_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(stream.at(0).targets, (std::vector<int32_t>{2, 3, -1, 5, 6}));
  EXPECT_EQ(stream.at(1).tokens, (std::vector<int32_t>{6, 7, 0, 0, 0}));
  EXPECT_EQ(stream.at(1).targets, (std::vector<int32_t>{7, -1, -1, -1, -1}));
  EXPECT_EQ(stream.at(1).positions, (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

TEST_F(BatchStreamTest, SeveralFilesAreOneList) {
  write_pair<uint16_t>(folder_ / "a", {{1, 2}, {3, 4}}, 8);
  write_pair<uint8_t>(folder_ / "empty", {}, 1);
  write_pair<int64_t>(folder_ / "b", {{5, 6, 7}}, 5);
  std::vector<TokenFile> files;
  for (const char* name : {"a", "empty", "b"}) files.emplace_back(folder_ / name);
  const BatchStream stream(std::move(files), {.sequence_length = 10, .packing = Packing::kStream, .shuffle = false});
  EXPECT_EQ(stream.at(0).tokens, (std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7, 0, 0, 0}));
}

TEST_F(BatchStreamTest, DataWithoutTargetsIsAnError) {
  for (const Packing packing : {Packing::kDocuments, Packing::kStream})
    for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{}, std::vector<int64_t>{0, 1, 1, 1}})
      EXPECT_THROW(open(counting_documents(lengths), {.sequence_length = 2, .packing = packing}), DataError);
  EXPECT_THROW(BatchStream({}, {.sequence_length = 8}), DataError);
}

TEST_F(BatchStreamTest, ErrorForAnInvalidIdNamesItsPosition) {
  const BatchStream stream =
      open({{1, 2}, {3, 99, 4}},
           {.sequence_length = 128, .packing = Packing::kStream, .shuffle = false, .vocabulary_size = 99});
  try {
    stream.at(0);
    FAIL() << "no error";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("text.bin"), HasSubstr("token 1 of document 1 is 99"), HasSubstr("vocabulary of 99")));
  }
}

TEST_F(BatchStreamTest, RefusesAStateOfOtherData) {
  BatchStream stream = open(counting_documents({10, 20}), {.sequence_length = 8, .seed = 5});
  EXPECT_THROW(stream.restore({.seed = 6}), DataError);
  EXPECT_THROW(stream.restore({.seed = 5, .epoch = 0, .index = 1000}), DataError);
  EXPECT_THROW(stream.restore({.seed = 5, .epoch = -1, .index = 0}), DataError);
}

TEST_F(BatchStreamTest, SeveralThreadsCanRead) {
  const BatchStream stream =
      open(counting_documents(random_lengths(500, 4)), {.sequence_length = 256, .packing = Packing::kStream});
  const int64_t count = 3 * stream.sequences_per_epoch();
  std::vector<std::vector<int32_t>> alone, together(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) alone.push_back(stream.at(i).tokens);
  const auto take = [&](int64_t first) {
    for (int64_t i = first; i < count; i += 2) together[i] = stream.at(i).tokens;
  };
  std::thread odd(take, 1);
  take(0);
  odd.join();
  EXPECT_EQ(alone, together);
}

TEST_F(BatchStreamTest, PacksManySmallDocumentsQuicklyWithLittlePadding) {
  const Documents documents = counting_documents(random_lengths(100'000, 5));
  write_pair<int32_t>(folder_ / "text", documents, 4);
  const auto begin = std::chrono::steady_clock::now();
  std::vector<TokenFile> files;
  files.emplace_back(folder_ / "text");
  const BatchStream stream(std::move(files), {.sequence_length = 8192, .document_alignment = 1});
  int64_t num_targets = 0;
  for (const TokenBatch& batch : take_epoch(stream)) num_targets += batch.num_targets;
  EXPECT_GT(num_targets, 1'000'000);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_LT(stream.report().padding_tokens, stream.report().tokens / 100);
}

}  // namespace
}  // namespace hiptrain
