#include "trainer/commands/bench_train_command.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>
#include <random>

#include "trainer/checkpoint/initial_weights.h"
#include "trainer/commands/bench_report.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_reader.h"
#include "trainer/config/config_text.h"
#include "trainer/device/device.h"
#include "trainer/device/profiler.h"
#include "trainer/device/threads.h"
#include "trainer/engine/training_engine.h"
#include "trainer/formats/report_text.h"
#include "trainer/model/model_checks.h"
#include "trainer/model/model_config.h"
#include "trainer/model/model_flops.h"
#include "trainer/planner/plan_report.h"
#include "trainer/planner/run_plan.h"
#include "trainer/provenance/provenance.h"

namespace hiptrain {
namespace {

constexpr double kLearningRate = 1e-6;  // small: the weights stay what they are

// A passage of text repeats few words, so that neighbouring tokens pick the same blocks. If tokens were drawn from the
// whole vocabulary, they would share nothing, and lists would be several times as long as a trained model's.
constexpr int64_t kStretchTokens = 512;

// So many that lists are about as long as a trained model's: with the default selection a random model of 32:8 heads
// has lists of 2.5 blocks a word at 131,072 tokens and of 2.7 at 1,048,576.
int64_t stretch_vocabulary(int64_t sequence_tokens) {
  return std::llround(std::ceil(1 + 0.37 * mean_list_entries(AttentionConfig{}, {.tokens = sequence_tokens})));
}

// One document.
TokenBatch random_tokens(int64_t length, int64_t vocabulary, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<int32_t> words(stretch_vocabulary(length));
  TokenBatch batch{.tokens = {}, .targets = {}, .positions = {}, .document_starts = {0}, .num_targets = length};
  for (int64_t i = 0; i <= length; ++i) {
    if (i % kStretchTokens == 0)
      for (int32_t& word : words) word = static_cast<int32_t>(generator() % static_cast<uint64_t>(vocabulary));
    batch.tokens.push_back(words[generator() % words.size()]);
  }
  batch.targets.assign(batch.tokens.begin() + 1, batch.tokens.end());
  batch.tokens.pop_back();
  for (int64_t i = 0; i < length; ++i) batch.positions.push_back(i);
  return batch;
}

struct TimedStep {
  double seconds;
  ExposedSeconds exposed;
  std::vector<RangeTime> ranges;
};

// Medians over the timed steps.
struct Timings {
  double step_seconds;
  ExposedSeconds exposed;               // of the median step
  std::map<std::string, double> parts;  // adds up to the step
  std::vector<RangeTime> ranges;        // of the median step
};

Timings summarize(std::vector<TimedStep> steps) {
  const auto middle = steps.begin() + static_cast<int64_t>(steps.size() - 1) / 2;
  std::nth_element(steps.begin(), middle, steps.end(),
                   [](const TimedStep& a, const TimedStep& b) { return a.seconds < b.seconds; });
  std::map<std::string, double> parts = seconds_by_name(middle->ranges);
  parts["rest"] = parts["step"];
  parts.erase("step");
  return {.step_seconds = middle->seconds,
          .exposed = middle->exposed,
          .parts = std::move(parts),
          .ranges = std::move(middle->ranges)};
}

class TrainBench {
 public:
  TrainBench(const RunConfig& config, const ModelConfig& model, const ProcessGrid& grid, at::Device device)
      : grid_(grid), engine_(model, config, grid, device, EngineUse::kTraining) {
    load_random_on_device(engine_.parameters(), model, config.seed);
    for (int64_t i = 0; i < config.train.gradient_accumulation_steps; ++i)
      batches_.push_back(slice_batch(
          random_tokens(config.data.sequence_length, model.vocabulary_size, config.seed + static_cast<uint64_t>(i)),
          grid.sequence(), device));
  }

  // Ranks begin the step together: not all are ready at the same time. Updates of offloaded state are made beside the
  // next step, or, with_updates, awaited within this one.
  TimedStep step(bool with_updates) {
    grid_.world().barrier();
    Profile profile(engine_.parameters().device());
    {
      const ProfiledRange range("step");
      result_ = engine_.step(batches_, kLearningRate, updates_);
      if (with_updates) engine_.parameters().finish_updates();
    }
    std::vector<RangeTime> ranges = profile.finish();
    return {.seconds = ranges.front().seconds, .exposed = engine_.take_exposed_seconds(), .ranges = std::move(ranges)};
  }

  const StepResult& result() const { return result_; }
  const ShardedParameters& parameters() const { return engine_.parameters(); }
  SelectionStatistics take_statistics() { return engine_.transformer().take_statistics(); }

 private:
  const ProcessGrid& grid_;
  TrainingEngine engine_;
  std::vector<LocalBatch> batches_;
  StepResult result_{};
  int64_t updates_ = 0;
};

// (ranks) a number of each. Collective.
std::vector<double> of_all_ranks(double mine, Communicator& world, at::Device device) {
  const at::Tensor part = at::full({1}, mine, at::TensorOptions(at::kDouble).device(device));
  at::Tensor all = at::empty({world.size()}, part.options());
  world.all_gather(part, all);
  const at::Tensor on_host = all.cpu();
  return {on_host.const_data_ptr<double>(), on_host.const_data_ptr<double>() + on_host.numel()};
}

std::string range_text(const std::vector<double>& values, double unit, int digits) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return decimal(*least * unit, digits) + " to " + decimal(*most * unit, digits);
}

void print_parts(const Timings& timings) {
  std::vector<std::vector<std::string>> rows{{"part", "ms", "share"}};
  for (const auto& [name, seconds] : timings.parts)
    rows.push_back({name, decimal(1e3 * seconds, 1), decimal(100 * seconds / timings.step_seconds, 1) + "%"});
  rows.push_back({"step", decimal(1e3 * timings.step_seconds, 1), "100.0%"});
  print_table(rows);
  if (timings.exposed.waits.empty()) return;
  std::cout << "exposed communication, the waits for weights, gradients and attention's exchanges: "
            << decimal(1e3 * timings.exposed.communication, 1) << " ms, "
            << decimal(100 * timings.exposed.communication / timings.step_seconds, 1) << "% of the step\n";
}

struct Comparison {
  std::string name;
  double predicted, measured;
};

// Compares the plan for lists as long as those of the bench.
std::vector<Comparison> compare(const StepPlan& plan, double step_seconds, at::Device device) {
  constexpr double kGiB = 1 << 30;
  const auto gib = [](int64_t bytes) { return static_cast<double>(bytes) / kGiB; };
  std::vector<Comparison> rows{{"host memory, GiB", gib(plan.memory.host_peak), gib(peak_memory_bytes(at::kCPU))}};
  if (device.is_cpu()) return rows;
  rows.push_back({"GPU memory of tensors, GiB", gib(plan.memory.gpu_peak), gib(peak_memory_bytes(device))});
  rows.push_back({"step, s", plan.time.seconds, step_seconds});
  return rows;
}

void print_comparison(const std::vector<Comparison>& comparisons) {
  std::vector<std::vector<std::string>> rows{{"plan", "predicted", "measured", "off by"}};
  for (const Comparison& row : comparisons)
    rows.push_back({row.name, decimal(row.predicted, 3), decimal(row.measured, 3),
                    decimal(100 * (row.predicted / row.measured - 1), 1) + "%"});
  print_table(rows);
}

// By name: predicted and measured.
nlohmann::ordered_json json_of(const std::vector<Comparison>& comparisons) {
  nlohmann::ordered_json object;
  for (const Comparison& row : comparisons)
    object[row.name] = {{"predicted", row.predicted}, {"measured", row.measured}};
  return object;
}

}  // namespace

int run_bench_train(const BenchTrainCommand& command, MpiRuntime& mpi) {
  RunConfig config = read_run_config({}, command.overrides, RunPurpose::kAny);
  config.data.sequence_length = command.tokens;
  config.model.path = command.model_config.string();
  const ModelConfig model = read_model_config(config.model);
  require_model_fits(config, model, mpi.size());
  share_threads(mpi.local_size());
  const at::Device device = choose_device(config.device, mpi);
  const ProcessGrid grid = make_process_grid(mpi, device, config.parallel);
  PlanInputs plan_for = plan_inputs(config, grid, mpi, device);
  const MachineRates rates = command.rates.empty() ? h200_rates() : read_machine_rates(command.rates);
  const StepPlan first_plan = plan_run(config, model, plan_for, rates);
  if (mpi.rank() == 0)
    for (const std::string& line : run_plan_lines(first_plan, rates)) std::cout << line << std::endl;
  config = with_choice(std::move(config), first_plan.memory.choice);
  TrainBench bench(config, model, grid, device);
  for (int64_t i = 0; i < command.warm_up; ++i) bench.step(/*with_updates=*/false);
  bench.take_statistics();
  reset_peak_memory(device);
  std::vector<TimedStep> steps;
  // As many updates are timed as steps: the first step makes those of the warm-up, the last leaves its own.
  for (int64_t i = 1; i <= command.steps; ++i)
    steps.push_back(bench.step(/*with_updates=*/command.warm_up == 0 && i == command.steps));
  const Timings timings = summarize(std::move(steps));

  const SelectionStatistics selection = bench.take_statistics();
  const double entries =
      selection.tiles > 0 ? static_cast<double>(selection.entries) / static_cast<double>(selection.tiles) : 0;
  plan_for.list_entries = entries;
  const StepPlan plan =
      StepPlanner(model, config, memory_wishes(config), rates).plan_of(plan_for, first_plan.memory.choice);
  const std::vector<Comparison> comparisons = compare(plan, timings.step_seconds, device);
  const double tokens =
      static_cast<double>(command.tokens * config.train.gradient_accumulation_steps * grid.data().size());
  const double rate = tokens / timings.step_seconds, rank_rate = rate / static_cast<double>(grid.world().size());
  const double matmul_rate = measured_matmul_rate(device, bench.parameters().compute_type());
  const double flops_per_token = model_flops_per_token(model, mean_attended_keys(config, model, entries));
  const double mfu = rank_rate * flops_per_token / matmul_rate;
  const std::vector<double> rank_waits = of_all_ranks(timings.exposed.communication, grid.world(), device),
                            rank_entries = of_all_ranks(entries, grid.world(), device);
  if (mpi.rank() != 0) return kSuccess;

  std::cout << command.model_config.filename().string() << ", " << bench.parameters().layout().num_parameters()
            << " parameters, " << field_text("precision", config) << " on " << device << ", " << grid.world().size()
            << " ranks, " << command.tokens << " tokens; loss " << decimal(bench.result().loss, 4) << ", "
            << decimal(entries, 1) << " picked blocks a tile\n";
  print_parts(timings);
  // Ranks with shorter lists wait for the others' attention: what the others wait is communication.
  if (grid.world().size() > 1)
    std::cout << "the ranks wait " << range_text(rank_waits, 1e3, 1) << " ms and have "
              << range_text(rank_entries, 1, 1) << " picked blocks a tile\n";
  std::cout << decimal(rate, 0) << " tokens/s, MFU " << decimal(100 * mfu, 1) << "% of the measured "
            << decimal(1e-12 * matmul_rate, matmul_rate < 1e13 ? 2 : 0)
            << " TFLOP/s (6 a weight and 14 head_dim a query head and attended key: "
            << decimal(1e-9 * flops_per_token, 2) << " GFLOP a token), memory " << bytes_text(peak_memory_bytes(device))
            << std::endl;
  print_comparison(comparisons);
  if (!command.profile.empty())
    write_chrome_trace(command.profile, timings.ranges, json_of(current_provenance(device)));
  write_bench_report(command.json, device,
                     {{"model", command.model_config.filename().string()},
                      {"parameters", bench.parameters().layout().num_parameters()},
                      {"precision", field_text("precision", config)},
                      {"device", device.str()},
                      {"ranks", grid.world().size()},
                      {"tokens", command.tokens},
                      {"step_seconds", timings.step_seconds},
                      {"tokens_per_s", rate},
                      {"mfu", mfu},
                      {"matmul_flops", matmul_rate},
                      {"flops_per_token", flops_per_token},
                      {"mean_list_entries", entries},
                      {"memory_peak_bytes", peak_memory_bytes(device)},
                      {"exposed_host_copy_seconds", timings.exposed.host_copies},
                      {"exposed_communication_seconds", timings.exposed.communication},
                      {"wait_seconds", timings.exposed.waits},
                      {"rank_exposed_communication_seconds", rank_waits},
                      {"rank_list_entries", rank_entries},
                      {"part_seconds", timings.parts},
                      {"comparison", json_of(comparisons)},
                      {"plan", plan_json(plan)}});
  return kSuccess;
}

}  // namespace hiptrain
