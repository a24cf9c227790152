#include "trainer/commands/evaluate_command.h"

#include <ATen/ops/full.h>

#include <cmath>
#include <functional>
#include <iomanip>
#include <iostream>
#include <limits>
#include <set>

#include "distributed/sequence_rows.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_reader.h"
#include "trainer/config/resolve_memory.h"
#include "trainer/device/device.h"
#include "trainer/device/threads.h"
#include "trainer/engine/training_engine.h"
#include "trainer/formats/report_text.h"
#include "trainer/formats/safetensors_writer.h"
#include "trainer/model/model_checks.h"
#include "trainer/model/model_config.h"
#include "trainer/training/trainer.h"

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

void print_facts(const char* what, const std::vector<FactBucket>& buckets) {
  for (const FactBucket& bucket : buckets)
    std::cout << "  " << what << std::setw(9) << bucket.begin << " to " << std::setw(9) << bucket.end << "  found "
              << bucket.retrieved << " of " << bucket.facts << "\n";
}

void print_retrieval(const RetrievalReport& report) {
  std::cout << "retrieval " << std::setprecision(4)
            << static_cast<double>(report.retrieved) / static_cast<double>(std::max<int64_t>(report.facts, 1)) << " ("
            << report.retrieved << " of " << report.facts << " facts)\n";
  print_facts("planted at ", report.by_depth);
  print_facts("distance   ", report.by_distance);
}

void print_recall(const RecallReport& recall, bool by_layer) {
  if (recall.empty()) return;
  std::cout << "attention beyond sinks and window that picked blocks cover: " << summary_text(recall)
            << "; missed of a row " << decimal(recall.missed(), 4) << "\n";
  if (by_layer) std::cout << by_layer_text(recall);
  std::set<int64_t> named;
  const std::string warning = low_recall_warning(recall, named);
  if (!warning.empty()) std::cout << "warning: " << warning << "\n";
}

// Layer and query head.
struct WatchedHead {
  int64_t layer, query_head;
};

WatchedHead watched_head(const EvaluateCommand& command, const RecallReport& recall, const ModelConfig& model) {
  if (command.head.empty()) {
    const LayerRecall& worst = recall.worst();
    return {.layer = worst.layer, .query_head = worst.kv_heads[worst.worst_kv_head()].query_head};
  }
  if (command.head[0] >= model.num_layers || command.head[1] >= model.num_query_heads)
    throw std::invalid_argument("--head: the model has " + std::to_string(model.num_layers) + " layers and " +
                                std::to_string(model.num_query_heads) + " query heads, counted from 0");
  return {.layer = command.head[0], .query_head = command.head[1]};
}

// The first sequence once more, for the attention of one head in it.
TileAttention watch_head(Transformer& transformer, const ProcessGrid& grid, const LocalBatch& first,
                         const WatchedHead& head) {
  if (grid.data().rank() == 0) transformer.recall().watch(head.layer, head.query_head);
  transformer.measure_recall(true);
  transformer.forward(first);
  transformer.measure_recall(false);
  return transformer.recall().take_watched(grid.control());
}

// (layers, columns) float32 of what `number` gives for a layer and column; NaN: layers that search nothing.
template <typename Number>
at::Tensor by_layer(const RecallReport& recall, int64_t layers, int64_t columns, const Number& number) {
  at::Tensor table = at::full({layers, columns}, std::numeric_limits<double>::quiet_NaN(), at::kFloat);
  auto cell = table.accessor<float, 2>();
  for (const LayerRecall& layer : recall.layers)
    for (int64_t column = 0; column < columns; ++column)
      cell[layer.layer][column] = static_cast<float>(number(layer, column));
  return table;
}

// Writes the file that launch/plot_selection.py draws.
void write_selection(const std::filesystem::path& path, const RecallReport& recall, const TileAttention& attention,
                     const ModelConfig& model, int64_t sequence_length) {
  std::map<std::string, at::Tensor> tensors{
      {"recall", by_layer(recall, model.num_layers, model.num_kv_heads,
                          [](const LayerRecall& layer, int64_t head) { return layer.kv_heads[head].recall; })},
      {"missed", by_layer(recall, model.num_layers, model.num_kv_heads,
                          [](const LayerRecall& layer, int64_t head) { return layer.kv_heads[head].missed; })},
      {"list_lengths", by_layer(recall, model.num_layers, kListPositions,
                                [](const LayerRecall& layer, int64_t i) { return layer.list_lengths[i].mean(); })}};
  std::map<std::string, std::string> numbers{{"sequence_length", std::to_string(sequence_length)}};
  if (attention.mass.defined()) {
    tensors["attention"] = attention.mass;
    tensors["first_rows"] = attention.first_rows;
    numbers["layer"] = std::to_string(attention.layer);
    numbers["query_head"] = std::to_string(attention.query_head);
    numbers["begin"] = std::to_string(attention.begin);
    numbers["block_size"] = std::to_string(attention.block_size);
    numbers["first_block"] = std::to_string(attention.first_block);
  }
  write_safetensors(path, tensors, numbers);
}

// first_batch: this rank's part of the first sequence. Collective.
void report_selection(const EvaluateCommand& command, Transformer& transformer, const ProcessGrid& grid,
                      const ModelConfig& model, const std::function<LocalBatch()>& first_batch) {
  const bool prints = grid.world().rank() == 0;
  const SelectionStatistics selection = transformer.take_statistics();
  const RecallReport recall = transformer.recall().take(grid.control());
  if (prints) print_selection(selection);
  if (prints) print_recall(recall, command.by_layer);
  if (command.selection.empty()) return;
  if (recall.empty())
    throw std::invalid_argument("--selection: no recall was measured: nothing is picked, or metrics.recall_every is 0");
  const LocalBatch first = first_batch();
  const TileAttention attention = watch_head(transformer, grid, first, watched_head(command, recall, model));
  if (prints) write_selection(command.selection, recall, attention, model, first.shard.num_tokens());
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
    config.model.init = WeightSource::kPretrained;
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
  TrainingEngine engine(model, config, grid, device, EngineUse::kEvaluation);
  engine.load_initial_weights();
  Transformer& transformer = engine.transformer();
  const bool prints = mpi.rank() == 0, measures = config.metrics.recall_every > 0;
  if (retrieval) {
    const RetrievalReport report = engine.evaluate(file, command.sequences, measures);
    if (prints) print_loss(report.loss);
    if (prints) print_retrieval(report);
    report_selection(command, transformer, grid, model,
                     [&] { return retrieval_batch(file, 0, grid.sequence(), device); });
  } else {
    std::vector<TokenFile> files;
    files.emplace_back(command.data);
    const BatchStream stream(std::move(files), stream_options(config, model, /*shuffle=*/false));
    if (!command.logits.empty()) write_logits(transformer, grid, stream, model.vocabulary_size, command.logits);
    const LossReport report = engine.evaluate(stream, command.sequences, measures);
    if (prints) print_loss(report);
    report_selection(command, transformer, grid, model, [&] { return read_batch(stream, 0, grid.sequence(), device); });
  }
  return 0;
}

}  // namespace hiptrain
