// n ranks compute what one rank computes: the same selections bit for bit, losses and gradients to rounding; on CPUs,
// and on a GPU that the ranks share.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <numeric>

#include "distributed/mpi_runtime.h"
#include "tests/support/mpi_test.h"
#include "trainer/device.h"
#include "trainer/initial_weights.h"
#include "trainer/transformer.h"

namespace hiptrain {
namespace {

ModelConfig small_model() {
  ModelConfig model{};
  model.model_type = "qwen3";
  model.hidden_size = 48;
  model.intermediate_size = 80;
  model.num_layers = 3;
  model.vocabulary_size = 97;
  model.max_positions = 4096;
  model.num_query_heads = 6;
  model.num_kv_heads = 2;
  model.head_dim = 16;
  model.rms_norm_epsilon = 1e-6;
  model.initializer_range = 0.3;  // large, so that attention is far from uniform
  model.tied_embeddings = true;
  model.query_bias = model.key_bias = true;
  model.query_key_norm = true;
  return model;
}

RunConfig small_run(const std::string& selection, int64_t interval) {
  RunConfig run;
  run.precision = "float32";
  run.data.sequence_length = 1000;
  run.attention.selection = selection;
  run.attention.window = 70;
  run.attention.block_size = 16;
  run.attention.sink_tokens = 16;
  run.attention.index_dims = 8;
  run.attention.blocks = 3;
  run.attention.query_stride = 4;
  run.memory.query_tile = 256;
  run.memory.token_tile = 100;
  run.memory.loss_tile = 77;
  run.memory.recompute_interval = interval;
  return run;
}

TokenBatch random_batch(int64_t length, int64_t vocabulary) {
  std::srand(7);
  TokenBatch batch;
  batch.document_starts = {0, 320, 384};
  for (int64_t i = 0; i < length; ++i) {
    const int64_t document = i < 320 ? 0 : i < 384 ? 320 : 384;
    batch.tokens.push_back(static_cast<int32_t>(std::rand() % vocabulary));
    batch.targets.push_back(i % 11 == 0 ? -1 : static_cast<int32_t>(std::rand() % vocabulary));
    batch.positions.push_back(i - document);
    batch.num_targets += batch.targets.back() >= 0;
  }
  return batch;
}

struct Result {
  double loss;                              // summed over the ranks
  std::vector<at::Tensor> gradients;        // of every unit, whole, without padding
  std::vector<std::vector<int32_t>> lists;  // of every layer: this rank's tiles, entries by (head, tile)
  int64_t first_tile = 0, num_tiles = 0;
};

std::vector<int32_t> flat_lists(const BlockLists& lists, int64_t first_tile, int64_t num_tiles) {
  std::vector<int32_t> flat;
  const at::Tensor host_offsets = lists.offsets.cpu(), host_entries = lists.entries.cpu();
  const auto offsets = host_offsets.accessor<int64_t, 2>();
  for (int64_t head = 0; head < offsets.size(0); ++head)
    for (int64_t tile = first_tile; tile < first_tile + num_tiles; ++tile) {
      for (int64_t i = offsets[head][tile]; i < offsets[head][tile + 1]; ++i)
        flat.push_back(host_entries[i].item<int32_t>());
      flat.push_back(-1);
    }
  return flat;
}

Result compute(const ModelConfig& model, const RunConfig& run, const ProcessGrid& grid, at::Device device,
               int64_t first_tile, int64_t num_tiles) {
  ShardedParameters parameters(ParameterLayout(model), grid.world(), run.precision == "bfloat16", true, device);
  load_random(parameters, model, 5);
  Transformer transformer(model, run, parameters, grid);
  Result result;
  const TokenBatch batch = random_batch(run.data.sequence_length, model.vocabulary_size);
  transformer.observe_lists([&](int64_t, const BlockLists& lists) {
    if (lists.offsets.defined()) result.lists.push_back(flat_lists(lists, first_tile, num_tiles));
  });
  at::Tensor sum = transformer.forward_backward(slice_batch(batch, grid.sequence(), device), 1.0 / 800);
  grid.world().all_reduce_sum(sum);
  result.loss = sum.item<double>();
  for (size_t unit = 0; unit < parameters.shards().size(); ++unit) {
    const at::Tensor& part = parameters.shards()[unit].gradient;
    at::Tensor whole = at::empty({part.numel() * grid.world().size()}, part.options());
    grid.world().all_gather(part, whole);
    result.gradients.push_back(whole.narrow(0, 0, parameters.layout().units()[unit].numel));
  }
  return result;
}

void expect_ranks_agree(const RunConfig& run, const ModelConfig& model, at::Device device) {
  std::unique_ptr<Communicator> world = test_world();
  const SequenceShard shard(run.data.sequence_length, kernels::kQueryTile, world->rank(), world->size());
  const int64_t first_tile = shard.begin() / kernels::kQueryTile, num_tiles = kernels::num_tiles(shard.size());
  const ProcessGrid alone(world->split(world->rank(), 0), 1);
  const Result one = compute(model, run, alone, device, first_tile, num_tiles);
  const int ranks = world->size();
  const ProcessGrid together(std::move(world), ranks);
  const Result all = compute(model, run, together, device, 0, num_tiles);
  EXPECT_EQ(one.lists, all.lists);
  const double tolerance = run.precision == "bfloat16" ? 2e-2 : 2e-5;
  EXPECT_NEAR(one.loss, all.loss, 1e-6 * std::abs(one.loss));
  ASSERT_EQ(one.gradients.size(), all.gradients.size());
  for (size_t unit = 0; unit < one.gradients.size(); ++unit) {
    const double scale = one.gradients[unit].norm().item<double>();
    EXPECT_GT(scale, 0);
    EXPECT_LT((one.gradients[unit] - all.gradients[unit]).norm().item<double>(), tolerance * scale) << "unit " << unit;
  }
}

class TransformerRanks : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "cuda" && num_gpus() == 0) GTEST_SKIP() << "no GPU";
    device_ = choose_device(GetParam(), test_runtime());
  }

  at::Device device_ = at::kCPU;
};

TEST_P(TransformerRanks, PicksByScan) { expect_ranks_agree(small_run("picks", 1), small_model(), device_); }

TEST_P(TransformerRanks, PicksByScanOfFloat8Keys) {
  RunConfig run = small_run("picks", 1);
  run.attention.index_dtype = "float8_e4m3";
  run.attention.index_dims = 16;
  expect_ranks_agree(run, small_model(), device_);
}

TEST_P(TransformerRanks, PicksByTree) {
  RunConfig run = small_run("picks", 2);
  run.attention.scan_tokens = 0;
  run.attention.beam = 2;
  run.attention.top_nodes = 2;
  expect_ranks_agree(run, small_model(), device_);
}

// Computed on the CPU only.
TEST(TransformerRanksOnCpu, Published) { expect_ranks_agree(small_run("published", 3), small_model(), at::kCPU); }

TEST_P(TransformerRanks, Dense) {
  RunConfig run = small_run("picks", 2);
  run.attention.type = "dense";
  ModelConfig model = small_model();
  model.tied_embeddings = false;
  model.query_key_norm = false;
  model.mlp_bias = model.output_bias = model.value_bias = true;
  expect_ranks_agree(run, model, device_);
}

TEST_P(TransformerRanks, EveryLayerItsOwnSettings) {
  RunConfig run = small_run("picks", 1);
  LayerAttention dense{.layers = {0}, .attention = run.attention}, wide{.layers = {2}, .attention = run.attention};
  dense.attention.type = "dense";
  wide.attention.picks = 5;
  wide.attention.index_dim_list = {0, 3, 9};
  run.attention_layers = {dense, wide};
  expect_ranks_agree(run, small_model(), device_);
}

TEST_P(TransformerRanks, Bfloat16) {
  RunConfig run = small_run("picks", 1);
  run.precision = "bfloat16";
  expect_ranks_agree(run, small_model(), device_);
}

// Layers between kept inputs are run again: nothing changes but memory.
TEST_P(TransformerRanks, RecomputeIntervalChangesNothing) {
  const ModelConfig model = small_model();
  const ProcessGrid grid(test_world(), test_runtime().size());
  const Result each = compute(model, small_run("picks", 1), grid, device_, 0, 0);
  const Result third = compute(model, small_run("picks", 3), grid, device_, 0, 0);
  EXPECT_EQ(each.loss, third.loss);
  for (size_t unit = 0; unit < each.gradients.size(); ++unit)
    EXPECT_TRUE(at::equal(each.gradients[unit], third.gradients[unit])) << "unit " << unit;
}

INSTANTIATE_TEST_SUITE_P(Devices, TransformerRanks, testing::Values("cpu", "cuda"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace hiptrain
