// n ranks compute what one rank computes: the same selections bit for bit, losses and gradients to rounding; on CPUs,
// and on GPUs: over NCCL where every rank has one, through host memory where ranks share one.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <tuple>

#include "distributed/mpi_runtime.h"
#include "tests/support/mpi_test.h"
#include "trainer/checkpoint/initial_weights.h"
#include "trainer/device/device.h"
#include "trainer/model/model_config.h"
#include "trainer/ops/block_lists.h"
#include "trainer/transformer/transformer.h"

namespace hiptrain {
namespace {

ModelConfig small_model(int num_kv_heads = 2) {
  ModelConfig model{};
  model.model_type = "qwen3";
  model.hidden_size = 48;
  model.intermediate_size = 80;
  model.num_layers = 3;
  model.vocabulary_size = 97;
  model.max_positions = 4096;
  model.num_kv_heads = num_kv_heads;
  model.num_query_heads = 3 * num_kv_heads;
  model.head_dim = 16;
  model.rms_norm_epsilon = 1e-6;
  model.initializer_range = 0.3;  // large, so that attention is far from uniform
  model.tied_embeddings = true;
  model.query_bias = model.key_bias = true;
  model.query_key_norm = true;
  return model;
}

RunConfig small_run(ExchangeChoice exchange, int64_t interval) {
  RunConfig run;
  run.precision = Precision::kFloat32;
  run.data.sequence_length = 1000;
  run.attention.window = 70;
  run.attention.block_size = 16;
  run.attention.sink_tokens = 16;
  run.attention.index_dims = 8;
  run.attention.blocks = 3;
  run.attention.query_stride = 4;
  run.memory.query_tile = 256;
  run.memory.token_tile = 100;
  run.memory.loss_tile = 77;
  run.recompute.interval = interval;
  run.offload.layer_inputs = 0;
  run.parallel.exchange = exchange;
  run.parallel.exchange_heads = 1;  // several groups of heads
  return run;
}

// Documents that cross the borders of shards.
TokenBatch random_batch(int64_t length, int64_t vocabulary, int seed) {
  std::srand(seed);
  TokenBatch batch;
  batch.document_starts = {0};
  for (const int64_t start : {320, 384})
    if (start < length) batch.document_starts.push_back(start);
  for (int64_t i = 0; i < length; ++i) {
    const int64_t document = i < 320 ? 0 : i < 384 ? 320 : 384;
    batch.tokens.push_back(static_cast<int32_t>(std::rand() % vocabulary));
    batch.targets.push_back(i % 11 == 0 ? -1 : static_cast<int32_t>(std::rand() % vocabulary));
    batch.positions.push_back(i - document);
    batch.num_targets += batch.targets.back() >= 0;
  }
  return batch;
}

using TileList = std::vector<int32_t>;                  // a tile's entries
using LayerLists = std::vector<std::vector<TileList>>;  // of every KV head, of every tile

LayerLists on_host(const BlockLists& lists) {
  const at::Tensor host_offsets = lists.offsets.cpu(), host_entries = lists.entries.cpu();
  EXPECT_TRUE(at::equal(lists.offsets_on_host, host_offsets));
  const auto offsets = host_offsets.accessor<int64_t, 2>();
  const int32_t* entries = host_entries.const_data_ptr<int32_t>();
  LayerLists result(offsets.size(0));
  for (int64_t head = 0; head < offsets.size(0); ++head)
    for (int64_t tile = 0; tile + 1 < offsets.size(1); ++tile)
      result[head].emplace_back(entries + offsets[head][tile], entries + offsets[head][tile + 1]);
  return result;
}

struct Result {
  double loss = 0;                    // summed over the ranks
  std::vector<at::Tensor> gradients;  // of every unit, whole, without padding
  std::vector<LayerLists> lists;      // of the layers that select, for every sequence that this rank computed
  RecallReport recall;                // over the ranks
};

// Sequence s goes to data rank s, or all to the only one.
Result compute(const ModelConfig& model, const RunConfig& run, const ProcessGrid& grid, at::Device device,
               int num_sequences) {
  ShardedParameters parameters(ParameterLayout(model), grid.world(), storage_of(run, /*with_training=*/true), device);
  load_random(parameters, model, 5);
  Transformer transformer(model, run, parameters, grid);
  Result result;
  transformer.observe_lists([&](int64_t, const BlockLists& lists) {
    if (lists.offsets.defined()) result.lists.push_back(on_host(lists));
  });
  transformer.measure_recall(true);
  at::Tensor sum = at::zeros({1}, at::TensorOptions(at::kDouble).device(device));
  for (int sequence = grid.data().rank(); sequence < num_sequences; sequence += grid.data().size()) {
    const TokenBatch batch = random_batch(run.data.sequence_length, model.vocabulary_size, 7 + sequence);
    sum += transformer.forward_backward(slice_batch(batch, grid.sequence(), device), 1.0 / 800);
  }
  grid.world().all_reduce_sum(sum);
  result.loss = sum.item<double>();
  result.recall = transformer.recall().take(grid.control());
  for (size_t unit = 0; unit < parameters.shards().size(); ++unit) {
    const at::Tensor& part = parameters.shards()[unit].gradient;
    at::Tensor whole = at::empty({part.numel() * grid.world().size()}, part.options());
    grid.world().all_gather(part, whole);
    result.gradients.push_back(whole.narrow(0, 0, parameters.layout().units()[unit].numel));
  }
  return result;
}

// `here`: a rank's lists of its own tiles and all heads, or of all tiles and the heads that it holds.
void expect_part_of(const LayerLists& whole, const LayerLists& here, const SequenceShard& shard,
                    const Communicator& sequence) {
  const bool by_heads = here.size() < whole.size();
  for (size_t head = 0; head < here.size(); ++head) {
    const auto& expected = whole[by_heads ? head * sequence.size() + sequence.rank() : head];
    const int64_t first = by_heads ? 0 : shard.begin() / kernels::kQueryTile;
    ASSERT_EQ(static_cast<int64_t>(here[head].size()),
              kernels::num_tiles(by_heads ? shard.num_tokens() : shard.size()));
    for (size_t tile = 0; tile < here[head].size(); ++tile)
      ASSERT_EQ(here[head][tile], expected[first + tile]) << "KV head " << head << ", tile " << tile;
  }
}

void expect_same_recall(const RecallReport& one, const RecallReport& all) {
  ASSERT_EQ(one.layers.size(), all.layers.size());
  for (size_t i = 0; i < one.layers.size(); ++i) {
    EXPECT_EQ(one.layers[i].layer, all.layers[i].layer);
    EXPECT_DOUBLE_EQ(one.layers[i].mean_list_entries(), all.layers[i].mean_list_entries());
    for (size_t head = 0; head < one.layers[i].kv_heads.size(); ++head) {
      EXPECT_NEAR(one.layers[i].kv_heads[head].recall, all.layers[i].kv_heads[head].recall, 1e-3);
      EXPECT_NEAR(one.layers[i].kv_heads[head].missed, all.layers[i].kv_heads[head].missed, 1e-4);
    }
  }
}

// sequence_ranks that share a sequence, 0: all. loss_tolerance: relative.
void expect_ranks_agree(const RunConfig& run, const ModelConfig& model, at::Device device, int sequence_ranks = 0,
                        double loss_tolerance = 1e-6) {
  const std::unique_ptr<Communicator> world = test_world();
  const ProcessGrid alone(world->split(world->rank(), 0), 1);
  const ProcessGrid together =
      make_process_grid(test_runtime(), device, {.sequence = sequence_ranks, .timeout_seconds = 60});
  const int num_sequences = together.data().size();
  const Result one = compute(model, run, alone, device, num_sequences);
  const Result all = compute(model, run, together, device, num_sequences);
  const Communicator& sequence = together.sequence();
  const SequenceShard shard(run.data.sequence_length, kernels::kQueryTile, sequence.rank(), sequence.size());
  ASSERT_EQ(all.lists.size() * num_sequences, one.lists.size());
  for (size_t layer = 0; layer < all.lists.size(); ++layer)
    expect_part_of(one.lists[together.data().rank() * all.lists.size() + layer], all.lists[layer], shard, sequence);
  expect_same_recall(one.recall, all.recall);
  const double tolerance = run.precision == Precision::kBfloat16 ? 2e-2 : 2e-5;
  EXPECT_NEAR(one.loss, all.loss, loss_tolerance * std::abs(one.loss));
  ASSERT_EQ(one.gradients.size(), all.gradients.size());
  for (size_t unit = 0; unit < one.gradients.size(); ++unit) {
    const double scale = one.gradients[unit].norm().item<double>();
    EXPECT_GT(scale, 0);
    EXPECT_LT((one.gradients[unit] - all.gradients[unit]).norm().item<double>(), tolerance * scale) << "unit " << unit;
  }
}

class TransformerRanks : public testing::TestWithParam<std::tuple<DeviceChoice, ExchangeChoice>> {
 protected:
  void SetUp() override {
    const DeviceChoice device = std::get<0>(GetParam());
    if (device == DeviceChoice::kCuda && num_gpus() == 0) GTEST_SKIP() << "no GPU";
    device_ = choose_device(device, test_runtime());
  }
  ExchangeChoice exchange() const { return std::get<1>(GetParam()); }
  RunConfig run(int64_t interval = 1) const { return small_run(exchange(), interval); }
  // By heads, every rank holds two.
  ModelConfig model() const {
    return small_model(exchange() == ExchangeChoice::kAllToAll ? 2 * test_runtime().size() : 2);
  }

  at::Device device_ = at::kCPU;
};

TEST_P(TransformerRanks, PicksByScan) { expect_ranks_agree(run(), model(), device_); }

TEST_P(TransformerRanks, PicksByScanOfFloat8Keys) {
  RunConfig float8 = run();
  float8.attention.index_dtype = IndexType::kFloat8;
  float8.attention.index_dims = 16;
  expect_ranks_agree(float8, model(), device_);
}

TEST_P(TransformerRanks, PicksByTree) {
  RunConfig tree = run(/*interval=*/2);
  tree.attention.scan_tokens = 0;
  tree.attention.beam = 2;
  tree.attention.top_nodes = 8;
  expect_ranks_agree(tree, model(), device_);
}

// Three levels, which hand nodes on over the borders of tiles and ranks.
TEST_P(TransformerRanks, PicksByTreeOfSeveralLevels) {
  RunConfig tree = run();
  tree.attention.scan_tokens = 0;
  tree.attention.beam = 1;
  tree.attention.top_nodes = 4;
  tree.data.sequence_length = 1600;  // several nodes of the level above blocks
  for (const int64_t query_tile : {64, 192, 512}) {
    tree.memory.query_tile = query_tile;
    expect_ranks_agree(tree, model(), device_);
  }
}

TEST_P(TransformerRanks, PicksByTheMeanQuery) {
  RunConfig mean = run();
  mean.attention.index_heads = IndexHeads::kMean;
  expect_ranks_agree(mean, model(), device_);
}

// Computed on the CPU only, with all heads.
TEST(TransformerRanksOnCpu, Published) {
  RunConfig run = small_run(ExchangeChoice::kAutomatic, 3);
  run.attention.selection = Selection::kPublished;
  expect_ranks_agree(run, small_model(), at::kCPU);
}

TEST_P(TransformerRanks, Dense) {
  RunConfig dense = run(/*interval=*/2);
  dense.attention.type = AttentionType::kDense;
  ModelConfig model = this->model();
  model.tied_embeddings = false;
  model.query_key_norm = false;
  model.mlp_bias = model.output_bias = model.value_bias = true;
  expect_ranks_agree(dense, model, device_);
}

TEST_P(TransformerRanks, DenseOneDocument) {
  RunConfig dense = run();
  dense.precision = Precision::kBfloat16;
  dense.attention.type = AttentionType::kDense;
  dense.attention.deterministic = true;
  dense.data.sequence_length = 300;
  expect_ranks_agree(dense, model(), device_);
}

// On GPUs, cuDNN's attention where a rank has all tokens in a query tile, and ours where it has not: two kernels, each
// of which rounds to bfloat16, 2^-9 relative.
TEST_P(TransformerRanks, DenseByEitherKernel) {
  RunConfig dense = run();
  dense.precision = Precision::kBfloat16;
  dense.attention.type = AttentionType::kDense;
  dense.data.sequence_length = 300;
  expect_ranks_agree(dense, model(), device_, /*sequence_ranks=*/0, /*loss_tolerance=*/0x1p-9);
}

TEST_P(TransformerRanks, EveryLayerItsOwnSettings) {
  RunConfig mixed = run();
  LayerAttention dense{.layers = {0}, .attention = mixed.attention}, wide{.layers = {2}, .attention = mixed.attention};
  dense.attention.type = AttentionType::kDense;
  wide.attention.picks = 5;
  wide.attention.index_dim_list = {0, 3, 9};
  mixed.attention_layers = {dense, wide};
  expect_ranks_agree(mixed, model(), device_);
}

TEST_P(TransformerRanks, Bfloat16) {
  RunConfig rounded = run();
  rounded.precision = Precision::kBfloat16;
  expect_ranks_agree(rounded, model(), device_);
}

TEST_P(TransformerRanks, SomeRanksHaveNoTokens) {
  RunConfig brief = run();
  brief.data.sequence_length = 100;
  expect_ranks_agree(brief, model(), device_);
}

// By heads: a KV head a rank, whose group is exchanged in halves.
TEST_P(TransformerRanks, OneKeyHeadARank) {
  ModelConfig model = small_model(test_runtime().size());
  model.num_query_heads = 4 * model.num_kv_heads;
  expect_ranks_agree(run(), model, device_);
}

// By heads: more than are exchanged at a time.
TEST_P(TransformerRanks, FiveKeyHeadsARank) {
  expect_ranks_agree(run(), small_model(5 * test_runtime().size()), device_);
}

// Data x sequence ranks: every divisor of the ranks.
TEST_P(TransformerRanks, Grids) {
  for (int sequence_ranks = 1; sequence_ranks < test_runtime().size(); ++sequence_ranks)
    if (test_runtime().size() % sequence_ranks == 0) expect_ranks_agree(run(), model(), device_, sequence_ranks);
}

// Dense layers go by heads where they can, others do not with this few ranks.
TEST(TransformerRanksOnCpu, AutoMixesBoth) {
  RunConfig mixed = small_run(ExchangeChoice::kAutomatic, 1);
  LayerAttention dense{.layers = {1}, .attention = mixed.attention};
  dense.attention.type = AttentionType::kDense;
  mixed.attention_layers = {dense};
  expect_ranks_agree(mixed, small_model(2 * test_runtime().size()), at::kCPU);
}

// Layers between kept inputs are run again: nothing changes but memory.
TEST_P(TransformerRanks, RecomputeIntervalChangesNothing) {
  const ProcessGrid grid = make_process_grid(test_runtime(), device_, {.timeout_seconds = 60});
  const Result each = compute(model(), run(), grid, device_, 1);
  const Result third = compute(model(), run(/*interval=*/3), grid, device_, 1);
  EXPECT_EQ(each.loss, third.loss);
  for (size_t unit = 0; unit < each.gradients.size(); ++unit)
    EXPECT_TRUE(at::equal(each.gradients[unit], third.gradients[unit])) << "unit " << unit;
}

// Every layer that picks is measured, however often it runs again; what dense layers see is not.
TEST_P(TransformerRanks, RecallFollowsThePicks) {
  const ProcessGrid grid = make_process_grid(test_runtime(), device_, {.timeout_seconds = 60});
  RunConfig mixed = run(/*interval=*/3);
  LayerAttention dense{.layers = {0}, .attention = mixed.attention}, all{.layers = {2}, .attention = mixed.attention};
  dense.attention.type = AttentionType::kDense;
  all.attention.picks = 64;
  mixed.attention.picks = 1;
  mixed.attention_layers = {dense, all};
  const RecallReport report = compute(model(), mixed, grid, device_, 1).recall;
  ASSERT_EQ(report.layers.size(), 2u);
  EXPECT_EQ(report.layers[0].layer, 1);
  EXPECT_LT(report.layers[0].recall(), 0.95);
  EXPECT_GT(report.layers[0].recall(), 0.05);
  EXPECT_GT(report.layers[0].mean_list_entries(), 1);
  EXPECT_EQ(report.layers[1].layer, 2);
  EXPECT_NEAR(report.layers[1].recall(), 1, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(DevicesAndExchanges, TransformerRanks,
                         testing::Combine(testing::Values(DeviceChoice::kCpu, DeviceChoice::kCuda),
                                          testing::Values(ExchangeChoice::kAllGather, ExchangeChoice::kAllToAll)),
                         [](const auto& test) {
                           const bool cpu = std::get<0>(test.param) == DeviceChoice::kCpu;
                           const bool gathers = std::get<1>(test.param) == ExchangeChoice::kAllGather;
                           return std::string(cpu ? "cpu_" : "cuda_") + (gathers ? "allgather" : "alltoall");
                         });

}  // namespace
}  // namespace hiptrain
