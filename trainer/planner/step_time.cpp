#include "trainer/planner/step_time.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention_geometry.h"
#include "trainer/attention/attention_exchange.h"
#include "trainer/attention/hip_attention.h"
#include "trainer/device/profiler.h"

namespace hiptrain {
namespace {

double real(int64_t value) { return static_cast<double>(value); }
double ceil_div(double value, double divisor) { return std::ceil(value / divisor); }

// The time of one rank's step; "a layer" is a layer of one sequence.
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
        again_(real(ActivationStore::layers_again(store_plan(model, choice)))),
        tokens_(real(inputs.tokens) / real(inputs.sequence_ranks)),
        hidden_(real(model.hidden_size)),
        query_(real(model.num_query_heads) * model.head_dim),
        key_(real(model.num_kv_heads) * model.head_dim),
        inner_(real(model.intermediate_size)),
        element_(run.precision == Precision::kBfloat16 ? 2 : 4) {
    const double layer = hidden_ * (2 * query_ + 2 * key_ + 3 * inner_);
    const double table = hidden_ * real(model.vocabulary_size);
    parameters_ = layers_ * layer + table * (model.tied_embeddings ? 1 : 2);
    first_units_ = (table + layer) / parameters_;
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
    const double forward = both_passes() * (keys + queries + queries + mlp) + queries * layers_making_queries_twice();
    const double head_norms = model_.query_key_norm ? queries + keys / 2 : 0;
    const double again = keys + queries + queries + mlp * 2 / 3 + head_norms;  // inside backward
    const double backward = layers_ * (again + 2 * (keys + 2 * queries + mlp));
    const double flops = 2 * tokens_ * (forward + backward);
    const double gradients = layers_ * (2 * queries + keys + mlp) * 8 * ceil_div(tokens_, real(choice_.token_tile));
    return {part::kProjections, flops, flops / rates_.matmul + gradients / rates_.copy};
  }

  // Layers and parts of layers whose queries are not kept from where their index is made.
  double layers_making_queries_twice() const {
    const int64_t tokens = inputs_.local_tokens(), storage = static_cast<int64_t>(element_);
    const int64_t compute = inputs_.on_gpu ? storage : 4;
    double layers = 0;
    for (int64_t layer = 0; layer < model_.num_layers; ++layer) {
      const AttentionConfig attention = run_.attention_of(layer);
      if (!attention.searches()) continue;
      const int64_t kept = num_kept_queries(model_, attention, storage, compute, choice_.query_tile, choice_.token_tile,
                                            tokens, inputs_.sequence_ranks);
      layers += 1 - real(kept) / real(tokens);
    }
    return layers;
  }

  // Elements read and written a token (transformer_layer.cpp), the copies between products included.
  PartTime pointwise() const {
    const double forward = 4 * hidden_ + 6 * key_ + 5 * query_ + 3 * inner_;
    const double search = 2 * hidden_;  // norms for the queries alone
    const double backward = 25 * hidden_ + 24 * key_ + 6 * query_ + 8 * inner_;
    const double bytes = element_ * tokens_ * (both_passes() * forward + layers_ * (search + backward));
    return {part::kPointwise, 0, bytes / rates_.pointwise};
  }

  PartTime search() const {
    PartTime part{part::kSearch, 0, 0};
    for (int64_t layer = 0; layer < model_.num_layers; ++layer) add_search(run_.attention_of(layer), part);
    return part;
  }

  // Dealt out evenly over ranks.
  void add_search(const AttentionConfig& attention, PartTime& part) const {
    if (!attention.searches()) return;
    const double whole = real(inputs_.tokens), heads = real(model_.num_kv_heads) / real(inputs_.sequence_ranks);
    const bool in_float8 = attention.indexes_in_float8(element_ == 2);
    const ScanWork scan = scan_work(attention, model_.head_dim, inputs_.tokens, in_float8);
    const RateCurve& rate = in_float8 ? rates_.scan_float8 : rates_.scan;
    const double index_queries = heads * real(attention.num_index_heads(model_.group_size()));  // of a token
    part.flops += index_queries * scan.flops;
    part.seconds +=
        index_queries * (scan.flops / rate.at(scan.tokens) + (whole - scan.tokens) / rates_.tree.at(whole)) +
        heads * whole / rates_.lists;
  }

  PartTime attention_forward() const {
    const RateCurve& rate = rates_.attention_of(model_.head_dim).forward;
    return attention(part::kAttentionForward, 4, kForwardTileKeys, rate, again_ / layers_ + 2);
  }
  PartTime attention_backward() const {
    const RateCurve& rate = rates_.attention_of(model_.head_dim).backward;
    PartTime part = attention(part::kAttentionBackward, 10, kBackwardTileKeys, rate, 1);
    for (int64_t layer = 0; layer < model_.num_layers; ++layer)
      part.seconds += further_key_gradients(run_.attention_of(layer)) / rates_.copy;
    return part;
  }

  // Each query tile reads the keys and values that it picked and adds to their gradients. Rates were measured with one
  // tile: bytes of the others, whose picks are taken to lie anywhere before them.
  double further_key_gradients(const AttentionConfig& attention) const {
    if (!attention.searches()) return 0;
    const double block = real(attention.block_size), blocks = real(inputs_.tokens) / 2 / block;
    const double tile = std::min(tokens_, real(choice_.query_tile));
    const double picks = tile / real(kernels::kQueryTile) * mean_list_entries(attention, inputs_);
    const double picked = blocks * (1 - std::exp(-picks / blocks));  // without repetition
    const double others = ceil_div(tokens_, tile) - 1;
    return others * picked * block * 2 * key_ * (element_ + 2 * sizeof(float));
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

  bool updates_beside_forward() const {  // ShardedAdamW
    return choice_.offload_optimizer || choice_.offload_gradients || choice_.offload_weights;
  }

  // AdamW reads and writes weight and moments and reads the gradient; norm and zeroing of gradients.
  PartTime optimizer() const {
    const double mine = parameters_ / real(inputs_.ranks());
    const double bytes = mine * ((updates_beside_forward() ? 0 : 2 * updated_bytes() + 4) + 4 + 4);
    return {part::kOptimizer, 0, bytes / rates_.adamw};
  }

  // Copies run beside the computation. Inputs leave and states pass in the forward pass, a third of the step; gradients
  // leave and inputs come back in the other two.
  void add_host_copies(StepTime& step, double sequences) const {
    const double input_bytes = tokens_ * hidden_ * element_ * sequences;
    const double inputs = real(choice_.host_inputs) * input_bytes;
    // In one place for all inputs nothing can come in while another is used.
    const bool awaited = ActivationStore::has_one_place(store_plan(model_, choice_));
    const double awaited_inputs = awaited ? layers_ * input_bytes : 0, other_inputs = awaited ? 0 : inputs;
    const double mine = parameters_ / real(inputs_.ranks());
    const double weights = choice_.offload_weights ? mine * element_ * sequences : 0;  // of one pass
    const double gradients = choice_.offload_gradients ? mine * 4 : 0;
    const StateBytes state = state_bytes(run_, choice_);
    const double states = choice_.offload_optimizer ? mine * real(state.master + state.moments) : 0;
    const double updated = choice_.offload_weights ? mine * real(state.weights) : 0;
    const double leaving = states + updated, coming = states + gradients + (state.master > 0 ? 0 : updated);
    const double back_in = other_inputs + weights * (1 + again_ / layers_);
    const double out = inputs + leaving + gradients, in = coming + weights + back_in + awaited_inputs;
    if (out + in == 0) return;
    step.traffic.push_back({"to host", out, out / rates_.to_host});
    step.traffic.push_back({"from host", in, in / rates_.from_host});
    const double forward = std::max((inputs + leaving) / rates_.to_host, (coming + weights) / rates_.from_host);
    const double backward = std::max(gradients / rates_.to_host, back_in / rates_.from_host);
    const double late = std::max(0.0, forward - step.seconds / 3) + std::max(0.0, backward - step.seconds * 2 / 3);
    // Nothing is computed before the embedding and the first layer are updated.
    const double first = first_units_ * std::max(leaving / rates_.to_host, coming / rates_.from_host);
    step.parts.push_back({"host copies, waited for", 0, late + first + awaited_inputs / rates_.from_host});
  }

  // A step waits for the exchanges of attention where the computation beside them is shorter. The weights of every pass
  // are gathered in advance, and gradients are reduced behind the computation.
  void add_exchange(StepTime& step, double sequences) const {
    AttentionTraffic attention;
    for (int64_t layer = 0; layer < model_.num_layers && inputs_.sequence_ranks > 1; ++layer)
      add_attention_exchange(run_.attention_of(layer), attention);
    const double others = real(inputs_.ranks() - 1) / real(inputs_.ranks());
    const double weights = others * parameters_ * (element_ * (2 + again_ / layers_) + 4) * sequences;
    const auto add = [&](const char* name, double bytes) {
      if (bytes > 0) step.traffic.push_back({name, bytes, bytes / link_});
    };
    add("keys and values", attention.keys * sequences);
    add("queries and outputs", attention.queries * sequences);
    add("weights and gradients", weights);
    const double late = std::max(0.0, weights / link_ - step.seconds);
    step.parts.push_back({"exchange, waited for", 0, attention.waited * sequences + late});
  }

  // The bytes that the layers of a step exchange for one sequence.
  struct AttentionTraffic {
    double keys = 0, queries = 0;  // bytes that come to a rank
    double waited = 0;             // seconds
  };

  void add_attention_exchange(const AttentionConfig& attention, AttentionTraffic& traffic) const {
    const int64_t ranks = inputs_.sequence_ranks, heads = model_.num_kv_heads;
    const bool by_heads = exchange_kind(run_.parallel, attention, heads, ranks) == ExchangeKind::kAllToAll;
    const double others = real(ranks - 1) / real(ranks), layers_again = again_ / layers_;
    // All heads of the others' tokens, or the others' tokens of some heads.
    const double tokens = others * (by_heads ? tokens_ : real(inputs_.tokens));
    const double keys = tokens * 2 * key_ * element_, gradients = tokens * 2 * key_ * 4;
    const double queries = by_heads ? others * tokens_ * query_ * element_ : 0;
    // Index queries of the own tokens are sent to the ranks that search for them, which send the picks back.
    const double index_queries = real(attention.num_index_heads(model_.group_size())) * others * tokens_;
    const double index = (tokens + index_queries) * real(heads * attention.index_dims) * element_;
    const double picks = by_heads ? 0 : others * tokens_ * real(heads * attention.picks) * 4;
    const bool selects = attention.searches();

    const double held = by_heads ? real(heads) / real(ranks) : real(heads), tile = tile_share();
    const double project = 2 * tile * tokens_ * query_ * hidden_ / rates_.matmul;
    const double forward = tile * attention_forward().seconds / (both_passes() + layers_);
    const double backward = tile * attention_backward().seconds / layers_;
    const double pieces =
        real(static_cast<int64_t>(query_pieces(static_cast<int64_t>(held), model_.group_size()).size()));
    // Queries come and outputs go by pieces: the first and the last beside nothing, the others beside attention.
    const auto by_pieces = [&](double beside) {
      const double seconds = 2 * queries / link_;
      return seconds / pieces + std::max(0.0, seconds - beside) * (pieces - 1) / pieces;
    };
    const double first = late(keys, held, element_, selects ? search().seconds / layers_ : project, forward);
    traffic.keys += (2 + layers_again) * keys + gradients + (selects ? index + picks : 0);
    traffic.queries += (2 * (1 + layers_again) + 4) * queries;
    traffic.waited += first + (1 + layers_again) * late(keys, held, element_, project, forward) +
                      late(gradients, held, 4, 3 * project, backward) + (selects ? index + picks : 0) / link_ +
                      (2 + layers_again) * by_pieces(forward / tile) + by_pieces(backward / tile);
  }

  // The share of a rank's tokens that one query tile holds.
  double tile_share() const { return std::min(1.0, real(choice_.query_tile) / tokens_); }

  // Seconds that are waited for an exchange by groups of the held heads. Something else is computed beside all of it,
  // and attention over the groups that are here beside the others.
  double late(double bytes, double held_heads, double element, double beside_all, double attention) const {
    const double head_bytes = 2 * real(inputs_.tokens * model_.head_dim) * element;
    const double a_group =
        real(heads_of_a_group(run_.parallel, static_cast<int64_t>(held_heads), static_cast<int64_t>(head_bytes)));
    const double groups = ceil_div(held_heads, a_group), seconds = bytes / link_;
    return std::max({0.0, seconds / groups - beside_all, seconds - beside_all - attention * (groups - 1) / groups});
  }

  const ModelConfig& model_;
  const RunConfig& run_;
  const PlanInputs& inputs_;
  const MemoryChoice& choice_;
  const MachineRates& rates_;
  double link_;
  double layers_, again_;  // again: those that run forward once more before they are differentiated
  double tokens_, hidden_, query_, key_, inner_, element_;
  double parameters_;   // but for norms and biases
  double first_units_;  // share of these in the embedding and the first layer
};

}  // namespace

double executed_keys(const AttentionConfig& attention, double list_entries, int64_t tokens) {
  const double most = real(tokens) / 2 + real(kernels::kQueryTile);
  if (attention.kind() == LayerKind::kDense) return most;
  const double listed = list_entries * real(attention.block_size);
  return std::min(most, real(attention.sink_tokens + attention.window + kernels::kQueryTile) + listed);
}

// The first tiles scan, those with more than scan_tokens to search take the tree.
ScanWork scan_work(const AttentionConfig& attention, int64_t head_dim, int64_t tokens, bool in_float8) {
  const double local = real(attention.sink_tokens + attention.window);
  const double scanning = std::min(real(tokens), real(attention.scanned_tokens(in_float8)) + local);
  const double searched = std::max(0.0, scanning - local), dims = real(std::min(attention.index_dims, head_dim));
  return {.tokens = scanning, .flops = searched * searched * dims};
}

StepTime predict_step_time(const ModelConfig& model, const RunConfig& run, const PlanInputs& inputs,
                           const MemoryChoice& choice, const MachineRates& rates) {
  return StepTimeModel(model, run, inputs, choice, rates).predict();
}

}  // namespace hiptrain
