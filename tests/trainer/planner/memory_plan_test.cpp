// The planner's bytes and seconds: by hand where the case is small, by their laws where it is large.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "trainer/attention/hip_attention.h"
#include "trainer/device/profiler.h"
#include "trainer/formats/format_error.h"
#include "trainer/model/model_config.h"
#include "trainer/model/model_flops.h"
#include "trainer/planner/plan_report.h"

namespace hiptrain {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kGiB = int64_t{1} << 30;

// The shape of Llama 3.1 8B.
ModelConfig llama_8b() {
  ModelConfig model{};
  model.model_type = "llama";
  model.hidden_size = 4096;
  model.intermediate_size = 14336;
  model.num_layers = 32;
  model.vocabulary_size = 128256;
  model.num_query_heads = 32;
  model.num_kv_heads = 8;
  model.head_dim = 128;
  model.tied_embeddings = false;
  return model;
}

ModelConfig small_model() {
  ModelConfig model = llama_8b();
  model.hidden_size = 64;
  model.intermediate_size = 96;
  model.num_layers = 2;
  model.vocabulary_size = 320;
  model.num_query_heads = 4;
  model.num_kv_heads = 2;
  model.head_dim = 16;
  model.tied_embeddings = true;
  return model;
}

RunConfig run_of(Precision precision = Precision::kBfloat16) {
  RunConfig run;
  run.precision = precision;
  return run;
}

PlanInputs inputs_of(int64_t tokens, int64_t sequence_ranks = 1) {
  return {.tokens = tokens, .sequence_ranks = sequence_ranks, .gpu_bytes = 139 * kGiB, .host_bytes = 125 * kGiB};
}

MemoryPlan plan_of(const ModelConfig& model, const RunConfig& run, const PlanInputs& inputs,
                   const MemoryChoice& choice = {}) {
  return plan_memory(model, ParameterLayout(model), run, inputs, choice);
}

PlannedItem item(const MemoryPlan& plan, MemoryItem wanted) {
  for (const PlannedItem& item : plan.items)
    if (item.name == name_of(wanted)) return item;
  return {};
}

TEST(MemoryLedger, FindsTheLargestMoment) {
  MemoryLedger ledger(/*rounds=*/false);
  ledger.enter("first");
  ledger.keep(MemoryItem::kWeights, 100);
  {
    const MemoryLedger::Held tile = ledger.hold(MemoryItem::kTokenTile, 50);
    ledger.touch(MemoryItem::kSearch, 7);
  }
  ledger.enter("second");
  ledger.touch(MemoryItem::kLossTile, 56);
  EXPECT_EQ(ledger.peak(), 157);
  EXPECT_STREQ(ledger.peak_phase(), "first");
  EXPECT_EQ(ledger.at_peak()[static_cast<size_t>(MemoryItem::kTokenTile)], 50);
  EXPECT_EQ(ledger.at_peak()[static_cast<size_t>(MemoryItem::kLossTile)], 0);
  ledger.touch(MemoryItem::kLossTile, 58);
  EXPECT_STREQ(ledger.peak_phase(), "second");
}

TEST(MemoryLedger, BlocksAreThoseOfTheAllocator) {
  constexpr int64_t kMiB = int64_t{1} << 20;
  const auto block = [](int64_t bytes) {
    MemoryLedger ledger(/*rounds=*/true);
    ledger.keep(MemoryItem::kWeights, bytes);
    return ledger.peak();
  };
  EXPECT_EQ(block(0), 0);
  EXPECT_EQ(block(1), 512);
  EXPECT_EQ(block(513), 1024);
  EXPECT_EQ(block(3 * kMiB + 1), 3 * kMiB + 512);
  EXPECT_EQ(block(12 * kMiB - 512), 12 * kMiB);        // a rest of 512 bytes is not split off
  EXPECT_EQ(block(10 * kMiB + 512), 10 * kMiB + 512);  // one of nearly 2 MiB is
}

TEST(MemoryPlan, StateOfASmallModelByHand) {
  const ModelConfig model = small_model();
  // Table 320 x 64; a layer: two norms, q and o 64 x 64, k and v 32 x 64, three of 96 x 64; the last norm.
  const int64_t table = 320 * 64, layer = 2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64, head = 64;
  const int64_t parameters = table + 2 * layer + head;
  PlanInputs inputs = inputs_of(1024);
  inputs.on_gpu = false;  // no rounding to blocks
  const MemoryPlan plan = plan_of(model, run_of(Precision::kFloat32), inputs);
  EXPECT_EQ(item(plan, MemoryItem::kWeights).host_bytes, 4 * parameters);
  EXPECT_EQ(item(plan, MemoryItem::kGradients).host_bytes, 4 * parameters);
  EXPECT_EQ(item(plan, MemoryItem::kOptimizer).host_bytes, 8 * parameters);
  EXPECT_EQ(item(plan, MemoryItem::kLayerInputs).host_bytes, 2 * 1024 * 64 * 4);
  EXPECT_EQ(item(plan, MemoryItem::kKeyGradients).host_bytes, 2 * 1024 * 32 * 4);
  EXPECT_EQ(item(plan, MemoryItem::kGatheredWeights).host_bytes, 0);  // computed with as they are kept
  EXPECT_EQ(plan.gpu_total, 0);
}

TEST(MemoryPlan, ItemsAddUp) {
  const MemoryPlan plan = plan_of(llama_8b(), run_of(), inputs_of(262144));
  int64_t gpu = 0, host = 0;
  for (const PlannedItem& item : plan.items) {
    gpu += item.gpu_bytes;
    host += item.host_bytes;
  }
  EXPECT_EQ(gpu, plan.gpu_total);
  EXPECT_EQ(host, plan.host_total);
  EXPECT_EQ(plan.gpu_total - item(plan, MemoryItem::kProcess).gpu_bytes - item(plan, MemoryItem::kReserve).gpu_bytes,
            plan.gpu_peak);
}

// What a token more costs while a layer is differentiated: its inputs of all layers, the stream's gradient, keys and
// values in bfloat16 and their gradients in float32, lists, ids, targets, position, loss and prediction.
TEST(MemoryPlan, GrowsByAKnownSlope) {
  const ModelConfig model = llama_8b();
  const MemoryChoice choice{.query_tile = 65536};
  RunConfig run = run_of();
  run.attention.picks = 0;  // lists and their inversion have their own test
  const auto peak = [&](int64_t tokens) { return plan_of(model, run, inputs_of(tokens), choice).gpu_peak; };
  const int64_t slope = 32 * 4096 * 2 + 4096 * 2 + 2 * 1024 * 2 + 2 * 1024 * 4 + 16 + 8;
  const double rounding = 64e6;
  EXPECT_NEAR(static_cast<double>(peak(262144) - peak(131072)), 131072.0 * slope, rounding);
  EXPECT_NEAR(static_cast<double>(peak(1048576) - peak(524288)), 524288.0 * slope, rounding);
}

// A token and KV head: queries 1,024 bytes, gradients of keys and values as many, index key and picks 72, and in a
// query tile index queries 256.
TEST(MemoryPlan, QueriesAreKeptWhereGradientsOfKeysWillBe) {
  const ModelConfig model = llama_8b();
  const auto kept = [&](const AttentionConfig& attention, int64_t tile) {
    return num_kept_queries(model, attention, 2, 2, /*query_tile=*/tile, /*token_tile=*/tile / 16, 1048576,
                            /*ranks=*/1);
  };
  EXPECT_EQ(kept({}, 1048576), 1048576);
  EXPECT_EQ(kept({}, 64), (1048576 * (1024 - 72) - 64 * 256) / 1024);
  EXPECT_EQ(kept({}, 262144), 55 * 16384);  // of 55.5
  AttentionConfig large_index;
  large_index.index_dims = 128;
  large_index.picks = 128;
  EXPECT_EQ(kept(large_index, 262144), 0);
  const MemoryPlan plan = plan_of(model, run_of(), inputs_of(1048576), {.query_tile = 65536});
  EXPECT_THAT(plan.peak_phase, HasSubstr("backward"));
}

// For all tokens of one rank they would take 2 GiB a layer.
TEST(MemoryPlan, IndexQueriesOfAQueryTileFitWhereBackwardWillBe) {
  for (const int64_t ranks : {1, 2, 8}) {
    const auto peak = [&](IndexHeads heads) {
      RunConfig run = run_of();
      run.attention.index_heads = heads;
      return plan_of(llama_8b(), run, inputs_of(1048576, ranks), {.query_tile = 65536}).gpu_peak;
    };
    EXPECT_EQ(peak(IndexHeads::kEach), peak(IndexHeads::kMean)) << ranks << " ranks";
  }
}

TEST(MemoryPlan, ListsOfAllLayersAreKept) {
  const MemoryPlan plan = plan_of(llama_8b(), run_of(), inputs_of(1048576));
  // 56.6 entries of 4 bytes a tile of 64 tokens and KV head, and offsets of 8 bytes. The allocator takes pieces of 2
  // MiB, of which it gives back what is more than 1 MiB: here 1.7 MiB.
  const double expected = 32 * (8 * 16384 * 56.6 * 4 + 8.0 * 16384 * 8);
  EXPECT_NEAR(static_cast<double>(item(plan, MemoryItem::kLists).gpu_bytes), expected, 0.01 * expected);
}

// The last segment's inputs are all kept, of the others the first.
TEST(MemoryPlan, IntervalsKeepFewerInputs) {
  const int64_t input = int64_t{262144} * 4096 * 2;
  for (const auto& [interval, kept] : {std::pair{1, 32}, {2, 15 + 2}, {4, 7 + 4}, {5, 6 + 5}, {32, 32}}) {
    const MemoryPlan plan = plan_of(llama_8b(), run_of(), inputs_of(262144), {.interval = interval});
    EXPECT_EQ(plan.device_inputs, kept);
    EXPECT_EQ(item(plan, MemoryItem::kLayerInputs).gpu_bytes, kept * input) << interval;
  }
}

TEST(MemoryPlan, InputsMoveToHostMemory) {
  const int64_t input = int64_t{262144} * 4096 * 2;
  const MemoryPlan here = plan_of(llama_8b(), run_of(), inputs_of(262144));
  const MemoryPlan there = plan_of(llama_8b(), run_of(), inputs_of(262144), {.host_inputs = 20});
  EXPECT_EQ(item(there, MemoryItem::kLayerInputs).host_bytes, 20 * input);
  EXPECT_EQ(item(there, MemoryItem::kLayerInputs).gpu_bytes, 12 * input);
  EXPECT_EQ(here.gpu_peak - there.gpu_peak, 20 * input);
  EXPECT_EQ(there.host_total - here.host_total, 20 * input);
  const MemoryPlan all = plan_of(llama_8b(), run_of(), inputs_of(262144), {.host_inputs = 31});
  EXPECT_EQ(item(all, MemoryItem::kLayerInputs).gpu_bytes, 2 * input);  // one that is used, one that comes back
}

TEST(MemoryPlan, OffloadingMovesStateToHostMemory) {
  const double parameters = 8'030'261'248;
  const auto plan = [](const MemoryChoice& choice) { return plan_of(llama_8b(), run_of(), inputs_of(65536), choice); };
  const auto host = [&](const MemoryChoice& choice) {
    return static_cast<double>(plan(choice).host_total - plan({}).host_total) / parameters;
  };
  // Master weights and two moments in float32; gradients; weights in bfloat16.
  EXPECT_NEAR(host({.offload_optimizer = true}), 12, 0.01);
  EXPECT_NEAR(host({.offload_gradients = true}), 4, 0.01);
  EXPECT_NEAR(host({.offload_optimizer = true, .offload_weights = true}), 14, 0.01);
  const MemoryPlan all = plan({.offload_optimizer = true, .offload_gradients = true, .offload_weights = true});
  for (const MemoryItem gone : {MemoryItem::kWeights, MemoryItem::kGradients, MemoryItem::kOptimizer})
    EXPECT_EQ(item(all, gone).gpu_bytes, 0) << name_of(gone);
  EXPECT_GT(item(all, MemoryItem::kGatheredWeights).gpu_bytes, 0);
}

TEST(MemoryPlan, Bfloat16StateIsHalf) {
  RunConfig run = run_of();
  run.optimizer.state_dtype = StateType::kBfloat16;
  run.optimizer.master_weights = false;
  const MemoryPlan wide = plan_of(llama_8b(), run_of(), inputs_of(65536)),
                   narrow = plan_of(llama_8b(), run, inputs_of(65536));
  for (const MemoryItem state : {MemoryItem::kWeights, MemoryItem::kOptimizer})
    EXPECT_NEAR(static_cast<double>(item(narrow, state).gpu_bytes),
                static_cast<double>(item(wide, state).gpu_bytes) / 2, 64e6);
  EXPECT_EQ(item(narrow, MemoryItem::kGradients).gpu_bytes, item(wide, MemoryItem::kGradients).gpu_bytes);
}

// Where little else is held, the chunks of AdamW are the peak: two of 16M elements, of master weights, gradients, both
// moments and weights.
TEST(MemoryPlan, OffloadedStatePassesInChunks) {
  const MemoryPlan plan = plan_of(llama_8b(), run_of(), inputs_of(64),
                                  {.token_tile = 64,
                                   .loss_tile = 64,
                                   .offload_optimizer = true,
                                   .offload_gradients = true,
                                   .offload_weights = true});
  EXPECT_EQ(item(plan, MemoryItem::kStaging).gpu_bytes, 2 * (int64_t{4} << 20) * (4 + 4 + 4 + 4 + 2));
}

TEST(MemoryPlan, ListsGrowWithTheSequence) {
  const auto entries = [](int64_t tokens, double given = 0) {
    PlanInputs inputs = inputs_of(tokens);
    inputs.list_entries = given;
    return mean_list_entries(AttentionConfig{}, inputs);
  };
  EXPECT_NEAR(entries(32768), 23.4, 0.01);
  EXPECT_NEAR(entries(131072), 35.9, 0.02);
  EXPECT_NEAR(entries(1048576), 56.6, 0.01);
  EXPECT_NEAR(entries(4194304), 56.6 + 2.0 / 3 * 20.7, 0.02);
  EXPECT_EQ(entries(262144, 41.3), 41.3);  // as measured
  EXPECT_EQ(entries(1024), 0);             // all in sinks and window
}

// 1M tokens, 8 KV heads of 128, 8 ranks: by heads a rank holds one head of all tokens, and beside it its own tokens'
// heads.
TEST(MemoryPlan, AnExchangeByHeadsHoldsAPart) {
  RunConfig run = run_of();
  const int64_t keys = int64_t{1048576} * 1024 * 2 * 2;
  const auto held = [&](ExchangeChoice exchange, MemoryItem wanted) {
    run.parallel.exchange = exchange;
    return item(plan_of(llama_8b(), run, inputs_of(1048576, 8)), wanted).gpu_bytes;
  };
  EXPECT_EQ(held(ExchangeChoice::kAllGather, MemoryItem::kKeys), keys);
  EXPECT_EQ(held(ExchangeChoice::kAllToAll, MemoryItem::kKeys), keys / 8);
  EXPECT_EQ(held(ExchangeChoice::kAllToAll, MemoryItem::kKeyGradients), 2 * keys / 8);
  EXPECT_EQ(held(ExchangeChoice::kAllGather, MemoryItem::kExchange), 0);
  EXPECT_GE(held(ExchangeChoice::kAllToAll, MemoryItem::kExchange), 3 * keys / 8);
  EXPECT_EQ(held(ExchangeChoice::kAutomatic, MemoryItem::kKeys), held(ExchangeChoice::kAllToAll, MemoryItem::kKeys));
}

TEST(MemoryPlan, TheHostKeepsAReserve) {
  const MemoryPlan one = plan_of(llama_8b(), run_of(), inputs_of(65536)),
                   eight = plan_of(llama_8b(), run_of(), inputs_of(65536, 8));
  EXPECT_EQ(one.host_total - one.host_peak, 4 * kGiB);
  EXPECT_EQ(8 * (eight.host_total - eight.host_peak), 4 * kGiB);  // of the host that they share
}

TEST(MemoryPlan, RanksShareStateAndSequence) {
  RunConfig run = run_of();
  run.parallel.exchange = ExchangeChoice::kAllGather;
  const MemoryPlan one = plan_of(llama_8b(), run, inputs_of(262144)),
                   eight = plan_of(llama_8b(), run, inputs_of(262144, 8));
  for (const MemoryItem shared : {MemoryItem::kWeights, MemoryItem::kGradients, MemoryItem::kOptimizer,
                                  MemoryItem::kLayerInputs, MemoryItem::kHidden, MemoryItem::kBatch})
    EXPECT_NEAR(static_cast<double>(item(eight, shared).gpu_bytes),
                static_cast<double>(item(one, shared).gpu_bytes) / 8, 64e6)
        << name_of(shared);
  // Keys and values are of the whole sequence.
  EXPECT_EQ(item(eight, MemoryItem::kKeys).gpu_bytes, item(one, MemoryItem::kKeys).gpu_bytes);
  EXPECT_GT(item(eight, MemoryItem::kGradientBuffers).gpu_bytes, 0);
}

class Planner : public ::testing::Test {
 protected:
  ModelConfig model_ = llama_8b();
  RunConfig run_ = run_of();
  MemoryWishes wishes_;  // all auto
  StepPlan plan(const PlanInputs& inputs) const { return planner().plan(inputs); }
  StepPlanner planner() const { return {model_, run_, wishes_, h200_rates()}; }
};

TEST_F(Planner, KeepsEverythingWhereItFits) {
  model_.num_layers = 4;
  const StepPlan found = plan(inputs_of(131072));
  EXPECT_TRUE(found.memory.fits());
  EXPECT_EQ(found.memory.choice.interval, 1);
  EXPECT_EQ(found.memory.choice.host_inputs, 0);
  EXPECT_FALSE(found.memory.choice.offload_optimizer || found.memory.choice.offload_gradients ||
               found.memory.choice.offload_weights);
}

TEST_F(Planner, MovesAndRecomputesWhatDoesNotFit) {
  const StepPlan found = plan(inputs_of(131072));
  EXPECT_TRUE(found.memory.fits());
  EXPECT_GT(found.memory.host_total, plan_of(model_, run_, inputs_of(131072)).host_total);
  const StepPlan longer = plan(inputs_of(524288));
  EXPECT_TRUE(longer.memory.fits());
  EXPECT_GT(longer.memory.choice.interval, 1);
}

TEST_F(Planner, TakesTheFastestOfWhatFits) {
  const PlanInputs inputs = inputs_of(262144);
  const StepPlan found = plan(inputs);
  for (const int64_t interval : {1, 2, 4, 8, 32})
    for (const int64_t host_inputs : {0, 4, 16})
      for (const std::optional<int64_t> last_layers : {std::optional<int64_t>(), std::optional<int64_t>(12)})
        for (const int64_t token_tile : {2048, 4096, 16384})
          for (const bool gradients : {false, true}) {
            const MemoryChoice choice{.interval = interval,
                                      .last_layers = last_layers,
                                      .host_inputs = std::min(host_inputs, (31 / interval)),
                                      .token_tile = token_tile,
                                      .offload_optimizer = true,
                                      .offload_gradients = gradients};
            const StepPlan other = planner().plan_of(inputs, choice);
            if (other.memory.fits()) {
              EXPECT_LE(found.time.seconds, other.time.seconds + 1e-9);
            }
          }
}

// Here is room for more inputs than those of every second layer, and for fewer than all.
TEST_F(Planner, KeepsMoreOfTheLastLayersInputsWhereThereIsRoom) {
  model_.num_layers = 16;
  PlanInputs inputs = inputs_of(524288);
  inputs.gpu_bytes = 112 * kGiB;
  inputs.host_bytes = 24 * kGiB;
  const StepPlan found = plan(inputs);
  EXPECT_TRUE(found.memory.fits());
  EXPECT_GT(found.memory.last_layers, found.memory.choice.interval);
  EXPECT_LT(found.memory.last_layers, 16);
  wishes_.interval = found.memory.choice.interval;
  EXPECT_EQ(plan(inputs).memory.last_layers, found.memory.choice.interval);
  EXPECT_GT(plan(inputs).time.seconds, found.time.seconds);
}

TEST_F(Planner, KeepsWhatTheUserHasSet) {
  wishes_ = {.interval = 3, .last_layers = 4, .host_inputs = 2, .token_tile = 1000, .offload_gradients = true};
  const MemoryChoice choice = plan(inputs_of(65536)).memory.choice;
  EXPECT_EQ(choice.interval, 3);
  EXPECT_EQ(choice.last_layers, 4);
  EXPECT_EQ(choice.host_inputs, 2);
  EXPECT_EQ(choice.token_tile, 1000);
  EXPECT_TRUE(choice.offload_gradients);
}

TEST_F(Planner, WishesAndChoicesAreThoseOfTheConfig) {
  EXPECT_FALSE(memory_wishes(run_).interval || memory_wishes(run_).loss_tile || memory_wishes(run_).offload_weights);
  const MemoryChoice choice{.interval = 3,
                            .host_inputs = 5,
                            .query_tile = 128,
                            .token_tile = 32,
                            .loss_tile = 16,
                            .offload_optimizer = true,
                            .offload_weights = true};
  const RunConfig resolved = with_choice(run_, choice);
  EXPECT_EQ(resolved.recompute.interval, 3);
  EXPECT_EQ(resolved.offload.gradients, Choice::kNo);
  wishes_ = memory_wishes(resolved);
  EXPECT_EQ(plan(inputs_of(65536)).memory.choice, choice);
}

// Where memory is short, and where the user wants more a tile, too.
TEST_F(Planner, DeterministicRunsHaveOneSizeOfTiles) {
  run_.train.deterministic = true;
  for (const int64_t gpu_bytes : {139, 96}) {
    PlanInputs inputs = inputs_of(524288);
    inputs.gpu_bytes = gpu_bytes * kGiB;
    for (const std::optional<int64_t> token_tile : {std::optional<int64_t>(), std::optional<int64_t>(16384)}) {
      wishes_.token_tile = token_tile;
      const MemoryPlan found = plan(inputs).memory;
      EXPECT_TRUE(found.fits());
      EXPECT_EQ(found.choice.query_tile, kUsualQueryTile);
      EXPECT_EQ(found.choice.token_tile, kUsualTokenTile);
      EXPECT_EQ(found.choice.loss_tile, kUsualLossTile);
    }
  }
}

// Where nothing else fits, segments' inputs are made one at a time.
TEST_F(Planner, TheLongestSequencesMakeInputsOneAtATime) {
  PlanInputs inputs = inputs_of(1572864);
  const MemoryPlan found = plan(inputs).memory;
  EXPECT_TRUE(found.fits());
  EXPECT_TRUE(found.choice.from_start);
  wishes_.from_start = false;
  EXPECT_FALSE(plan(inputs).memory.fits());
}

TEST(MemoryPlan, OneInputIsOnTheDeviceWhereEverySegmentsIsOnTheHost) {
  const int64_t input = int64_t{262144} * 4096 * 2;
  for (const auto& [host_inputs, here] : {std::pair{3, 2}, {4, 1}}) {
    const MemoryPlan found = plan_of(llama_8b(), run_of(), inputs_of(262144),
                                     {.interval = 8, .from_start = true, .host_inputs = host_inputs});
    EXPECT_EQ(item(found, MemoryItem::kLayerInputs).gpu_bytes, here * input);
    EXPECT_EQ(item(found, MemoryItem::kLayerInputs).host_bytes, host_inputs * input);
  }
}

TEST_F(Planner, TheLongestSequenceFitsAndNoLongerOne) {
  model_.num_layers = 4;
  for (const int64_t ranks : {1, 2}) {
    const int64_t longest = planner().longest_sequence(inputs_of(0, ranks));
    EXPECT_EQ(longest % (64 * ranks), 0);
    EXPECT_TRUE(plan(inputs_of(longest, ranks)).memory.fits());
    EXPECT_FALSE(plan(inputs_of(longest + 64 * ranks, ranks)).memory.fits());
  }
}

TEST_F(Planner, RefusesWithTheTableAndAWayOut) {
  PlanInputs inputs = inputs_of(1048576);
  inputs.gpu_bytes = 20 * kGiB;
  const StepPlan found = plan(inputs);
  ASSERT_FALSE(found.memory.fits());
  try {
    require_fits(planner(), found);
    FAIL() << "not refused";
  } catch (const std::invalid_argument& error) {
    EXPECT_THAT(error.what(), HasSubstr("memory: 1048576 tokens need "));
    EXPECT_THAT(error.what(), HasSubstr("of GPU memory a rank, and there are 20.0 GiB"));
    EXPECT_THAT(error.what(), HasSubstr("key and value gradients"));
    EXPECT_THAT(error.what(), HasSubstr("data.sequence_length of at most "));
  }
  inputs.gpu_bytes = kGiB;  // less than the tiles of any sequence
  EXPECT_EQ(planner().longest_sequence(inputs), 0);
}

TEST_F(Planner, NothingMovesOnTheCpu) {
  model_ = small_model();
  PlanInputs inputs = inputs_of(4096);
  inputs.on_gpu = false;
  inputs.gpu_bytes = 0;
  const MemoryPlan found = plan(inputs).memory;
  EXPECT_TRUE(found.fits());
  EXPECT_FALSE(found.choice.offload_optimizer);
  EXPECT_EQ(found.choice.host_inputs, 0);
}

PartTime part_of(const StepTime& time, const std::string& name) {
  for (const PartTime& part : time.parts)
    if (part.name == name) return part;
  ADD_FAILURE() << "no part " << name;
  return {};
}
double flops_of(const StepTime& time, const std::string& name) { return part_of(time, name).flops; }

TEST(StepTime, FlopOfTheUsefulWorkAndOfWhatIsRepeated) {
  const ModelConfig model = llama_8b();
  const PlanInputs inputs = inputs_of(262144);
  const auto time = [&](int64_t interval) {
    return predict_step_time(model, run_of(), inputs, {.interval = interval, .query_tile = 262144}, h200_rates());
  };
  const double tokens = 262144, matrix = 4096.0 * (2 * 4096 + 2 * 1024), mlp = 3.0 * 4096 * 14336;
  EXPECT_DOUBLE_EQ(flops_of(time(1), part::kLoss), 6 * tokens * 4096 * 128256);
  // 6 a weight, and in backward a second forward without the product down.
  const double once = 32 * tokens * (6 * (matrix + mlp) + 2 * (matrix + mlp * 2 / 3));
  EXPECT_NEAR(flops_of(time(1), part::kProjections), once, 1e-6 * once);
  // Every second layer runs forward once more, but for the last segment's.
  const double more = 15 * tokens * 2 * (matrix + mlp);
  EXPECT_NEAR(flops_of(time(2), part::kProjections), once + more, 1e-6 * once);
  EXPECT_NEAR(flops_of(time(2), part::kAttentionForward) / flops_of(time(1), part::kAttentionForward), 1 + 15.0 / 64,
              1e-9);
  EXPECT_EQ(flops_of(time(2), part::kSearch), flops_of(time(1), part::kSearch));
}

TEST(StepTime, EveryHeadOfAGroupIsSearchedWith) {
  const auto search = [](IndexHeads heads, int64_t scan_tokens) {
    RunConfig run = run_of();
    run.attention.index_heads = heads;
    run.attention.scan_tokens = scan_tokens;
    return part_of(predict_step_time(llama_8b(), run, inputs_of(1048576), {}, h200_rates()), part::kSearch);
  };
  const double lists = 32 * 8 * 1048576.0 / h200_rates().lists;  // once a KV head
  for (const int64_t scan_tokens : {0, 1048576}) {
    const PartTime each = search(IndexHeads::kEach, scan_tokens), mean = search(IndexHeads::kMean, scan_tokens);
    EXPECT_NEAR(each.seconds - lists, 4 * (mean.seconds - lists), 1e-6);
    EXPECT_DOUBLE_EQ(each.flops, 4 * mean.flops);
  }
}

TEST(StepTime, UsefulAttentionIsThatOfTheMfu) {
  const ModelConfig model = llama_8b();
  RunConfig run = run_of();
  run.data.sequence_length = 1048576;
  const PlanInputs inputs = inputs_of(1048576);
  const StepTime time = predict_step_time(model, run, inputs, {.query_tile = 65536}, h200_rates());
  const double entries = mean_list_entries(run.attention, inputs);
  const double useful = 1048576 * 10.0 * 4096 * 32 * mean_attended_keys(run, model, entries);
  EXPECT_NEAR(flops_of(time, part::kAttentionBackward) / useful, 1, 0.03);  // whole blocks are a little more
}

TEST(StepTime, EveryQueryTileAddsToTheGradientsOfWhatItPicked) {
  const auto backward = [](int64_t query_tile) {
    return part_of(predict_step_time(llama_8b(), run_of(), inputs_of(131072), {.query_tile = query_tile}, h200_rates()),
                   part::kAttentionBackward);
  };
  // A tile's tokens pick some 30 times as many blocks as there are, so all of them: half of the sequence at the mean.
  const double keys = 32 * 65536 * 2.0 * 1024 * (2 + 8);
  EXPECT_NEAR(backward(65536).seconds - backward(131072).seconds, keys / h200_rates().copy, 1e-6);
  EXPECT_NEAR(backward(16384).seconds - backward(131072).seconds, 7 * keys / h200_rates().copy, 0.01);
}

TEST(StepTime, CopiesHideBehindLongStepsAndNotBehindShortOnes) {
  const auto waited = [](double from_host) {
    MachineRates rates = h200_rates();
    rates.to_host = rates.from_host = from_host;
    const StepTime time = predict_step_time(llama_8b(), run_of(), inputs_of(1048576), {.host_inputs = 31}, rates);
    return part_of(time, "host copies, waited for").seconds;
  };
  EXPECT_EQ(waited(50e9), 0);
  EXPECT_GT(waited(1e9), 100);  // 266 GB each way
}

TEST(StepTime, OffloadedStatesPassBesideTheForwardPass) {
  const auto waited = [](int64_t tokens, bool offload) {
    const MemoryChoice choice{.offload_optimizer = offload};
    const StepTime time = predict_step_time(llama_8b(), run_of(), inputs_of(tokens), choice, h200_rates());
    return offload ? part_of(time, "host copies, waited for").seconds : time.seconds;
  };
  const double states = 12 * 8.03e9 / h200_rates().from_host;
  const double first = 12 * (128256 * 4096 + 218.1e6) / h200_rates().from_host;  // of the embedding and a layer
  EXPECT_NEAR(waited(1048576, true), first, 0.01 * first);
  // A step that is shorter than the copies waits for most of them.
  EXPECT_NEAR(waited(4096, true), states - waited(4096, false) / 3 + first, 0.1 * states);
}

TEST(StepTime, RanksShareTheWork) {
  const auto seconds = [](int64_t ranks) {
    return predict_step_time(llama_8b(), run_of(), inputs_of(1048576, ranks), {}, h200_rates()).seconds;
  };
  EXPECT_LT(seconds(8), seconds(1) / 6);
  EXPECT_GT(seconds(8), seconds(1) / 8);  // the exchange
}

TEST(StepTime, KeysComeBehindAttentionAndQueriesButForTheFirstPiece) {
  const auto waited = [](ExchangeChoice exchange, double link) {
    RunConfig run = run_of();
    run.parallel.exchange = exchange;
    MachineRates rates = h200_rates();
    rates.link = link;
    return predict_step_time(llama_8b(), run, inputs_of(1048576, 4), {.query_tile = 262144}, rates);
  };
  // Only index and picks are awaited on a fast link. Index keys come of all other ranks' tokens: 8 heads of 32 dims. A
  // rank's own tokens are shared by all: 32 index queries go to others, 8 times 2 picks are sent back.
  const StepTime fast = waited(ExchangeChoice::kAllGather, 2.8e11);
  const double keys = 1048576.0 * 8 * 32 * 2, queries = 262144.0 * 32 * 32 * 2, picks = 262144.0 * 8 * 2 * 4;
  EXPECT_NEAR(fast.parts.back().seconds, 32 * 0.75 * (keys + queries + picks) / 2.8e11, 1e-6);
  EXPECT_GT(waited(ExchangeChoice::kAllGather, 1e9).parts.back().seconds, 10 * fast.parts.back().seconds);
  const StepTime heads = waited(ExchangeChoice::kAllToAll, 2.8e11);
  ASSERT_EQ(heads.traffic.size(), 3u);
  EXPECT_EQ(heads.traffic[1].name, "queries and outputs");
  EXPECT_NEAR(heads.traffic[1].bytes, 32 * 6 * 0.75 * 262144 * 4096 * 2, 1);
  // With two KV heads a rank, one of two pieces is waited for. On a slow link attention is not long enough for the
  // other.
  EXPECT_GT(heads.parts.back().seconds, heads.traffic[1].seconds / 2);
  EXPECT_LT(heads.parts.back().seconds, heads.traffic[1].seconds * 0.6);
  const StepTime slow = waited(ExchangeChoice::kAllToAll, 1e9);
  EXPECT_GT(slow.parts.back().seconds, slow.traffic[1].seconds * 0.8);
}

TEST(MachineRates, CurvesAreStraightOverTheLogarithm) {
  const RateCurve curve{.tokens = {100, 10000}, .rates = {1, 3}};
  EXPECT_DOUBLE_EQ(curve.at(1), 1);
  EXPECT_DOUBLE_EQ(curve.at(1000), 2);
  EXPECT_DOUBLE_EQ(curve.at(1e9), 3);
}

TEST(MachineRates, FilesReadBack) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "rates.json";
  nlohmann::ordered_json rates = json_of(h200_rates());
  rates["provenance"] = {{"version", "1.2.3"}};
  std::ofstream(path) << rates;
  const MachineRates read = read_machine_rates(path);
  EXPECT_EQ(read.device, "NVIDIA H200");
  EXPECT_EQ(read.matmul, h200_rates().matmul);
  EXPECT_EQ(read.attention.size(), h200_rates().attention.size());
  EXPECT_EQ(read.scan.rates, h200_rates().scan.rates);
  EXPECT_EQ(read.node_link, h200_rates().node_link);
  std::ofstream(path) << R"({"device": "x", "gpu_memory_bytes": 1, "host_memory_bytes": 1, "matmul_flops_per_s": -1})";
  EXPECT_THROW(read_machine_rates(path), FormatError);
}

}  // namespace
}  // namespace hiptrain
