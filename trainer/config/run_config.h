// The sections of a config file as plain values. trainer/config/config_reader.h reads and checks them;
// trainer/config/config_fields.cpp has the name, the limits and the help of every field.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace hiptrain {

// A number that is written `auto`: the memory plan decides it before the run, or the model's config.json.
inline constexpr int64_t kAuto = -1;

// A switch that may also be written `auto` (kUndecided).
enum class Choice { kUndecided, kNo, kYes };

// Returns the value, or nothing for `auto`.
inline std::optional<int64_t> unless_auto(int64_t value) {
  return value == kAuto ? std::nullopt : std::optional(value);
}
inline std::optional<bool> unless_auto(Choice choice) {
  return choice == Choice::kUndecided ? std::nullopt : std::optional(choice == Choice::kYes);
}

// The values of model.rope_scaling that are not a mapping.
inline constexpr const char* kModelsScaling = "auto";
inline constexpr const char* kNoScaling = "none";

// Where the weights come from.
enum class WeightSource { kPretrained, kRandom };

struct ModelSection {
  std::string path;  // Hugging Face folder; for random weights a config.json is enough
  WeightSource init = WeightSource::kPretrained;
  // In place of what config.json says; trainer/model/model_settings.h.
  double rope_theta = kAuto;
  std::string rope_scaling = kModelsScaling;  // auto | none | a mapping with Hugging Face's names, as JSON
  int64_t max_position_embeddings = kAuto;
};

// Whether documents are isolated from each other or form one text.
enum class DocumentPacking { kDocuments, kStream };

struct DataSection {
  std::vector<std::string> path;  // prefixes of .bin/.idx pairs
  int64_t sequence_length = 8192;
  DocumentPacking packing = DocumentPacking::kDocuments;
  bool shuffle = true;
};

enum class AttentionType { kHip, kDense };

// How a hip layer selects blocks: every token picks its own, or a tile has one list, as in the paper. With its own tile
// in the list a token sees the future, which is for evaluation only.
enum class Selection { kPicks, kPublished, kPublishedOwnTile };

// The keys that a layer attends to.
enum class LayerKind {
  kDense,
  kWindow,    // sinks and window only
  kPicks,     // these and the blocks that tokens pick
  kPublished  // these and the blocks of the tile's list
};

// The queries that a KV head's search scores keys with: those of each query head of its group, the best of which
// counts, or their mean.
enum class IndexHeads { kEach, kMean };

// The type of index keys: automatic is float8 where layers compute in bfloat16, else compute, which is the layers'
// type.
enum class IndexType { kAutomatic, kCompute, kFloat8 };

// Attention of one layer.
struct AttentionConfig {
  AttentionType type = AttentionType::kHip;
  Selection selection = Selection::kPicks;
  int64_t window = 1024;
  int64_t sink_tokens = 64;
  int64_t block_size = 64;  // 16 | 32 | 64 | 128
  int64_t picks = 2;        // blocks that every token picks; 0: sinks and window only
  IndexHeads index_heads = IndexHeads::kEach;
  int64_t index_dims = 32;              // how many dims enter the score, from the lowest-frequency pairs
  std::vector<int64_t> index_dim_list;  // an explicit list instead (written index_dims: [..])
  IndexType index_dtype = IndexType::kAutomatic;
  int64_t scan_tokens = kAuto;  // up to this much context every key is scored; beyond, the tree
  int64_t beam = 8;             // tree: nodes that a token keeps at each level; published: nodes of a tile
  int64_t top_nodes = 16384;    // tree: most blocks at the top level, or a quarter as many nodes above
  int64_t max_blocks = 0;       // cap of a tile's list; 0: none
  int64_t blocks = 16;          // published: blocks of a tile's list
  int64_t query_stride = 8;     // published: every n-th query selects
  double scale = 0;             // 0: 1 / sqrt(head_dim)
  bool deterministic = false;   // dense layers on a GPU by our kernels: cuDNN's gradients are not

  bool operator==(const AttentionConfig&) const = default;
  LayerKind kind() const {
    if (type == AttentionType::kDense) return LayerKind::kDense;
    if (selection != Selection::kPicks) return LayerKind::kPublished;
    return picks > 0 ? LayerKind::kPicks : LayerKind::kWindow;
  }
  // Whether the layer searches for blocks.
  bool searches() const { return kind() == LayerKind::kPicks || kind() == LayerKind::kPublished; }
  // Index queries of a token and KV head.
  int64_t num_index_heads(int64_t group_size) const { return index_heads == IndexHeads::kEach ? group_size : 1; }
  // Whether index keys are float8. in_bfloat16: whether the layers compute in bfloat16.
  bool indexes_in_float8(bool in_bfloat16) const {
    return index_dtype == IndexType::kFloat8 || (index_dtype == IndexType::kAutomatic && in_bfloat16);
  }
  // scan_tokens, where it is auto the length up to which the scan is faster than the tree (kernels/TUNING.md).
  int64_t scanned_tokens(bool in_float8) const {
    return scan_tokens != kAuto ? scan_tokens : in_float8 ? 131072 : 65536;
  }
};

struct LayerAttention {
  std::vector<int64_t> layers;  // the layers that these settings are for
  AttentionConfig attention;    // attention.* with the overrides applied
};

enum class LearningRateSchedule { kConstant, kLinear, kCosine };

// The type of the optimizer's moments.
enum class StateType { kFloat32, kBfloat16 };

struct OptimizerSection {
  double learning_rate = 1e-5;
  double weight_decay = 0.1;
  bool decay_norms_and_biases = false;
  double adam_beta1 = 0.9, adam_beta2 = 0.95, adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;  // 0: no clipping
  LearningRateSchedule lr_scheduler_type = LearningRateSchedule::kCosine;
  int64_t warmup_steps = 0;
  double min_lr_ratio = 0.1;  // of learning_rate, at the end
  StateType state_dtype = StateType::kFloat32;
  bool master_weights = true;  // float32 weights behind the bfloat16 ones; false: these are the only ones
};

// Whether the step during which a signal arrives is finished or abandoned.
enum class OnSignal { kFinishStep, kAbandonStep };

struct TrainSection {
  int64_t max_steps = 0;  // 0: as many as num_epochs gives
  double num_epochs = 1;
  int64_t gradient_accumulation_steps = 1;
  int64_t max_skipped_steps = 3;  // non-finite steps in a row that end the run
  OnSignal on_signal = OnSignal::kFinishStep;
  bool deterministic = false;  // the same bits whatever memory, recompute and offload are
};

enum class ExchangeChoice { kAutomatic, kAllGather, kAllToAll };

struct ParallelSection {
  int64_t sequence = 0;  // ranks that share a sequence; 0: all
  ExchangeChoice exchange = ExchangeChoice::kAutomatic;
  int64_t exchange_heads = 0;     // KV heads exchanged at a time; 0: by bytes
  int64_t timeout_seconds = 600;  // of one collective, where no step's length is known
};

struct MemorySection {
  int64_t gpu = kAuto, host = kAuto;  // bytes that a rank may take; auto: what the machine has
  int64_t query_tile = kAuto;         // tokens whose queries, outputs and their gradients exist at a time
  int64_t token_tile = kAuto;         // tokens whose MLP activations exist at a time
  int64_t loss_tile = kAuto;          // tokens whose logits exist at a time
};

// Tokens of the usual tiles, which are those of every deterministic run: sums over tiles of another size, and products
// of another number of rows, differ in the last bits.
inline constexpr int64_t kUsualQueryTile = 65536, kUsualTokenTile = 4096, kUsualLossTile = 1024;

struct RecomputeSection {
  int64_t interval = kAuto;                // every n-th layer's input is kept
  int64_t last_layers = kAuto;             // the inputs of so many last layers are all kept
  Choice from_start = Choice::kUndecided;  // the inputs between are made one at a time, each from the kept one
};

// The parts that lie in host memory instead of GPU memory.
struct OffloadSection {
  int64_t layer_inputs = kAuto;           // how many of the kept ones
  Choice optimizer = Choice::kUndecided;  // master weights and moments
  Choice gradients = Choice::kUndecided;  // between their computation and the update
  Choice weights = Choice::kUndecided;    // that layers are computed with
};

struct CheckpointSection {
  int64_t every = 0;            // steps; 0: at the end only
  int64_t keep = 2;             // newest checkpoints kept; 0: all
  std::string resume = "auto";  // auto | none | a checkpoint folder
};

struct EvaluationSection {
  std::vector<std::string> path;  // token files; empty: no evaluation while training
  int64_t every = 0;              // steps; 0: at the end only
  int64_t sequences = 0;          // 0: all of one epoch
};

struct MetricsSection {
  int64_t recall_every = 20;  // steps, from the first on; 0: never
  int64_t recall_tiles = 4;   // query tiles of a sequence and layer
};

// The type that weights and activations are stored in.
enum class Precision { kBfloat16, kFloat32 };

enum class DeviceChoice { kAutomatic, kCuda, kCpu };

struct RunConfig {
  std::string output_dir = "runs/default";
  uint64_t seed = 0;
  Precision precision = Precision::kBfloat16;
  DeviceChoice device = DeviceChoice::kAutomatic;
  ModelSection model;
  DataSection data;
  AttentionConfig attention;
  std::vector<LayerAttention> attention_layers;
  OptimizerSection optimizer;
  TrainSection train;
  ParallelSection parallel;
  MemorySection memory;
  RecomputeSection recompute;
  OffloadSection offload;
  CheckpointSection checkpoint;
  EvaluationSection evaluation;
  MetricsSection metrics;

  const AttentionConfig& attention_of(int64_t layer) const {
    for (const LayerAttention& entry : attention_layers)
      for (int64_t one : entry.layers)
        if (one == layer) return entry.attention;
    return attention;
  }
};

}  // namespace hiptrain
