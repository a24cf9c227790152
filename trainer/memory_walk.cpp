#include "trainer/memory_walk.h"

#include <algorithm>
#include <vector>

#include "distributed/sequence_shard.h"
#include "kernels/attention_geometry.h"
#include "kernels/tree_geometry.h"
#include "trainer/sharded_parameters.h"

namespace hiptrain {
namespace {

using Item = MemoryItem;
using Held = MemoryLedger::Held;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr double kEntriesAPick = 17;
constexpr int64_t kCublasWorkspace = 32 * kMiB;        // ATen's for Hopper, from the allocator
constexpr int64_t kStreamedChunk = int64_t{16} << 20;  // elements (trainer/sharded_adamw.cpp)
// Radix sort of 32-bit keys and values: a second pair of buffers, and counts.
int64_t sort_bytes(int64_t count) { return 8 * count + count / 4 + kMiB; }

int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// One step of one rank. Functions have the names of those whose allocations they repeat (trainer/transformer.cpp,
// transformer_layer.cpp, hip_attention.cpp, loss.cpp) or the classes that they name.
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
        storage_(run.precision == "bfloat16" ? 2 : 4),
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
    optimizer();
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
    device_.keep(Item::kBatch, batches * tokens_ * (4 + 4 + 8));       // tokens, targets, positions
    host_.keep(Item::kBatch, batches * inputs_.tokens * (4 + 4 + 8));  // of the whole sequence
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
    const Held d_hidden = device_.hold(Item::kHidden, tokens_ * hidden_ * compute_);
    const Held losses = device_.hold(Item::kBatch, tokens_ * 8);
    loss();
    hidden = {};
    run_layers_back();
    embedding_backward();
  }

  Held run_layers() {
    device_.enter("embedding");
    Held hidden = device_.hold(Item::kHidden, stream_bytes());
    for (int64_t layer = 0; layer < model_.num_layers; ++layer)
      layer_forward(run_.attention_of(layer), /*searches=*/true);
    return hidden;
  }

  void run_layers_back() {
    const int64_t last_segment = std::max<int64_t>(0, model_.num_layers - choice_.interval);
    for (int64_t layer = model_.num_layers - 1; layer >= 0; --layer) {
      if (layer < last_segment) layer_forward(run_.attention_of(layer), /*searches=*/false);
      layer_backward(run_.attention_of(layer));
    }
    lists_.clear();
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
    device_.touch(Item::kLossTile, tile * hidden_ * compute_ + rms_norm_backward_bytes(hidden_));
  }

  // Two chunks of what is offloaded pass through the device at a time.
  void optimizer() {
    device_.enter("optimizer");
    if (!choice_.offload_optimizer && !choice_.offload_gradients && !choice_.offload_weights) return;
    int64_t largest = 0;
    for (size_t unit = 0; unit < layout_.units().size(); ++unit)
      largest = std::max(largest, shard_numel(static_cast<int>(unit)));
    const int64_t chunk = std::min(kStreamedChunk, largest);
    const int64_t optimizer = choice_.offload_optimizer ? 1 : 0;
    std::vector<Held> passing;
    for (int lane = 0; lane < 2; ++lane)
      for (const int64_t bytes :
           {optimizer * state_.master, optimizer * state_.moments / 2, optimizer * state_.moments / 2,
            choice_.offload_weights ? state_.weights : 0, int64_t{choice_.offload_gradients ? 4 : 0}})
        passing.push_back(device_.hold(Item::kStaging, chunk * bytes));
  }

  // ---- TransformerLayer

  bool selects(const AttentionConfig& attention) const {
    return attention.type == "hip" && attention.selection == "picks" && attention.picks > 0;
  }
  int64_t index_dims(const AttentionConfig& attention) const {
    return std::min<int64_t>(attention.index_dims, model_.head_dim);
  }
  int64_t index_key_bytes(const AttentionConfig& attention) const {
    return attention.index_dtype == "float8_e4m3" && inputs_.tokens <= attention.scan_tokens ? 1 : compute_;
  }
  int64_t num_entries(const AttentionConfig& attention) const {
    const double tiles = static_cast<double>(kernels::num_tiles(tokens_) * model_.num_kv_heads);
    return static_cast<int64_t>(tiles * mean_list_entries(attention, inputs_));
  }

  void layer_forward(const AttentionConfig& attention, bool searches) {
    device_.enter(searches ? "forward, first pass" : "backward, forward again");
    const bool selecting = searches && selects(attention);
    Held queries;
    if (selecting && tokens_ <= choice_.query_tile)
      queries = device_.hold(Item::kQueryTile, tokens_ * query_ * storage_);
    std::vector<Held> keys;
    {
      const std::vector<Held> index = first_pass(attention, selecting, keys);
      if (selecting) select(attention);
    }
    if (searches) device_.enter("forward, tiles");
    const int64_t tile = std::min(choice_.query_tile, tokens_);
    if (tokens_ > choice_.query_tile || !selecting) queries = device_.hold(Item::kQueryTile, tile * query_ * storage_);
    project(model_.num_query_heads, hidden_ * token_tile() * compute_);
    const Held output = device_.hold(Item::kQueryTile, tile * query_ * storage_);
    device_.touch(Item::kQueryTile, tile * model_.num_query_heads * 4);  // log-sum-exp
    after_attention();
  }

  int64_t token_tile() const { return std::min({choice_.token_tile, choice_.query_tile, tokens_}); }

  // With a normed input of held_bytes: one of the head projections of a token tile.
  void project(int heads, int64_t held_bytes) {
    const int64_t flat = token_tile() * heads * model_.head_dim * compute_;
    device_.touch(Item::kTokenTile, held_bytes + flat * (model_.query_key_norm ? 2 : 1));
  }

  // Returns the index; leaves keys and values of the whole sequence in `keys`.
  std::vector<Held> first_pass(const AttentionConfig& attention, bool with_index, std::vector<Held>& keys) {
    const int64_t local = tokens_ * key_ * storage_, index = tokens_ * model_.num_kv_heads * index_dims(attention);
    std::vector<Held> result, mine;
    mine.push_back(device_.hold(Item::kKeys, local));
    mine.push_back(device_.hold(Item::kKeys, local));
    if (with_index) result.push_back(device_.hold(Item::kKeys, index * compute_));
    const int64_t normed = token_tile() * hidden_ * compute_;
    project(model_.num_kv_heads, normed);
    if (with_index) {
      const int64_t tile_index = token_tile() * model_.num_kv_heads * index_dims(attention) * compute_;
      project(model_.num_query_heads, normed);
      device_.touch(Item::kTokenTile, normed + token_tile() * query_ * compute_ + tile_index);
      result.push_back(device_.hold(Item::kKeys, index * index_key_bytes(attention)));
    }
    if (!shares_sequence()) {
      keys = std::move(mine);
      return result;
    }
    for (int tensor = 0; tensor < 2; ++tensor) keys.push_back(gather_sequence(key_ / model_.num_kv_heads, storage_));
    return result;
  }

  // (kv heads, local tokens, dim) of every rank, and the buffer of a head that uneven shards take.
  Held gather_sequence(int64_t dim, int64_t element) {
    Held whole = device_.hold(Item::kKeys, model_.num_kv_heads * inputs_.tokens * dim * element);
    if (!even_shards()) device_.touch(Item::kExchange, 2 * tokens_ * inputs_.sequence_ranks * dim * element);
    return whole;
  }
  bool even_shards() const { return tokens_ * inputs_.sequence_ranks == inputs_.tokens; }

  void select(const AttentionConfig& attention) {
    if (inputs_.on_gpu) device_.enter("forward, search");
    const int64_t heads = model_.num_kv_heads, picks = heads * attention.picks * 4;
    std::vector<Held> whole_index;
    if (shares_sequence())
      for (const int64_t bytes : {int64_t{compute_}, index_key_bytes(attention)})
        whole_index.push_back(gather_sequence(index_dims(attention), bytes));
    // Picks of this rank's chunks, one by one and stacked; of all ranks; in order.
    const int64_t sequence_tokens = inputs_.tokens;
    const Held own = device_.hold(Item::kSearch, picks * (shares_sequence() ? tokens_ : sequence_tokens));
    if (inputs_.on_gpu) device_.touch(Item::kSearch, tree_bytes(attention));
    if (shares_sequence()) {
      device_.touch(Item::kSearch, picks * tokens_);
      device_.touch(Item::kSearch, 3 * picks * tokens_ * inputs_.sequence_ranks);
    }
    whole_index.clear();
    const Held all = device_.hold(Item::kSearch, shares_sequence() ? picks * sequence_tokens : 0);
    const int64_t counts = heads * kernels::num_tiles(tokens_) * 8;
    const Held tile_counts = device_.hold(Item::kSearch, counts);
    lists_.push_back(device_.hold(Item::kLists, counts + heads * 8));
    lists_.push_back(device_.hold(Item::kLists, num_entries(attention) * 4));
  }

  // Boxes of the tree's levels (kernels/cuda/node_boxes.cu).
  int64_t tree_bytes(const AttentionConfig& attention) const {
    if (inputs_.tokens <= attention.scan_tokens) return 0;
    const int64_t blocks = ceil_div(inputs_.tokens, attention.block_size);
    const int top = kernels::tree_top_level(blocks, static_cast<int>(attention.top_nodes));
    int64_t nodes = 0;
    for (int level = 1; level <= top; ++level) nodes += kernels::num_whole_nodes(blocks, level);
    return nodes * model_.num_kv_heads * kernels::kBoxesPerNode * 2 * index_dims(attention) * compute_;
  }

  void after_attention() {
    const int64_t tile = token_tile();
    const Held input = device_.hold(Item::kTokenTile, tile * hidden_ * compute_);
    device_.touch(Item::kTokenTile, 3 * tile * inner_ * compute_);  // gate, up and their product
  }

  void layer_backward(const AttentionConfig& attention) {
    device_.enter("backward, first pass");
    std::vector<Held> keys;
    first_pass(attention, /*with_index=*/false, keys);
    std::vector<Held> d_keys;
    for (int tensor = 0; tensor < 2; ++tensor)
      d_keys.push_back(device_.hold(Item::kKeyGradients, inputs_.tokens * key_ * 4));
    backward_tile(attention);
    keys_backward();
  }

  void backward_tile(const AttentionConfig& attention) {
    const int64_t tile = std::min(choice_.query_tile, tokens_), queries = tile * query_ * storage_;
    std::vector<Held> held;
    for (int tensor = 0; tensor < 3; ++tensor)  // queries, outputs and the gradient of these
      held.push_back(device_.hold(Item::kQueryTile, queries));
    held.push_back(device_.hold(Item::kQueryTile, tile * model_.num_query_heads * 4));
    after_attention_backward();
    device_.enter("backward, attention");
    const Held d_query = device_.hold(Item::kQueryTile, queries);
    attention_backward(attention, tile);
    device_.enter("backward, queries");
    queries_backward();
  }

  void after_attention_backward() {
    device_.enter("backward, MLP");
    const int64_t tile = token_tile(), stream = tile * hidden_ * compute_, inner = tile * inner_ * compute_;
    std::vector<Held> held;
    for (int tensor = 0; tensor < 2; ++tensor)  // the stream between attention and MLP, and its norm
      held.push_back(device_.hold(Item::kTokenTile, stream));
    for (int tensor = 0; tensor < 3; ++tensor)  // gate, up, and the gradient of their product
      held.push_back(device_.hold(Item::kTokenTile, inner));
    device_.touch(Item::kTokenTile, inner);  // the product
    held.push_back(device_.hold(Item::kTokenTile, stream));
    device_.touch(Item::kTokenTile, std::max(tile * query_ * compute_, rms_norm_backward_bytes(hidden_)));
  }

  void attention_backward(const AttentionConfig& attention, int64_t tile) {
    if (!inputs_.on_gpu) return;
    const int64_t entries = num_entries(attention), heads = model_.num_kv_heads;
    const int64_t blocks = heads * (ceil_div(inputs_.tokens, attention.block_size) + 1);
    const Held inverted = device_.hold(Item::kSearch, blocks * 8);
    const Held inverted_entries = device_.hold(Item::kSearch, entries * 4);
    device_.touch(Item::kSearch, 3 * entries * 4 + sort_bytes(entries));
    const int64_t rows = tile * model_.num_query_heads * 8;
    const int64_t items = blocks + entries / 128;  // kernels/cuda/sparse_attention_backward_key.cu
    device_.touch(Item::kSearch, rows + 3 * blocks * 4 + items * 8);
  }

  void queries_backward() {
    const int64_t tile = token_tile(), stream = tile * hidden_ * compute_, heads = tile * query_ * compute_;
    device_.touch(Item::kTokenTile, 2 * stream + (model_.query_key_norm ? 2 * heads : 0));
  }

  void keys_backward() {
    device_.enter("backward, keys");
    std::vector<Held> local;
    if (shares_sequence())
      for (int tensor = 0; tensor < 2; ++tensor) {
        local.push_back(device_.hold(Item::kKeyGradients, tokens_ * key_ * 4));
        const int64_t head = tokens_ * model_.head_dim * 4;
        device_.touch(Item::kExchange, head + (even_shards() ? 0 : head * inputs_.sequence_ranks));
      }
    const int64_t tile = token_tile();
    device_.touch(Item::kTokenTile, 4 * tile * hidden_ * compute_ + tile * key_ * compute_);
  }

  // Partial sums of the weight's gradient, of at most two blocks a multiprocessor (kernels/cuda/rms_norm_backward.cu).
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

}  // namespace

int64_t PlanInputs::local_tokens() const {
  return SequenceShard(tokens, kernels::kQueryTile, 0, static_cast<int>(sequence_ranks)).size();
}

StateBytes state_bytes(const RunConfig& run, const MemoryChoice& choice) {
  const int64_t weight = run.precision == "bfloat16" ? 2 : 4, moment = run.optimizer.state_dtype == "bfloat16" ? 2 : 4;
  if (weight == 4 || !run.optimizer.master_weights) return {.master = 0, .weights = weight, .moments = 2 * moment};
  return {.master = 4, .weights = choice.offload_optimizer ? weight : 0, .moments = 2 * moment};
}

double mean_list_entries(const AttentionConfig& attention, const PlanInputs& inputs) {
  if (attention.type != "hip" || attention.picks == 0) return 0;
  const double wanted =
      inputs.list_entries > 0 ? inputs.list_entries : kEntriesAPick * static_cast<double>(attention.picks);
  // The last tile searches this many blocks, the tile in the middle half of them.
  const double most = static_cast<double>(inputs.tokens - attention.sink_tokens - attention.window) /
                      static_cast<double>(attention.block_size);
  if (most <= 0) return 0;
  return most <= wanted ? most / 2 : wanted - wanted * wanted / (2 * most);
}

ActivationStore::Plan store_plan(const ModelConfig& model, const MemoryChoice& choice) {
  return {.num_layers = model.num_layers, .interval = choice.interval, .host_inputs = choice.host_inputs};
}

void walk_step(const ModelConfig& model, const ParameterLayout& layout, const RunConfig& run, const PlanInputs& inputs,
               const MemoryChoice& choice, MemoryLedger& device, MemoryLedger& host) {
  StepWalk(model, layout, run, inputs, choice, device, host).run();
}

}  // namespace hiptrain
