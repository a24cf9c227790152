#include "trainer/planner/memory_walk.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "distributed/sequence_shard.h"
#include "kernels/attention_geometry.h"
#include "kernels/tree_geometry.h"
#include "trainer/attention/attention_exchange.h"
#include "trainer/attention/hip_attention.h"
#include "trainer/attention/selection_recall.h"
#include "trainer/attention/sequence_search.h"
#include "trainer/ops/selection_ops.h"
#include "trainer/sharding/sharded_adamw.h"
#include "trainer/sharding/sharded_parameters.h"

namespace hiptrain {
namespace {

using Item = MemoryItem;
using Held = MemoryLedger::Held;

constexpr int64_t kMiB = int64_t{1} << 20;
// Picked blocks a tile and pick of a trained model (29M parameters, source code, 2 picks), and at what lengths of the
// sequence: kernels/selection.md.
constexpr double kListTokens[] = {32768, 131072, 1048576}, kListEntries[] = {11.7, 17.95, 28.3};
constexpr int64_t kCublasWorkspace = 32 * kMiB;  // ATen's for Hopper, from the allocator
// Radix sort of 32-bit keys and values: a second pair of buffers, and counts.
int64_t sort_bytes(int64_t count) { return 8 * count + count / 4 + kMiB; }

int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// One step of one rank. Functions have the names of those whose allocations they repeat (transformer.cpp,
// transformer_layer.cpp and loss.cpp in trainer/transformer, trainer/attention/hip_attention.cpp) or the classes that
// they name.
class StepWalk {
 public:
  StepWalk(const ModelConfig& model, const ParameterLayout& layout, const RunConfig& run, const PlanInputs& inputs,
           const MemoryChoice& choice, MemoryLedger& device, MemoryLedger& host)
      : model_(model),
        layout_(layout),
        run_(run),
        inputs_(inputs),
        choice_(choice),
        device_(device),
        host_(inputs.on_gpu ? host : device),
        storage_(run.precision == Precision::kBfloat16 ? 2 : 4),
        compute_(inputs.on_gpu ? storage_ : 4),
        tokens_(inputs.local_tokens()),
        hidden_(model.hidden_size),
        query_(int64_t{model.num_query_heads} * model.head_dim),
        key_(int64_t{model.num_kv_heads} * model.head_dim),
        inner_(model.intermediate_size),
        state_(state_bytes(run, choice)) {}

  void run() {
    hold_state();
    hold_buffers();
    forward_backward();
  }

 private:
  bool several_ranks() const { return inputs_.ranks() > 1; }
  bool shares_sequence() const { return inputs_.sequence_ranks > 1; }
  int64_t stream_bytes() const { return tokens_ * hidden_ * storage_; }
  int64_t shard_numel(int unit) const {
    return padded_shard_size(layout_.units()[unit].numel, static_cast<int>(inputs_.ranks()));
  }

  // ---- what stays

  void hold_state() {
    device_.enter("between steps");
    for (size_t unit = 0; unit < layout_.units().size(); ++unit) hold_unit(static_cast<int>(unit));
    const int64_t batches = run_.train.gradient_accumulation_steps;
    device_.keep(Item::kBatch, batches * tokens_ * (4 + 4 + 8));      // tokens, targets, positions
    host_.keep(Item::kBatch, (batches + 1) * tokens_ * (4 + 4 + 8));  // on their way, and as they are read
    if (inputs_.on_gpu) device_.keep(Item::kSearch, kCublasWorkspace);
  }

  void hold_unit(int unit) {
    const int64_t numel = shard_numel(unit);
    MemoryLedger& optimizer = choice_.offload_optimizer ? host_ : device_;
    optimizer.keep(Item::kWeights, numel * state_.master);
    (choice_.offload_weights ? host_ : device_).keep(Item::kWeights, numel * state_.weights);
    (choice_.offload_gradients ? host_ : device_).keep(Item::kGradients, numel * 4);
    for (int moment = 0; moment < 2; ++moment) optimizer.keep(Item::kOptimizer, numel * state_.moments / 2);
  }

  // ---- what the run takes once and uses in every step

  void hold_buffers() {
    if (!used_in_place()) hold_unit_buffers(Item::kGatheredWeights, compute_, storage_);
    if (several_ranks() || choice_.offload_gradients) hold_unit_buffers(Item::kGradientBuffers, 4, 4);
    const ActivationStore::Plan plan = store_plan(model_, choice_);
    for (int64_t i = 0; i < ActivationStore::device_inputs(plan); ++i) device_.keep(Item::kLayerInputs, stream_bytes());
    for (int64_t i = 0; i < plan.host_inputs; ++i) host_.keep(Item::kLayerInputs, stream_bytes());
    hold_lanes();
  }

  // ShardedAdamW: room for what is offloaded.
  void hold_lanes() {
    int64_t largest = 0;
    for (size_t unit = 0; unit < layout_.units().size(); ++unit)
      largest = std::max(largest, shard_numel(static_cast<int>(unit)));
    const int64_t chunk = std::min(ShardedAdamW::kChunk, largest), optimizer = choice_.offload_optimizer ? 1 : 0;
    for (int lane = 0; lane < ShardedAdamW::kLanes; ++lane)
      for (const int64_t bytes :
           {optimizer * state_.master, optimizer * state_.moments / 2, optimizer * state_.moments / 2,
            choice_.offload_weights ? state_.weights : 0, int64_t{choice_.offload_gradients ? 4 : 0}})
        device_.keep(Item::kStaging, chunk * bytes);
  }

  // GatheredWeights
  bool used_in_place() const {
    return !several_ranks() && !choice_.offload_weights && state_.weights > 0 && compute_ == storage_;
  }

  // UnitBuffers
  void hold_unit_buffers(Item item, int64_t whole_element, int64_t part_element) {
    const int table = layout_.embedding_unit(), head = layout_.head_unit();
    const int64_t largest_table = std::max(shard_numel(table), model_.tied_embeddings ? 0 : shard_numel(head));
    int64_t layer = 0;
    for (int unit = table + 1; unit < head; ++unit) layer = std::max(layer, shard_numel(unit));
    for (const int64_t shard : {largest_table, layer, layer, model_.tied_embeddings ? shard_numel(head) : 0}) {
      device_.keep(item, shard * inputs_.ranks() * whole_element);
      if (several_ranks()) device_.keep(item, shard * part_element);
    }
  }

  // ---- Transformer

  void forward_backward() {
    Held hidden = run_layers();
    Held d_hidden;  // in the same memory where the types agree
    if (compute_ != storage_) d_hidden = device_.hold(Item::kHidden, tokens_ * hidden_ * compute_);
    const Held losses = device_.hold(Item::kBatch, tokens_ * 8);
    loss();
    if (compute_ != storage_) hidden = {};
    run_layers_back();
    embedding_backward();
  }

  Held run_layers() {
    device_.enter("embedding");
    Held hidden = device_.hold(Item::kHidden, stream_bytes());
    for (int64_t layer = 0; layer < model_.num_layers; ++layer) {
      if (is_like(layer, layer + 1))  // most is held in the last of like layers, beside the lists of all
        hold_lists(run_.attention_of(layer));
      else
        layer_forward(run_.attention_of(layer), /*searches=*/true);
    }
    return hidden;
  }

  // One of several like layers tells what all take.
  void run_layers_back() {
    const int64_t first_kept = model_.num_layers - ActivationStore::last_layers(store_plan(model_, choice_));
    for (int64_t layer = model_.num_layers - 1; layer >= 0; --layer) {
      if (is_like(layer, layer + 1) && layer + 1 != first_kept) continue;
      if (layer < first_kept) layer_forward(run_.attention_of(layer), /*searches=*/false);
      layer_backward(run_.attention_of(layer));
    }
    lists_.clear();
  }

  // Whether both layers exist and attend alike.
  bool is_like(int64_t layer, int64_t other) const {
    if (other >= model_.num_layers) return false;
    return run_.attention_layers.empty() || run_.attention_of(layer) == run_.attention_of(other);
  }

  void embedding_backward() {
    device_.enter("backward, embedding");
    constexpr int64_t kMostPieces = 1024;
    if (inputs_.on_gpu)
      device_.touch(Item::kSearch, 16 * tokens_ + sort_bytes(tokens_) + 2 * kMostPieces * hidden_ * 4);
  }

  void loss() {
    device_.enter("loss");
    const int64_t tile = std::min(choice_.loss_tile, tokens_);
    const Held normed = device_.hold(Item::kLossTile, tile * hidden_ * compute_);
    const Held logits = device_.hold(Item::kLossTile, tile * model_.vocabulary_size * compute_);
    device_.touch(Item::kLossTile, 2 * tile * hidden_ * compute_ + rms_norm_backward_bytes(hidden_));
  }

  // ---- TransformerLayer

  bool selects(const AttentionConfig& attention) const { return attention.kind() == LayerKind::kPicks; }
  bool selects_as_published(const AttentionConfig& attention) const {
    return attention.kind() == LayerKind::kPublished;
  }
  // HipAttention::by_heads
  bool by_heads(const AttentionConfig& attention) const {
    return shares_sequence() && exchange_kind(run_.parallel, attention, model_.num_kv_heads, inputs_.sequence_ranks) ==
                                    ExchangeKind::kAllToAll;
  }
  int64_t index_dims(const AttentionConfig& attention) const {
    return std::min<int64_t>(attention.index_dims, model_.head_dim);
  }
  bool indexes_in_float8(const AttentionConfig& attention) const { return attention.indexes_in_float8(compute_ == 2); }
  int64_t index_key_bytes(const AttentionConfig& attention) const {
    return indexes_in_float8(attention) ? 1 : compute_;
  }
  int64_t index_bytes(const AttentionConfig& attention, int64_t tokens, int64_t element) const {
    return tokens * model_.num_kv_heads * index_dims(attention) * element;
  }
  // Entries in the lists of the tiles that hold this many of the rank's tokens.
  int64_t num_entries(const AttentionConfig& attention, int64_t tokens) const {
    const double tiles = static_cast<double>(kernels::num_tiles(tokens) * model_.num_kv_heads);
    return static_cast<int64_t>(tiles * mean_list_entries(attention, inputs_));
  }
  int64_t query_tile() const { return std::min(choice_.query_tile, tokens_); }
  int64_t query_tile_bytes() const { return query_tile() * query_ * storage_; }
  int64_t log_sum_exp_bytes() const { return query_tile() * model_.num_query_heads * 4; }
  int64_t token_tile() const { return std::min({choice_.token_tile, choice_.query_tile, tokens_}); }
  int64_t token_tile_bytes() const { return token_tile() * hidden_ * compute_; }

  void layer_forward(const AttentionConfig& attention, bool searches) {
    device_.enter(searches ? "forward, first pass" : "backward, forward again");
    const bool selecting = searches && selects(attention);
    FirstPass pass = first_pass(attention, selecting);
    Held kept, queries;
    const int64_t kept_queries = selecting ? this->kept_queries(attention) : 0;  // tokens
    if (selecting) {
      kept = device_.hold(Item::kQueryTile, kept_queries * query_ * storage_);
      select(attention, pass);
    }
    if (searches && selects_as_published(attention)) device_.touch(Item::kQueryTile, tokens_ * query_ * storage_);
    if (searches) device_.enter("forward, tiles");
    if (kept_queries < tokens_) queries = project_queries();
    attend_and_measure(attention, selecting);
    const Held output = device_.hold(Item::kQueryTile, query_tile_bytes());
    after_attention();
  }

  void attend_and_measure(const AttentionConfig& attention, bool selecting) {
    const std::vector<Held> pass = attention_forward(attention);
    const bool searches_something = selecting && inputs_.tokens > attention.sink_tokens + attention.window;
    if (!searches_something || run_.metrics.recall_every == 0) return;
    const int64_t held_heads = by_heads(attention) ? model_.num_kv_heads / inputs_.sequence_ranks : model_.num_kv_heads;
    device_.touch(Item::kSearch, recall_workspace_bytes(inputs_.tokens, held_heads, model_.group_size(),
                                                        model_.head_dim, attention.block_size));
  }

  struct FirstPass {
    std::vector<Held> keys, index_keys;
  };

  int64_t kept_queries(const AttentionConfig& attention) const {
    return std::min(tokens_, num_kept_queries(model_, attention, storage_, compute_, choice_.query_tile,
                                              choice_.token_tile, padded_tokens(), inputs_.sequence_ranks));
  }

  FirstPass first_pass(const AttentionConfig& attention, bool with_index) {
    FirstPass pass;
    for (int rows = 0; rows < 2; ++rows) hold_rows(attention, Item::kKeys, model_.head_dim, storage_, pass.keys);
    if (with_index)
      hold_rows(attention, Item::kKeys, index_dims(attention), index_key_bytes(attention), pass.index_keys);
    project(model_.num_kv_heads);
    // The index keys before they are stored.
    if (with_index) device_.touch(Item::kTokenTile, index_bytes(attention, tokens_, index_key_bytes(attention)));
    return pass;
  }

  // SequenceRows of all KV heads.
  void hold_rows(const AttentionConfig& attention, Item item, int64_t dim, int64_t element_bytes,
                 std::vector<Held>& held) {
    const int64_t own = model_.num_kv_heads * padded_tokens() * dim * element_bytes;
    const bool beside = by_heads(attention);  // otherwise the own tokens' are a part of all
    held.push_back(device_.hold(item, beside ? own : own * inputs_.sequence_ranks));
    if (beside) held.push_back(device_.hold(Item::kExchange, own));
  }
  int64_t padded_tokens() const { return shares_sequence() ? shard().capacity() : tokens_; }
  SequenceShard shard() const {
    return {inputs_.tokens, kernels::kQueryTile, 0, static_cast<int>(inputs_.sequence_ranks)};
  }

  // A token tile's norm, and one of its head projections.
  void project(int heads) {
    const int64_t flat = token_tile() * heads * model_.head_dim * compute_;
    device_.touch(Item::kTokenTile, token_tile_bytes() + flat * (model_.query_key_norm ? 2 : 1));
  }

  Held project_queries() {
    Held queries = device_.hold(Item::kQueryTile, query_tile_bytes());
    project(model_.num_query_heads);
    return queries;
  }

  void select(const AttentionConfig& attention, FirstPass& pass) {
    if (inputs_.on_gpu) device_.enter("forward, search");
    const Held picks = pick(attention);
    pass.index_keys.clear();
    const int64_t counts = model_.num_kv_heads * kernels::num_tiles(tokens_) * 8;
    const Held tile_counts = device_.hold(Item::kSearch, counts);
    hold_lists(attention);
  }

  void hold_lists(const AttentionConfig& attention) {
    if (!selects(attention)) return;
    const int64_t offsets = model_.num_kv_heads * (kernels::num_tiles(tokens_) + 1) * 8;
    lists_.push_back(device_.hold(Item::kLists, offsets));
    if (inputs_.on_gpu) lists_.push_back(host_.hold(Item::kLists, offsets));
    lists_.push_back(device_.hold(Item::kLists, num_entries(attention, tokens_) * 4));
  }

  // SequenceSearch. Returns the picks, of the own tokens or of this rank's heads.
  Held pick(const AttentionConfig& attention) {
    const bool shares_tiles = shares_sequence() && !by_heads(attention);
    Held picks = device_.hold(Item::kSearch, pick_bytes(attention, tokens_ + (shares_tiles ? kernels::kQueryTile : 0)));
    const Held halo = device_.hold(Item::kSearch, index_query_bytes(attention, search_halo(attention)));
    const int64_t node_bytes = tree_bytes(attention) / (by_heads(attention) ? inputs_.sequence_ranks : 1);
    // The first query tile's search builds the nodes that the others find.
    Held nodes;
    if (tokens_ > query_tile()) nodes = device_.hold(Item::kSearch, node_bytes);
    const Held parts = exchange_index_queries(attention);
    if (tokens_ <= query_tile()) nodes = device_.hold(Item::kSearch, node_bytes);
    if (!shares_tiles) return picks;
    const Held found = device_.hold(Item::kSearch, pick_bytes(attention, part_tokens(attention)));
    device_.touch(Item::kExchange, pick_bytes(attention, part_tokens(attention)));  // picks that are sent back
    return picks;
  }

  // Returns a query tile's index queries where they are searched with, as they have come.
  Held exchange_index_queries(const AttentionConfig& attention) {
    const int64_t halo = search_halo(attention), parts = part_tokens(attention);
    const int64_t num_parts = shares_sequence() && !by_heads(attention) ? inputs_.sequence_ranks : 1;
    const int64_t sent = index_query_bytes(attention, num_parts * halo + parts);
    Held made = device_.hold(Item::kSearch, index_query_bytes(attention, halo + parts));
    project(model_.num_query_heads);
    if (!shares_sequence()) return made;
    Held leaving = device_.hold(Item::kExchange, sent);
    made = {};
    return device_.hold(Item::kExchange, sent);
  }

  // Tokens of the parts of a query tile.
  int64_t part_tokens(const AttentionConfig& attention) const {
    if (!shares_sequence()) return query_tile();
    const int num_ranks = static_cast<int>(inputs_.sequence_ranks), parts = by_heads(attention) ? 1 : num_ranks;
    const QueryTile tile = QueryTile::of(shard(), choice_.query_tile).front();
    return parts * SearchParts(inputs_.tokens, num_ranks, parts).capacity(tile);
  }
  int64_t index_query_bytes(const AttentionConfig& attention, int64_t tokens) const {
    return index_bytes(attention, tokens, compute_) * attention.num_index_heads(model_.group_size());
  }
  int64_t pick_bytes(const AttentionConfig& attention, int64_t tokens) const {
    return model_.num_kv_heads * attention.picks * tokens * 4;
  }
  // A plan is for a sequence of one document.
  int64_t search_halo(const AttentionConfig& attention) const {
    const int64_t start = 0;
    return hiptrain::search_halo({.num_tokens = inputs_.tokens,
                                  .document_starts = &start,
                                  .num_documents = 1,
                                  .block_size = attention.block_size,
                                  .sink_tokens = attention.sink_tokens,
                                  .window = attention.window},
                                 search_settings(attention, indexes_in_float8(attention)));
  }

  // Rows of the tree's nodes, of all levels and heads (kernels/cuda/search/node_rows.cu).
  int64_t tree_bytes(const AttentionConfig& attention) const {
    if (!inputs_.on_gpu || inputs_.tokens <= attention.scanned_tokens(indexes_in_float8(attention))) return 0;
    const int64_t blocks = ceil_div(inputs_.tokens, attention.block_size);
    const int top = kernels::tree_top_level(blocks, attention.top_nodes);
    int64_t elements = 0;
    const int lowest = kernels::chooses_blocks(blocks, attention.beam, attention.picks) ? 0 : 1;
    for (int level = lowest; level <= top; ++level)
      elements += kernels::num_whole_nodes(blocks, level) * kernels::node_elements(level, index_dims(attention));
    return elements * model_.num_kv_heads * index_key_bytes(attention);
  }

  // HipAttention::Pass
  std::vector<Held> attention_forward(const AttentionConfig& attention) {
    std::vector<Held> pass;
    if (by_heads(attention)) pass.push_back(exchange_queries());
    pass.push_back(device_.hold(Item::kQueryTile, query_tile_bytes()));
    pass.push_back(device_.hold(Item::kQueryTile, log_sum_exp_bytes()));
    // cuDNN's output and log-sum-exp, and these in our order.
    if (by_cudnn(attention)) device_.touch(Item::kSearch, 2 * (query_tile_bytes() + log_sum_exp_bytes()));
    if (by_heads(attention)) pass.push_back(exchange_queries());
    return pass;
  }

  // Rows of a query tile on their way to other heads or tokens; those that come stay.
  Held exchange_queries() {
    const Held sent = device_.hold(Item::kExchange, query_tile_bytes());
    return device_.hold(Item::kExchange, query_tile_bytes());
  }

  // Whether cuDNN attends, for a sequence of one document, which a plan is for.
  bool by_cudnn(const AttentionConfig& attention) const {
    return inputs_.on_gpu && storage_ == 2 && attention.kind() == LayerKind::kDense && !attention.deterministic &&
           tokens_ <= choice_.query_tile && model_.head_dim <= 128;
  }

  void after_attention() {
    const Held input = device_.hold(Item::kTokenTile, token_tile_bytes());
    device_.touch(Item::kTokenTile, 3 * token_tile() * inner_ * compute_);  // gate, up and their product
  }

  void layer_backward(const AttentionConfig& attention) {
    device_.enter("backward, first pass");
    FirstPass pass = first_pass(attention, /*with_index=*/false);
    std::vector<Held> d_keys;
    for (int rows = 0; rows < 2; ++rows) hold_rows(attention, Item::kKeyGradients, model_.head_dim, 4, d_keys);
    backward_tile(attention, pass);
    keys_backward();
  }

  void backward_tile(const AttentionConfig& attention, FirstPass& first) {
    const Held query = project_queries();
    const std::vector<Held> pass = attention_forward(attention);
    const Held d_output = device_.hold(Item::kQueryTile, query_tile_bytes());
    after_attention_backward();
    const Held d_query = attention_backward(attention);
    if (tokens_ > choice_.query_tile) queries_backward();
    first.keys.clear();  // after the last tile
    queries_backward();
  }

  void after_attention_backward() {
    device_.enter("backward, MLP");
    const int64_t stream = token_tile_bytes(), inner = token_tile() * inner_ * compute_;
    std::vector<Held> held;
    for (int tensor = 0; tensor < 2; ++tensor)  // the stream between attention and MLP, and its norm
      held.push_back(device_.hold(Item::kTokenTile, stream));
    for (int tensor = 0; tensor < 2; ++tensor)  // gate and up
      held.push_back(device_.hold(Item::kTokenTile, inner));
    device_.touch(Item::kTokenTile, inner);  // their product, then its gradient
    held.push_back(device_.hold(Item::kTokenTile, stream));
    device_.touch(Item::kTokenTile, rms_norm_backward_bytes(hidden_));
  }

  // Returns the gradient of the queries.
  Held attention_backward(const AttentionConfig& attention) {
    device_.enter("backward, attention");
    std::vector<Held> parts;
    if (by_heads(attention)) parts.push_back(exchange_queries());
    Held d_query = device_.hold(Item::kQueryTile, query_tile_bytes());
    if (inputs_.on_gpu) {
      // Pieces that have not arrived are still being sent, and finished ones are sent back.
      const Held moving = device_.hold(Item::kExchange, by_heads(attention) ? query_tile_bytes() : 0);
      attention_backward_scratch(attention);
    }
    if (by_heads(attention)) parts.push_back(exchange_queries());
    return d_query;
  }

  void attention_backward_scratch(const AttentionConfig& attention) {
    if (by_cudnn(attention)) {
      // cuDNN's float32 sums, gradients of queries, these in our order, and of keys and values.
      device_.touch(Item::kSearch, 4 * query_tile_bytes() + 2 * tokens_ * key_ * storage_ + log_sum_exp_bytes());
      return;
    }
    const int64_t entries = num_entries(attention, query_tile());
    const int64_t blocks = model_.num_kv_heads * (ceil_div(inputs_.tokens, attention.block_size) + 1);
    const Held inverted = device_.hold(Item::kSearch, blocks * 8);
    const Held inverted_entries = device_.hold(Item::kSearch, entries * 4);
    device_.touch(Item::kSearch, 3 * entries * 4 + sort_bytes(entries));
    const int64_t rows = query_tile() * model_.num_query_heads * 8;
    const int64_t items = blocks + entries / 128;  // kernels/cuda/attention/sparse_attention_backward_key.cu
    device_.touch(Item::kSearch, rows + 3 * blocks * 4 + items * 8);
  }

  void queries_backward() {
    device_.enter("backward, queries");
    const int64_t heads = token_tile() * query_ * compute_;
    device_.touch(Item::kTokenTile, 2 * token_tile_bytes() + (model_.query_key_norm ? 2 * heads : 0));
  }

  void keys_backward() {
    device_.enter("backward, keys");
    device_.touch(Item::kTokenTile, 4 * token_tile_bytes() + 2 * token_tile() * key_ * compute_);
  }

  // Partial sums of the weight's gradient, of at most two blocks a multiprocessor
  // (kernels/cuda/pointwise/rms_norm_backward.cu).
  int64_t rms_norm_backward_bytes(int64_t columns) const {
    constexpr int64_t kMostBlocks = 2 * 132;
    return inputs_.on_gpu ? kMostBlocks * columns * 4 : 0;
  }

  const ModelConfig& model_;
  const ParameterLayout& layout_;
  const RunConfig& run_;
  const PlanInputs& inputs_;
  const MemoryChoice& choice_;
  MemoryLedger &device_, &host_;
  int64_t storage_, compute_;  // bytes of an element (LayerTypes)
  int64_t tokens_, hidden_, query_, key_, inner_;
  StateBytes state_;
  std::vector<Held> lists_;
};

// Straight over the logarithm of the length, and on so beyond what was measured.
double entries_a_pick(double tokens) {
  const int piece = tokens < kListTokens[1] ? 0 : 1;
  const double share = std::log(tokens / kListTokens[piece]) / std::log(kListTokens[piece + 1] / kListTokens[piece]);
  return std::max(1.0, kListEntries[piece] + share * (kListEntries[piece + 1] - kListEntries[piece]));
}

}  // namespace

int64_t PlanInputs::local_tokens() const {
  return SequenceShard(tokens, kernels::kQueryTile, 0, static_cast<int>(sequence_ranks)).size();
}

StateBytes state_bytes(const RunConfig& run, const MemoryChoice& choice) {
  const int64_t weight = run.precision == Precision::kBfloat16 ? 2 : 4,
                moment = run.optimizer.state_dtype == StateType::kBfloat16 ? 2 : 4;
  if (weight == 4 || !run.optimizer.master_weights) return {.master = 0, .weights = weight, .moments = 2 * moment};
  return {.master = 4, .weights = choice.offload_optimizer ? weight : 0, .moments = 2 * moment};
}

double mean_list_entries(const AttentionConfig& attention, const PlanInputs& inputs) {
  if (!attention.searches()) return 0;
  const double tokens = static_cast<double>(inputs.tokens);
  const double wanted =
      inputs.list_entries > 0 ? inputs.list_entries : entries_a_pick(tokens) * static_cast<double>(attention.picks);
  // The last tile searches this many blocks, the tile in the middle half of them.
  const double most = (tokens - static_cast<double>(attention.sink_tokens + attention.window)) /
                      static_cast<double>(attention.block_size);
  return std::clamp(wanted, 0.0, std::max(most / 2, 0.0));
}

ActivationStore::Plan store_plan(const ModelConfig& model, const MemoryChoice& choice) {
  return {.num_layers = model.num_layers,
          .interval = choice.interval,
          .host_inputs = choice.host_inputs,
          .from_start = choice.from_start,
          .last_layers = choice.last_layers};
}

void walk_step(const ModelConfig& model, const ParameterLayout& layout, const RunConfig& run, const PlanInputs& inputs,
               const MemoryChoice& choice, MemoryLedger& device, MemoryLedger& host) {
  StepWalk(model, layout, run, inputs, choice, device, host).run();
}

}  // namespace hiptrain
