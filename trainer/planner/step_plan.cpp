#include "trainer/planner/step_plan.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "kernels/attention_geometry.h"

namespace hiptrain {
namespace {

// The values that auto may become. Large tiles come first, because they are faster.
constexpr int64_t kQueryTiles[] = {262144, 131072, 65536, 32768, 16384};
constexpr int64_t kTokenTiles[] = {16384, 8192, 4096, 2048};
constexpr int64_t kLossTiles[] = {4096, 2048, 1024, 512};
constexpr int64_t kMostTokens = int64_t{1} << 31;  // of a sequence: the search's limit

// A tile larger than the rank's tokens is the same as the next smaller one that is.
std::vector<int64_t> tile_options(std::optional<int64_t> wish, std::span<const int64_t> candidates, int64_t tokens) {
  if (wish) return {*wish};
  std::vector<int64_t> tiles(candidates.begin(), candidates.end());
  while (tiles.size() > 1 && tiles[1] >= tokens) tiles.erase(tiles.begin());
  return tiles;
}

std::vector<int64_t> interval_options(std::optional<int64_t> wish, const ModelConfig& model) {
  if (wish) return {*wish};
  std::vector<int64_t> intervals(model.num_layers);
  std::iota(intervals.begin(), intervals.end(), 1);
  return intervals;
}

int64_t kept_inputs(const ModelConfig& model, const MemoryChoice& choice) {
  return ActivationStore::num_segments(store_plan(model, choice));
}

// As many as the interval, or more, as long as the next shorter interval keeps more inputs. From the start: none.
std::vector<std::optional<int64_t>> last_layers_options(const MemoryWishes& wishes, const ModelConfig& model,
                                                        const MemoryChoice& choice) {
  std::vector<std::optional<int64_t>> options{wishes.last_layers};
  if (wishes.last_layers || wishes.interval || choice.from_start || choice.interval == 1) return options;
  const int64_t shorter = kept_inputs(model, {.interval = choice.interval - 1});
  for (int64_t layers = choice.interval + 1; layers < model.num_layers; ++layers) {
    if (kept_inputs(model, {.interval = choice.interval, .last_layers = layers}) >= shorter) break;
    options.insert(options.begin(), layers);
  }
  return options;
}

// Without a GPU there is only one memory.
std::vector<bool> offload_options(std::optional<bool> wish, bool on_gpu) {
  if (wish) return {*wish};
  return on_gpu ? std::vector<bool>{false, true} : std::vector<bool>{false};
}

// From three layers on it saves memory.
std::vector<bool> from_start_options(std::optional<bool> wish, int64_t interval) {
  if (wish) return {*wish};
  return interval > 2 ? std::vector<bool>{false, true} : std::vector<bool>{false};
}

// The longer the segments the later.
std::vector<MemoryChoice> segments_options(const MemoryWishes& wishes, const ModelConfig& model) {
  std::vector<MemoryChoice> options;
  for (const int64_t interval : interval_options(wishes.interval, model))
    for (const bool from_start : from_start_options(wishes.from_start, interval)) {
      MemoryChoice choice{.interval = interval, .from_start = from_start};
      for (const std::optional<int64_t> last_layers : last_layers_options(wishes, model, choice)) {
        choice.last_layers = last_layers;
        options.push_back(choice);
      }
    }
  return options;
}

int64_t most_host_inputs(const ModelConfig& model, const MemoryChoice& choice) {
  return ActivationStore::most_host_inputs(store_plan(model, choice));
}

// The share of the memory that there is: above 1 where a plan does not fit.
double share_needed(const MemoryPlan& plan) {
  const auto share = [](int64_t needed, int64_t budget) {
    return static_cast<double>(needed) / static_cast<double>(std::max<int64_t>(budget, 1));
  };
  return std::max(share(plan.gpu_total, plan.gpu_budget), share(plan.host_total, plan.host_budget));
}

}  // namespace

MemoryWishes memory_wishes(const RunConfig& run) {
  return {.interval = unless_auto(run.recompute.interval),
          .last_layers = unless_auto(run.recompute.last_layers),
          .from_start = unless_auto(run.recompute.from_start),
          .host_inputs = unless_auto(run.offload.layer_inputs),
          .query_tile = unless_auto(run.memory.query_tile),
          .token_tile = unless_auto(run.memory.token_tile),
          .loss_tile = unless_auto(run.memory.loss_tile),
          .offload_optimizer = unless_auto(run.offload.optimizer),
          .offload_gradients = unless_auto(run.offload.gradients),
          .offload_weights = unless_auto(run.offload.weights)};
}

RunConfig with_choice(RunConfig run, const MemoryChoice& choice) {
  const auto decided = [](bool offloaded) { return offloaded ? Choice::kYes : Choice::kNo; };
  run.recompute = {.interval = choice.interval,
                   .last_layers = choice.last_layers.value_or(kAuto),
                   .from_start = decided(choice.from_start)};
  run.memory.query_tile = choice.query_tile;
  run.memory.token_tile = choice.token_tile;
  run.memory.loss_tile = choice.loss_tile;
  run.offload = {.layer_inputs = choice.host_inputs,
                 .optimizer = decided(choice.offload_optimizer),
                 .gradients = decided(choice.offload_gradients),
                 .weights = decided(choice.offload_weights)};
  return run;
}

StepPlanner::StepPlanner(const ModelConfig& model, const RunConfig& run, const MemoryWishes& wishes,
                         const MachineRates& rates)
    : model_(model), run_(run), wishes_(wishes), rates_(rates), layout_(model) {}

StepPlan StepPlanner::plan(const PlanInputs& inputs) const {
  const Tiles tiles = tiles_for(inputs);
  std::optional<StepPlan> best;
  std::optional<MemoryPlan> least;
  for (auto [seconds, choice] : fastest_first(inputs, tiles)) {
    if (best && seconds >= best->time.seconds) break;
    const MemoryPlan small = memory_of(inputs, smallest(inputs, choice, tiles));
    if (!least || share_needed(small) < share_needed(*least)) least = small;
    if (small.gpu_total > small.gpu_budget) continue;  // and so would all others of this placement
    for (const int64_t query : tiles.query)
      for (const int64_t token : tiles.token)
        for (const int64_t loss : tiles.loss) {
          choice.query_tile = query;
          choice.token_tile = token;
          choice.loss_tile = loss;
          consider(inputs, choice, best);
        }
  }
  if (best) return *best;
  return plan_of(inputs, least->choice);
}

StepPlan StepPlanner::plan_of(const PlanInputs& inputs, const MemoryChoice& choice) const {
  return {.inputs = inputs, .memory = memory_of(inputs, choice), .time = time_of(inputs, choice)};
}

int64_t StepPlanner::longest_sequence(PlanInputs inputs) const {
  const int64_t unit = kernels::kQueryTile * inputs.sequence_ranks;
  int64_t fitting = 0, failing = kMostTokens / unit;  // in units
  while (failing - fitting > 1) {
    const int64_t middle = fitting + (failing - fitting) / 2;
    inputs.tokens = middle * unit;
    (plan(inputs).memory.fits() ? fitting : failing) = middle;
  }
  return fitting * unit;
}

std::vector<std::string> StepPlanner::remedies(const PlanInputs& inputs) const {
  std::vector<std::string> found;
  if (const int64_t longest = longest_sequence(inputs); longest > 0)
    found.push_back("data.sequence_length of at most " + std::to_string(longest));
  const auto fits = [&](const RunConfig& run, const MemoryWishes& wishes) {
    return StepPlanner(model_, run, wishes, rates_).plan(inputs).memory.fits();
  };
  if (fits(run_, {})) found.push_back("auto for all of recompute, offload and the tiles of memory");
  RunConfig short_state = run_;
  short_state.optimizer.state_dtype = StateType::kBfloat16;
  if (fits(short_state, wishes_)) {
    found.push_back("optimizer.state_dtype: bfloat16");
  } else if (run_.precision == Precision::kBfloat16) {
    short_state.optimizer.master_weights = false;
    if (fits(short_state, wishes_))
      found.push_back("optimizer.state_dtype: bfloat16 with optimizer.master_weights: false");
  }
  if (const int64_t ranks = enough_ranks(inputs); ranks > 0)
    found.push_back(std::to_string(ranks) + " ranks a sequence with as much memory each");
  return found;
}

// The least number, doubling, of ranks that share a sequence; 0: more than a large cluster has.
int64_t StepPlanner::enough_ranks(PlanInputs inputs) const {
  constexpr int64_t kMostRanks = 1024;
  while (inputs.sequence_ranks <= kMostRanks / 2) {
    inputs.sequence_ranks *= 2;
    if (run_.parallel.exchange == ExchangeChoice::kAllToAll && model_.num_kv_heads % inputs.sequence_ranks != 0) break;
    if (plan(inputs).memory.fits()) return inputs.sequence_ranks;
  }
  return 0;
}

StepPlanner::Tiles StepPlanner::tiles_for(const PlanInputs& inputs) const {
  if (run_.train.deterministic)
    return {.query = {kUsualQueryTile}, .token = {kUsualTokenTile}, .loss = {kUsualLossTile}};
  const int64_t tokens = inputs.local_tokens();
  return {.query = tile_options(wishes_.query_tile, kQueryTiles, tokens),
          .token = tile_options(wishes_.token_tile, kTokenTiles, tokens),
          .loss = tile_options(wishes_.loss_tile, kLossTiles, tokens)};
}

// Where the state lies and how many inputs are kept: what moves least first, which stays where others are as fast.
std::vector<MemoryChoice> StepPlanner::placements(bool on_gpu) const {
  std::vector<MemoryChoice> choices;
  for (const MemoryChoice& segments : segments_options(wishes_, model_))
    for (const bool weights : offload_options(wishes_.offload_weights, on_gpu))
      for (const bool gradients : offload_options(wishes_.offload_gradients, on_gpu))
        for (const bool optimizer : offload_options(wishes_.offload_optimizer, on_gpu)) {
          MemoryChoice choice = segments;
          choice.offload_optimizer = optimizer;
          choice.offload_gradients = gradients;
          choice.offload_weights = weights;
          // Weights that are rounded from master weights on the GPU are kept nowhere.
          if (!weights || state_bytes(run_, choice).weights > 0) choices.push_back(choice);
        }
  return choices;
}

// Placements by what they would take at least, with the largest tiles and all inputs on the GPU.
std::vector<StepPlanner::TimedChoice> StepPlanner::fastest_first(const PlanInputs& inputs, const Tiles& tiles) const {
  std::vector<TimedChoice> timed;
  for (MemoryChoice choice : placements(inputs.on_gpu)) {
    choice.query_tile = tiles.query.front();
    choice.token_tile = tiles.token.front();
    choice.loss_tile = tiles.loss.front();
    timed.push_back({.seconds = time_of(inputs, choice).seconds, .choice = choice});
  }
  std::stable_sort(timed.begin(), timed.end(),
                   [](const TimedChoice& a, const TimedChoice& b) { return a.seconds < b.seconds; });
  return timed;
}

MemoryChoice StepPlanner::smallest(const PlanInputs& inputs, MemoryChoice placement, const Tiles& tiles) const {
  placement.query_tile = tiles.query.back();
  placement.token_tile = tiles.token.back();
  placement.loss_tile = tiles.loss.back();
  const int64_t most = most_host_inputs(model_, placement);
  placement.host_inputs = std::min(most, wishes_.host_inputs.value_or(inputs.on_gpu ? most : 0));
  return placement;
}

void StepPlanner::consider(const PlanInputs& inputs, const MemoryChoice& choice, std::optional<StepPlan>& best) const {
  // No choice of inputs is faster than all of them on the GPU.
  if (best && time_of(inputs, choice).seconds >= best->time.seconds) return;
  const std::optional<MemoryPlan> memory = fit_inputs(inputs, choice);
  if (!memory) return;
  const StepTime time = time_of(inputs, memory->choice);
  if (!best || time.seconds < best->time.seconds) best = {.inputs = inputs, .memory = *memory, .time = time};
}

// As few inputs in host memory as the GPU's allows.
std::optional<MemoryPlan> StepPlanner::fit_inputs(const PlanInputs& inputs, MemoryChoice choice) const {
  const int64_t limit = most_host_inputs(model_, choice);
  int64_t most = std::min(limit, wishes_.host_inputs.value_or(inputs.on_gpu ? limit : 0));
  int64_t fewest = wishes_.host_inputs ? most : 0;
  const auto with_inputs = [&](int64_t host_inputs) {
    choice.host_inputs = host_inputs;
    return memory_of(inputs, choice);
  };
  while (fewest < most) {
    const int64_t middle = fewest + (most - fewest) / 2;
    if (with_inputs(middle).gpu_total <= inputs.gpu_bytes)
      most = middle;
    else
      fewest = middle + 1;
  }
  const MemoryPlan plan = with_inputs(most);
  return plan.fits() ? std::optional(plan) : std::nullopt;
}

MemoryPlan StepPlanner::memory_of(const PlanInputs& inputs, const MemoryChoice& choice) const {
  return plan_memory(model_, layout_, run_, inputs, choice);
}

StepTime StepPlanner::time_of(const PlanInputs& inputs, const MemoryChoice& choice) const {
  return predict_step_time(model_, run_, inputs, choice, rates_);
}

}  // namespace hiptrain
