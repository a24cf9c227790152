#include "trainer/planner/plan_report.h"

#include <algorithm>
#include <stdexcept>

#include "trainer/formats/report_text.h"

namespace hiptrain {
namespace {

std::string gib(int64_t bytes) { return decimal(static_cast<double>(bytes) / (1 << 30), 2); }

std::string offloads_text(const MemoryChoice& choice) {
  std::string text;
  const auto add = [&](bool offloaded, const char* name) {
    if (offloaded) text += (text.empty() ? "" : ", ") + std::string(name);
  };
  add(choice.offload_optimizer, "optimizer");
  add(choice.offload_gradients, "gradients");
  add(choice.offload_weights, "weights");
  return text.empty() ? "nothing" : text;
}

std::string inputs_text(const MemoryPlan& plan) {
  const MemoryChoice& choice = plan.choice;
  std::string which = choice.interval == 1
                          ? "every layer's input kept"
                          : "inputs kept of segments of " + std::to_string(choice.interval) + " layers" +
                                (choice.from_start ? ", those between made one at a time" : "");
  if (choice.last_layers) which += " and of each of the last " + std::to_string(*choice.last_layers);
  return which + ", " + std::to_string(plan.device_inputs) + " on the device and " +
         std::to_string(choice.host_inputs) + " in host memory";
}

std::string tiles_text(const MemoryChoice& choice) {
  return "tiles of " + std::to_string(choice.query_tile) + " (queries), " + std::to_string(choice.token_tile) +
         " (MLP) and " + std::to_string(choice.loss_tile) + " (loss) tokens";
}

std::string advice(const std::vector<std::string>& remedies) {
  if (remedies.empty()) return "What would fit: a smaller model, or more memory\n";
  std::string text = "What would fit, each by itself:\n";
  for (const std::string& remedy : remedies) text += "  " + remedy + "\n";
  return text;
}

}  // namespace

std::string memory_table(const MemoryPlan& plan) {
  std::vector<std::vector<std::string>> rows{{"memory, GiB", "GPU", "host"}};
  for (const PlannedItem& item : plan.items) rows.push_back({item.name, gib(item.gpu_bytes), gib(item.host_bytes)});
  rows.push_back({"in all", gib(plan.gpu_total), gib(plan.host_total)});
  rows.push_back({"there is", gib(plan.gpu_budget), gib(plan.host_budget)});
  return table_text(rows);
}

std::string time_table(const StepTime& time) {
  std::vector<std::vector<std::string>> rows{{"time", "PFLOP", "s", "share"}};
  for (const PartTime& part : time.parts)
    rows.push_back({part.name, part.flops > 0 ? decimal(1e-15 * part.flops, 3) : "", decimal(part.seconds, 3),
                    decimal(100 * part.seconds / time.seconds, 1) + "%"});
  rows.push_back({"step", "", decimal(time.seconds, 3), "100.0%"});
  if (time.traffic.empty()) return table_text(rows);
  std::vector<std::vector<std::string>> traffic{{"traffic", "GB", "s of the link", "of the step"}};
  for (const Traffic& entry : time.traffic)
    traffic.push_back({entry.name, decimal(1e-9 * entry.bytes, 1), decimal(entry.seconds, 3),
                       decimal(100 * entry.seconds / time.seconds, 1) + "%"});
  return table_text(rows) + "\n" + table_text(traffic);
}

std::vector<std::string> plan_lines(const StepPlan& plan, const std::string& rates_of) {
  const MemoryPlan& memory = plan.memory;
  std::string use = "plan: ";
  if (plan.inputs.on_gpu)
    use += "GPU " + bytes_text(memory.gpu_total) + " of " + bytes_text(memory.gpu_budget) +
           " (most in: " + memory.peak_phase + "), ";
  use += "host " + bytes_text(memory.host_total) + " of " + bytes_text(memory.host_budget);
  if (!rates_of.empty())
    use += "; a step of " + decimal(plan.time.seconds, 2) + " s, " + decimal(plan.time.tokens_per_second(), 0) +
           " tokens/s, by the rates of " + rates_of;
  return {"plan: " + inputs_text(memory) + "; " + tiles_text(memory.choice) +
              "; offloaded: " + offloads_text(memory.choice),
          use};
}

std::string refusal_text(const StepPlan& plan, const std::vector<std::string>& remedies) {
  const MemoryPlan& memory = plan.memory;
  const bool gpu = memory.gpu_total > memory.gpu_budget;
  return "memory: " + std::to_string(plan.inputs.tokens) + " tokens need " +
         bytes_text(gpu ? memory.gpu_total : memory.host_total) + " of " + (gpu ? "GPU" : "host") +
         " memory a rank, and there are " + bytes_text(gpu ? memory.gpu_budget : memory.host_budget) +
         ", even with as little as the settings allow: " + inputs_text(memory) + "; " + tiles_text(memory.choice) +
         "; offloaded: " + offloads_text(memory.choice) + "\n" + memory_table(memory) + advice(remedies);
}

void require_fits(const StepPlanner& planner, const StepPlan& plan) {
  if (plan.memory.fits()) return;
  throw std::invalid_argument(refusal_text(plan, planner.remedies(plan.inputs)));
}

nlohmann::ordered_json plan_json(const StepPlan& plan) {
  const MemoryPlan& memory = plan.memory;
  const MemoryChoice& choice = memory.choice;
  nlohmann::ordered_json json{{"tokens", plan.inputs.tokens},
                              {"data_ranks", plan.inputs.data_ranks},
                              {"sequence_ranks", plan.inputs.sequence_ranks},
                              {"fits", memory.fits()},
                              {"recompute_interval", choice.interval},
                              {"recompute_last_layers", plan.memory.last_layers},
                              {"recompute_from_start", choice.from_start},
                              {"device_inputs", memory.device_inputs},
                              {"host_inputs", choice.host_inputs},
                              {"query_tile", choice.query_tile},
                              {"token_tile", choice.token_tile},
                              {"loss_tile", choice.loss_tile},
                              {"offload_optimizer", choice.offload_optimizer},
                              {"offload_gradients", choice.offload_gradients},
                              {"offload_weights", choice.offload_weights},
                              {"peak_phase", memory.peak_phase},
                              {"gpu_peak_bytes", memory.gpu_peak},
                              {"gpu_bytes", memory.gpu_total},
                              {"gpu_budget_bytes", memory.gpu_budget},
                              {"host_peak_bytes", memory.host_peak},
                              {"host_bytes", memory.host_total},
                              {"host_budget_bytes", memory.host_budget},
                              {"step_seconds", plan.time.seconds},
                              {"tokens_per_s", plan.time.tokens_per_second()}};
  for (const PlannedItem& item : memory.items)
    json["items"].push_back({{"name", item.name}, {"gpu_bytes", item.gpu_bytes}, {"host_bytes", item.host_bytes}});
  for (const PartTime& part : plan.time.parts)
    json["parts"].push_back({{"name", part.name}, {"flops", part.flops}, {"seconds", part.seconds}});
  for (const Traffic& entry : plan.time.traffic)
    json["traffic"].push_back({{"name", entry.name}, {"bytes", entry.bytes}, {"seconds", entry.seconds}});
  return json;
}

}  // namespace hiptrain
