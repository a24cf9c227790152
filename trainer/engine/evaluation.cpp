#include "trainer/engine/evaluation.h"

#include <ATen/ops/full.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <numeric>

#include "distributed/sequence_rows.h"
#include "trainer/formats/format_error.h"
#include "trainer/formats/safetensors_reader.h"

namespace hiptrain {
namespace {

constexpr int64_t kFirstBucket = 1024;
constexpr int kMaxBuckets = 40;
constexpr int64_t kDepths = 4;

int bucket_of(int64_t position) {
  return static_cast<int>(std::bit_width(static_cast<uint64_t>(position / kFirstBucket)));
}

int64_t bucket_begin(int64_t bucket) { return bucket == 0 ? 0 : kFirstBucket << (bucket - 1); }

// Sums of losses and counts of targets by bucket: (2, kMaxBuckets) float64, added to.
void add_losses(at::Tensor& sums, const TokenLosses& losses, const LocalBatch& batch) {
  double* sum = sums.mutable_data_ptr<double>();
  const at::Tensor losses_here = losses.losses.cpu(), targets = batch.targets.cpu(), positions = batch.positions.cpu();
  const float* loss = losses_here.const_data_ptr<float>();
  const int32_t* target = targets.const_data_ptr<int32_t>();
  const int64_t* position = positions.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < batch.shard.size(); ++i) {
    if (target[i] < 0) continue;
    const int bucket = bucket_of(position[i]);
    sum[bucket] += loss[i];
    sum[kMaxBuckets + bucket] += 1;
  }
}

LossReport report_of(const at::Tensor& sums) {
  const double* sum = sums.const_data_ptr<double>();
  LossReport report;
  for (int bucket = 0; bucket < kMaxBuckets; ++bucket) {
    const PositionBucket entry{.begin = bucket_begin(bucket),
                               .end = bucket_begin(bucket + 1),
                               .loss_sum = sum[bucket],
                               .num_targets = static_cast<int64_t>(sum[kMaxBuckets + bucket])};
    report.loss_sum += entry.loss_sum;
    report.num_targets += entry.num_targets;
    if (entry.num_targets > 0) report.buckets.push_back(entry);
  }
  return report;
}

// Runs the model over sequences [0, count), which the data ranks divide among themselves, and passes each local result
// to `use`. All data ranks take part in every forward pass. A rank without a sequence of its own repeats the last one,
// whose result is ignored.
void for_each_sequence(Transformer& transformer, const ProcessGrid& grid, int64_t count, bool measures_recall,
                       const std::function<LocalBatch(int64_t)>& batch_at,
                       const std::function<void(int64_t, const LocalBatch&, const TokenLosses&)>& use) {
  for (int64_t first = 0; first < count; first += grid.data().size()) {
    const int64_t mine = first + grid.data().rank();
    const LocalBatch batch = batch_at(std::min(mine, count - 1));
    transformer.measure_recall(measures_recall && mine < count);
    const TokenLosses losses = transformer.forward(batch);
    if (mine < count) use(mine, batch, losses);
  }
  transformer.measure_recall(false);
}

TokenBatch batch_of_sequence(const at::Tensor& tokens) {
  const int64_t length = tokens.size(0) - 1;
  const int32_t* token = tokens.const_data_ptr<int32_t>();
  TokenBatch batch{.tokens = {token, token + length},
                   .targets = {token + 1, token + 1 + length},
                   .positions = std::vector<int64_t>(length),
                   .document_starts = {0},
                   .num_targets = length};
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  return batch;
}

// Facts of all sequences, by what is asked of them: counted by bucket, (2, buckets) int64, all and retrieved ones.
struct FactCounts {
  at::Tensor by_depth = at::zeros({2, kDepths}, at::kLong);
  at::Tensor by_distance = at::zeros({2, kMaxBuckets}, at::kLong);
};

// One sequence's facts (facts, 3), and predictions (length) int32, the most probable token after each position.
void count_facts(FactCounts& counts, const at::Tensor& facts, const at::Tensor& tokens, const at::Tensor& predictions) {
  const auto fact = facts.accessor<int32_t, 2>();
  const int32_t* token = tokens.const_data_ptr<int32_t>();
  const int32_t* predicted = predictions.const_data_ptr<int32_t>();
  auto by_depth = counts.by_depth.accessor<int64_t, 2>(), by_distance = counts.by_distance.accessor<int64_t, 2>();
  for (int64_t i = 0; i < facts.size(0); ++i) {
    const int64_t value = fact[i][0], begin = fact[i][1], size = fact[i][2];
    if (value < 0) continue;
    const int64_t depth = std::min(value * kDepths / predictions.size(0), kDepths - 1);
    const int distance = bucket_of(std::max<int64_t>(begin - value, 0));
    const bool retrieved = std::equal(token + begin, token + begin + size, predicted + begin - 1);
    ++by_depth[0][depth], ++by_distance[0][distance];
    by_depth[1][depth] += retrieved, by_distance[1][distance] += retrieved;
  }
}

// counts (2, buckets); buckets without facts are left out. bounds(i): where bucket i begins.
template <typename Bounds>
std::vector<FactBucket> fact_buckets(const at::Tensor& counts, const Bounds& bounds) {
  const auto count = counts.accessor<int64_t, 2>();
  std::vector<FactBucket> buckets;
  for (int64_t i = 0; i < counts.size(1); ++i)
    if (count[0][i] > 0)
      buckets.push_back({.begin = bounds(i), .end = bounds(i + 1), .facts = count[0][i], .retrieved = count[1][i]});
  return buckets;
}

RetrievalReport report_of(const at::Tensor& losses, const FactCounts& counts, int64_t length) {
  return {.loss = report_of(losses),
          .facts = counts.by_depth[0].sum().item<int64_t>(),
          .retrieved = counts.by_depth[1].sum().item<int64_t>(),
          .by_depth = fact_buckets(counts.by_depth, [&](int64_t i) { return length * i / kDepths; }),
          .by_distance = fact_buckets(counts.by_distance, bucket_begin)};
}

void check_retrieval_file(const std::filesystem::path& path, const RetrievalFile& file) {
  const bool shapes = file.tokens.dim() == 2 && file.facts.dim() == 3 && file.facts.size(2) == 3 &&
                      file.facts.size(0) == file.tokens.size(0) && file.tokens.size(1) > 1;
  if (!shapes || file.tokens.scalar_type() != at::kInt || file.facts.scalar_type() != at::kInt)
    throw FormatError(path.string() +
                      ": expected int32 tensors tokens (sequences, length + 1) and facts (sequences, facts, 3)");
  const auto fact = file.facts.accessor<int32_t, 3>();
  for (int64_t sequence = 0; sequence < file.facts.size(0); ++sequence)
    for (int64_t i = 0; i < file.facts.size(1); ++i)
      if (fact[sequence][i][0] >= 0 && (fact[sequence][i][1] < 1 || fact[sequence][i][2] < 1 ||
                                        int64_t{fact[sequence][i][1]} + fact[sequence][i][2] > file.tokens.size(1)))
        throw FormatError(path.string() + ": fact " + std::to_string(i) + " of sequence " + std::to_string(sequence) +
                          " lies outside the sequence");
}

}  // namespace

LossReport evaluate_stream(Transformer& transformer, const ProcessGrid& grid, const BatchStream& stream,
                           int64_t num_sequences, bool measures_recall) {
  const int64_t epoch = stream.sequences_per_epoch();
  const int64_t count = num_sequences > 0 ? std::min(num_sequences, epoch) : epoch;
  at::Tensor sums = at::zeros({2, kMaxBuckets}, at::kDouble);
  for_each_sequence(
      transformer, grid, count, measures_recall,
      [&](int64_t i) { return read_batch(stream, i, grid.sequence(), transformer.device()); },
      [&](int64_t, const LocalBatch& batch, const TokenLosses& losses) { add_losses(sums, losses, batch); });
  grid.control().all_reduce_sum(sums);
  return report_of(sums);
}

RetrievalFile read_retrieval_file(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  RetrievalFile result{.tokens = file.tensor("tokens"), .facts = file.tensor("facts")};
  check_retrieval_file(path, result);
  return result;
}

LocalBatch retrieval_batch(const RetrievalFile& file, int64_t sequence, const Communicator& ranks, at::Device device) {
  return slice_batch(batch_of_sequence(file.tokens[sequence].contiguous()), ranks, device);
}

RetrievalReport evaluate_retrieval(Transformer& transformer, const ProcessGrid& grid, const RetrievalFile& file,
                                   int64_t num_sequences, bool measures_recall) {
  const int64_t all = file.tokens.size(0), count = num_sequences > 0 ? std::min(num_sequences, all) : all;
  at::Tensor sums = at::zeros({2, kMaxBuckets}, at::kDouble);
  FactCounts facts;
  for_each_sequence(
      transformer, grid, count, measures_recall,
      [&](int64_t i) { return retrieval_batch(file, i, grid.sequence(), transformer.device()); },
      [&](int64_t i, const LocalBatch& batch, const TokenLosses& losses) {
        add_losses(sums, losses, batch);
        const at::Tensor predictions =
            gather_sequence(losses.predictions.view({1, -1, 1}), batch.shard, grid.sequence()).flatten().cpu();
        if (grid.sequence().rank() != 0) return;  // counted once a sequence
        count_facts(facts, file.facts[i], file.tokens[i].contiguous(), predictions);
      });
  for (at::Tensor* counts : {&sums, &facts.by_depth, &facts.by_distance}) grid.control().all_reduce_sum(*counts);
  return report_of(sums, facts, file.tokens.size(1) - 1);
}

}  // namespace hiptrain
