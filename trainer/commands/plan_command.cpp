#include "trainer/commands/plan_command.h"

#include <algorithm>
#include <iostream>
#include <stdexcept>

#include "trainer/config/config_checks.h"
#include "trainer/config/config_reader.h"
#include "trainer/config/config_text.h"
#include "trainer/formats/report_text.h"
#include "trainer/model/model_checks.h"
#include "trainer/model/model_config.h"
#include "trainer/planner/plan_report.h"

namespace hiptrain {
namespace {

MachineRates rates_of(const PlanCommand& command) {
  MachineRates rates = command.rates.empty() ? h200_rates() : read_machine_rates(command.rates);
  if (command.link > 0) rates.link = command.link;
  if (command.node_link > 0) rates.node_link = command.node_link;
  const double needed = command.nodes > 1 ? rates.node_link : rates.link;
  if (command.gpus > 1 && needed == 0)
    throw std::invalid_argument("plan: " + command.rates.string() + " has no rate of the link between " +
                                (command.nodes > 1 ? "hosts; give --node-link" : "GPUs of a host; give --link") +
                                " BYTES/S");
  return rates;
}

// Values of the command line come first, then those of the config, then those of the machine of the rates. The ranks of
// a host share its memory; the rates are those of a host with one rank.
PlanInputs inputs_of(const PlanCommand& command, const RunConfig& config, const MachineRates& rates) {
  if (command.gpus % command.nodes != 0)
    throw std::invalid_argument("plan: --nodes " + std::to_string(command.nodes) + " does not divide --gpus " +
                                std::to_string(command.gpus));
  const int64_t sequence_ranks = config.parallel.sequence > 0 ? config.parallel.sequence : command.gpus;
  PlanInputs inputs{.tokens = command.tokens > 0 ? command.tokens : config.data.sequence_length,
                    .data_ranks = command.gpus / sequence_ranks,
                    .sequence_ranks = sequence_ranks,
                    .nodes = command.nodes,
                    .on_gpu = config.device != DeviceChoice::kCpu,
                    .gpu_bytes = config.memory.gpu != kAuto ? config.memory.gpu : rates.gpu_memory,
                    .host_bytes = config.memory.host != kAuto ? config.memory.host : rates.host_memory,
                    .list_entries = command.list_entries};
  if (command.gpu_memory > 0) inputs.gpu_bytes = command.gpu_memory;
  if (command.host_memory > 0) inputs.host_bytes = command.host_memory * command.nodes / command.gpus;
  return inputs;
}

void print_plan(const StepPlan& plan, const RunConfig& config, const MachineRates& rates) {
  std::cout << plan.inputs.tokens << " tokens a sequence, " << plan.inputs.ranks()
            << " ranks = " << plan.inputs.data_ranks << " data x " << plan.inputs.sequence_ranks << " sequence on "
            << plan.inputs.nodes << (plan.inputs.nodes == 1 ? " host, " : " hosts, ") << field_text("precision", config)
            << "; lists of " << decimal(mean_list_entries(config.attention, plan.inputs), 1)
            << " blocks a tile; a rank:\n";
  for (const std::string& line : plan_lines(plan, rates.device)) std::cout << line << "\n";
  std::cout << "\n" << memory_table(plan.memory) << "\n" << time_table(plan.time) << std::flush;
}

}  // namespace

int run_plan(const PlanCommand& command, MpiRuntime& mpi) {
  if (mpi.rank() != 0) return kSuccess;
  RunConfig config = read_run_config(command.configs, command.overrides, RunPurpose::kAny);
  if (!command.model_config.empty()) config.model.path = command.model_config.string();
  if (config.model.path.empty())
    throw std::invalid_argument("plan: no model; set model.path, or give --model-config a config.json");
  const ModelConfig model = read_model_config(config.model);
  require_model_fits(config, model, command.gpus);
  const MachineRates rates = rates_of(command);
  PlanInputs inputs = inputs_of(command, config, rates);
  const StepPlanner planner(model, config, memory_wishes(config), rates);
  if (command.max_tokens) {
    inputs.tokens = planner.longest_sequence(inputs);
    if (inputs.tokens > 0)
      std::cout << "the longest sequence that fits: " << inputs.tokens << " tokens\n";
    else
      inputs.tokens = config.data.sequence_length;  // shows what does not fit
  }
  config.data.sequence_length = inputs.tokens;
  if (inputs.on_gpu) require_gpu_fits(config);
  const StepPlan plan = planner.plan(inputs);
  write_report(command.json, plan_json(plan));
  require_fits(planner, plan);
  print_plan(plan, config, rates);
  return kSuccess;
}

}  // namespace hiptrain
