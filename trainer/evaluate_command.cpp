// hiptrain evaluate: loss, perplexity, loss by position and retrieval of a model; logits for short inputs.
#include <ATen/ops/cat.h>

#include <cmath>
#include <iomanip>
#include <iostream>
#include <memory>

#include "distributed/sequence_rows.h"
#include "trainer/commands.h"
#include "trainer/config_checks.h"
#include "trainer/config_reader.h"
#include "trainer/device.h"
#include "trainer/evaluation.h"
#include "trainer/initial_weights.h"
#include "trainer/resolve_memory.h"
#include "trainer/safetensors.h"
#include "trainer/threads.h"
#include "trainer/trainer.h"

namespace hiptrain {
namespace {

constexpr int64_t kMaxLogits = int64_t{1} << 30;  // elements of --logits

void print_loss(const LossReport& report) {
  std::cout << "loss " << std::fixed << std::setprecision(5) << report.loss() << "  perplexity " << std::setprecision(3)
            << std::exp(report.loss()) << "  targets " << report.num_targets << "\n";
  for (const PositionBucket& bucket : report.buckets)
    std::cout << "  position " << std::setw(9) << bucket.begin << " to " << std::setw(9) << bucket.end << "  loss "
              << std::setprecision(5) << bucket.loss_sum / static_cast<double>(bucket.num_targets) << "  targets "
              << bucket.num_targets << "\n";
}

void print_selection(const SelectionStatistics& selection) {
  if (selection.tiles == 0) return;
  std::cout << "picked blocks a tile: " << std::setprecision(1)
            << static_cast<double>(selection.entries) / static_cast<double>(selection.tiles) << " mean, "
            << selection.max_entries << " most; NaN scores " << selection.nan_scores << ", dropped "
            << selection.dropped_entries << " (this rank)\n";
}

// Logits of the stream's first sequence, (tokens, vocabulary) float32, cut to the tokens of its documents.
void write_logits(Transformer& transformer, const ProcessGrid& grid, const BatchStream& stream, int64_t vocabulary,
                  const std::filesystem::path& path) {
  const int64_t tokens = stream.sequence_length();
  if (tokens * vocabulary > kMaxLogits)
    throw std::invalid_argument("--logits: " + std::to_string(tokens) + " tokens x vocabulary " +
                                std::to_string(vocabulary) + " is more than " + std::to_string(kMaxLogits) +
                                " numbers; set a smaller data.sequence_length");
  const LocalBatch local = read_batch(stream, 0, grid.sequence(), transformer.device());
  const at::Tensor logits = transformer.logits(local);
  const at::Tensor all = gather_sequence(logits.unsqueeze(0), local.shard, grid.sequence()).squeeze(0);
  if (grid.world().rank() == 0) write_safetensors(path, {{"logits", all.to(at::kCPU, at::kFloat)}});
}

}  // namespace

int run_evaluate(const EvaluateCommand& command, MpiRuntime& mpi) {
  RunConfig config = read_run_config(command.configs, command.overrides, RunPurpose::kAny);
  if (!command.model.empty()) {
    config.model.path = command.model.string();
    config.model.init = "pretrained";
  }
  if (config.model.path.empty()) throw std::invalid_argument("evaluate: no model; give --model DIR or model.path");
  const bool retrieval = command.data.extension() == ".safetensors";
  RetrievalFile file;
  if (retrieval) {
    file = read_retrieval_file(command.data);
    config.data.sequence_length = file.tokens.size(1) - 1;
  }
  const ModelConfig model = read_model_config(config.model);
  require_model_fits(config, model, mpi.size());
  share_threads(mpi.local_size());
  const at::Device device = choose_device(config.device, mpi);
  const ProcessGrid grid = make_process_grid(mpi, device, config.parallel);
  config = resolve_memory(std::move(config));
  ShardedParameters parameters(ParameterLayout(model), grid.world(), storage_of(config, /*with_training=*/false),
                               device);
  if (config.model.init == "random")
    load_random(parameters, model, config.seed);
  else
    load_pretrained(parameters, model, config.model.path);
  Transformer transformer(model, config, parameters, grid);
  const bool prints = mpi.rank() == 0;
  if (retrieval) {
    const RetrievalReport report = evaluate_retrieval(transformer, grid, file, command.sequences);
    if (!prints) return 0;
    print_loss(report.loss);
    std::cout << "retrieval " << std::setprecision(4)
              << static_cast<double>(report.retrieved) / static_cast<double>(std::max<int64_t>(report.facts, 1)) << " ("
              << report.retrieved << " of " << report.facts << " facts)\n";
  } else {
    std::vector<TokenFile> files;
    files.emplace_back(command.data);
    const BatchStream stream(std::move(files), stream_options(config, model, /*shuffle=*/false));
    if (!command.logits.empty()) write_logits(transformer, grid, stream, model.vocabulary_size, command.logits);
    const LossReport report = evaluate_stream(transformer, grid, stream, command.sequences);
    if (!prints) return 0;
    print_loss(report);
  }
  print_selection(transformer.take_statistics());
  return 0;
}

}  // namespace hiptrain
