#include "trainer/step_time.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention_geometry.h"
#include "trainer/profiler.h"

namespace hiptrain {
namespace {

double real(int64_t value) { return static_cast<double>(value); }
double ceil_div(double value, double divisor) { return std::ceil(value / divisor); }

// All but the first of each segment; none of the last.
double layers_run_again(const ModelConfig& model, const MemoryChoice& choice) {
  const int64_t segments = ActivationStore::num_segments(store_plan(model, choice));
  return real(model.num_layers - std::min(choice.interval, model.num_layers) - (segments - 1));
}

// Of one rank; "a layer" is of one sequence.
class StepTimeModel {
 public:
  StepTimeModel(const ModelConfig& model, const RunConfig& run, const PlanInputs& inputs, const MemoryChoice& choice,
                const MachineRates& rates)
      : model_(model),
        run_(run),
        inputs_(inputs),
        choice_(choice),
        rates_(rates),
        link_(inputs.nodes > 1 ? rates.node_link : rates.link),
        layers_(real(model.num_layers)),
        again_(layers_run_again(model, choice)),
        tokens_(real(inputs.tokens) / real(inputs.sequence_ranks)),
        hidden_(real(model.hidden_size)),
        query_(real(model.num_query_heads) * model.head_dim),
        key_(real(model.num_kv_heads) * model.head_dim),
        inner_(real(model.intermediate_size)),
        element_(run.precision == "bfloat16" ? 2 : 4) {
    const double layer = hidden_ * (2 * query_ + 2 * key_ + 3 * inner_);
    parameters_ = layers_ * layer + hidden_ * real(model.vocabulary_size) * (model.tied_embeddings ? 1 : 2);
  }

  StepTime predict() {
    const double sequences = real(run_.train.gradient_accumulation_steps);
    StepTime step;
    step.tokens = real(inputs_.tokens * inputs_.data_ranks) * sequences;
    step.parts = {projections(), pointwise(), search(), attention_forward(), attention_backward(), loss()};
    for (PartTime& part : step.parts) {
      part.flops *= sequences;
      part.seconds *= sequences;
      step.seconds += part.seconds;
    }
    step.parts.push_back(optimizer());
    add_host_copies(step, sequences);
    if (inputs_.ranks() > 1) add_exchange(step, sequences);
    step.seconds = 0;
    for (const PartTime& part : step.parts) step.seconds += part.seconds;
    return step;
  }

 private:
  double both_passes() const { return layers_ + again_; }

  // 2 FLOP a weight and token; token tiles read and write every float32 gradient once.
  PartTime projections() const {
    const double queries = query_ * hidden_, keys = 2 * key_ * hidden_, mlp = 3 * inner_ * hidden_;
    const bool keeps_queries = inputs_.local_tokens() <= choice_.query_tile;
    const double index_queries = keeps_queries ? 0 : queries * layers_;
    const double forward = both_passes() * (keys + queries + queries + mlp) + index_queries;
    const double head_norms = model_.query_key_norm ? queries + keys / 2 : 0;
    const double again = keys + queries + queries + mlp * 2 / 3 + head_norms;  // inside backward
    const double backward = layers_ * (again + 2 * (keys + 2 * queries + mlp));
    const double flops = 2 * tokens_ * (forward + backward);
    const double gradients = layers_ * (2 * queries + keys + mlp) * 8 * ceil_div(tokens_, real(choice_.token_tile));
    return {part::kProjections, flops, flops / rates_.matmul + gradients / rates_.copy};
  }

  // Elements read and written a token (transformer_layer.cpp), the copies between products included.
  PartTime pointwise() const {
    const double forward = 4 * hidden_ + 6 * key_ + 5 * query_ + 3 * inner_;
    const double backward = 25 * hidden_ + 24 * key_ + 8 * query_ + 8 * inner_;
    const double bytes = element_ * tokens_ * (both_passes() * forward + layers_ * backward);
    return {part::kPointwise, 0, bytes / rates_.pointwise};
  }

  PartTime search() const {
    PartTime part{part::kSearch, 0, 0};
    for (int64_t layer = 0; layer < model_.num_layers; ++layer) add_search(run_.attention_of(layer), part);
    return part;
  }

  // Dealt out evenly over ranks.
  void add_search(const AttentionConfig& attention, PartTime& part) const {
    if (attention.type != "hip" || attention.picks == 0) return;
    const double whole = real(inputs_.tokens), heads = real(model_.num_kv_heads) / real(inputs_.sequence_ranks);
    const ScanWork scan = scan_work(attention, model_.head_dim, inputs_.tokens);
    part.flops += heads * scan.flops;
    part.seconds += heads * (scan.flops / rates_.scan.at(scan.tokens) + (whole - scan.tokens) / rates_.tree.at(whole) +
                             whole / rates_.lists);
  }

  PartTime attention_forward() const {
    const RateCurve& rate = rates_.attention_of(model_.head_dim).forward;
    return attention(part::kAttentionForward, 4, kForwardTileKeys, rate, again_ / layers_ + 2);
  }
  PartTime attention_backward() const {
    const RateCurve& rate = rates_.attention_of(model_.head_dim).backward;
    return attention(part::kAttentionBackward, 10, kBackwardTileKeys, rate, 1);
  }

  PartTime attention(const char* name, double flops_a_pair, double tile_keys, const RateCurve& rate,
                     double passes) const {
    // Kernels take query heads by twos: of an odd group one is computed twice.
    const double group = model_.group_size(), executed = std::ceil(group / 2) * 2 / group;
    PartTime part{name, 0, 0};
    for (int64_t layer = 0; layer < model_.num_layers; ++layer) {
      const AttentionConfig attention = run_.attention_of(layer);
      const double keys = executed_keys(attention, mean_list_entries(attention, inputs_), inputs_.tokens);
      const double flops = passes * flops_a_pair * query_ * executed * tokens_;
      part.flops += flops * keys;
      part.seconds += flops * (keys + tile_keys) / rate.at(real(inputs_.tokens));
    }
    return part;
  }

  PartTime loss() const {
    const double logits = tokens_ * real(model_.vocabulary_size), weights = hidden_ * real(model_.vocabulary_size);
    const double flops = 6 * logits * hidden_;
    const double gradients = weights * 8 * ceil_div(tokens_, real(choice_.loss_tile));
    const double bytes = 2 * logits * element_;
    return {part::kLoss, flops, flops / rates_.matmul + gradients / rates_.copy + bytes / rates_.cross_entropy};
  }

  double updated_bytes() const {
    const StateBytes state = state_bytes(run_, choice_);
    return real((state.master > 0 ? state.master : state.weights) + state.moments);
  }

  // AdamW reads and writes weight and moments and reads the gradient; norm and zeroing of gradients.
  PartTime optimizer() const {
    const double mine = parameters_ / real(inputs_.ranks());
    const double bytes = mine * (2 * updated_bytes() + 4 + 4 + 4);
    return {part::kOptimizer, 0, bytes / rates_.adamw};
  }

  // Copies run beside the computation, the optimizer's beside nothing: it begins when the gradient's norm is known.
  void add_host_copies(StepTime& step, double sequences) const {
    const double inputs = real(choice_.host_inputs);
    const double inputs_bytes = inputs * tokens_ * hidden_ * element_ * sequences;
    const double mine = parameters_ / real(inputs_.ranks());
    const double weights = choice_.offload_weights ? mine * element_ * (2 + again_ / layers_) * sequences : 0;
    const double gradients = choice_.offload_gradients ? mine * 4 : 0;
    const double states = choice_.offload_optimizer ? mine * updated_bytes() : 0;
    const double beside_out = inputs_bytes + gradients, beside_in = inputs_bytes + weights;
    const double out = (beside_out + states) / rates_.to_host, in = (beside_in + gradients + states) / rates_.from_host;
    if (out + in == 0) return;
    step.traffic.push_back({"to host", beside_out + states, out});
    step.traffic.push_back({"from host", beside_in + gradients + states, in});
    // Inputs leave in the forward pass, a third of the step, and come back in the other two.
    const double late = std::max(
        {0.0, beside_out / rates_.to_host - step.seconds / 3, beside_in / rates_.from_host - step.seconds * 2 / 3});
    step.parts.push_back({"host copies, waited for", 0,
                          late + std::max(states / rates_.to_host, (states + gradients) / rates_.from_host)});
  }

  // Keys and values of every pass and their gradients; weights of every pass, gathered ahead; gradients.
  void add_exchange(StepTime& step, double sequences) const {
    const double others = real(inputs_.sequence_ranks - 1) / real(inputs_.sequence_ranks);
    const double index = 2 * real(model_.num_kv_heads * run_.attention.index_dims) * element_;
    const double passes = (both_passes() + layers_) * 2 * key_ * element_ + layers_ * (2 * key_ * 4 + index);
    const double keys = others * real(inputs_.tokens) * passes * sequences;
    const double all_others = real(inputs_.ranks() - 1) / real(inputs_.ranks());
    const double weights = all_others * parameters_ * (element_ * (2 + again_ / layers_) + 4) * sequences;
    step.traffic.push_back({"keys and values", keys, keys / link_});
    step.traffic.push_back({"weights and gradients", weights, weights / link_});
    const double late = std::max(0.0, weights / link_ - step.seconds);
    step.parts.push_back({"exchange, waited for", 0, keys / link_ + late});
  }

  const ModelConfig& model_;
  const RunConfig& run_;
  const PlanInputs& inputs_;
  const MemoryChoice& choice_;
  const MachineRates& rates_;
  double link_;
  double layers_, again_;  // again: those that run forward once more before they are differentiated
  double tokens_, hidden_, query_, key_, inner_, element_;
  double parameters_;  // but for norms and biases
};

}  // namespace

double executed_keys(const AttentionConfig& attention, double list_entries, int64_t tokens) {
  const double most = real(tokens) / 2 + real(kernels::kQueryTile);
  if (attention.type == "dense") return most;
  const double listed = list_entries * real(attention.block_size);
  return std::min(most, real(attention.sink_tokens + attention.window + kernels::kQueryTile) + listed);
}

// The first tiles scan, those with more than scan_tokens to search take the tree.
ScanWork scan_work(const AttentionConfig& attention, int64_t head_dim, int64_t tokens) {
  const double local = real(attention.sink_tokens + attention.window);
  const double scanning = std::min(real(tokens), real(attention.scan_tokens) + local);
  const double searched = std::max(0.0, scanning - local), dims = real(std::min(attention.index_dims, head_dim));
  return {.tokens = scanning, .flops = searched * searched * dims};
}

StepTime predict_step_time(const ModelConfig& model, const RunConfig& run, const PlanInputs& inputs,
                           const MemoryChoice& choice, const MachineRates& rates) {
  return StepTimeModel(model, run, inputs, choice, rates).predict();
}

}  // namespace hiptrain
