// What a run is: the sections of a config file, as plain values. How they are read and checked:
// trainer/config_reader.h; names, defaults and help of every field: trainer/config_fields.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hiptrain {

struct ModelSection {
  std::string path;                 // Hugging Face folder; for init random a config.json is enough
  std::string init = "pretrained";  // pretrained | random
};

struct DataSection {
  std::vector<std::string> path;  // prefixes of .bin/.idx pairs
  int64_t sequence_length = 8192;
  std::string packing = "documents";  // documents | stream
  bool shuffle = true;
};

// Attention of one layer.
struct AttentionConfig {
  std::string type = "hip";         // hip | dense
  std::string selection = "picks";  // picks | published | published_own_tile (evaluation only)
  int64_t window = 1024;
  int64_t sink_tokens = 64;
  int64_t block_size = 64;              // 16 | 32 | 64 | 128
  int64_t picks = 2;                    // blocks that every token picks; 0: sinks and window only
  int64_t index_dims = 32;              // how many dims enter the score, from the lowest-frequency pairs
  std::vector<int64_t> index_dim_list;  // an explicit list instead (written index_dims: [..])
  std::string index_dtype = "compute";  // of index keys: compute (the layers' type) | float8_e4m3
  int64_t scan_tokens = 1048576;        // up to this much context every key is scored; beyond, the tree
  int64_t beam = 8;                     // tree: nodes that a token keeps at each level; published: nodes of a tile
  int64_t top_nodes = 128;              // tree: bound of the top level
  int64_t max_blocks = 0;               // cap of a tile's list; 0: none
  int64_t blocks = 16;                  // published: blocks of a tile's list
  int64_t query_stride = 8;             // published: every n-th query selects
  double scale = 0;                     // 0: 1 / sqrt(head_dim)
};

struct LayerAttention {
  std::vector<int64_t> layers;  // the layers that these settings are for
  AttentionConfig attention;    // attention.* with the overrides applied
};

struct OptimizerSection {
  double learning_rate = 1e-5;
  double weight_decay = 0.1;
  bool decay_norms_and_biases = false;
  double adam_beta1 = 0.9, adam_beta2 = 0.95, adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;                // 0: no clipping
  std::string lr_scheduler_type = "cosine";  // constant | linear | cosine
  int64_t warmup_steps = 0;
  double min_lr_ratio = 0.1;      // of learning_rate, at the end
  std::string state = "float32";  // of master weights and moments: float32 | bfloat16
};

struct TrainSection {
  int64_t max_steps = 0;  // 0: as many as num_epochs gives
  double num_epochs = 1;
  int64_t gradient_accumulation_steps = 1;
  int64_t max_skipped_steps = 3;  // non-finite steps in a row that end the run
};

struct ParallelSection {
  int64_t sequence = 0;           // ranks that share a sequence; 0: all
  int64_t timeout_seconds = 600;  // of one collective
};

struct MemorySection {
  int64_t query_tile = 65536;      // tokens whose queries, outputs and their gradients exist at a time
  int64_t token_tile = 4096;       // tokens whose MLP activations exist at a time
  int64_t loss_tile = 1024;        // tokens whose logits exist at a time
  int64_t recompute_interval = 1;  // every n-th layer's input is kept
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

struct RunConfig {
  std::string output_dir = "runs/default";
  uint64_t seed = 0;
  std::string precision = "bfloat16";  // bfloat16 | float32
  std::string device = "auto";         // auto | cuda | cpu
  ModelSection model;
  DataSection data;
  AttentionConfig attention;
  std::vector<LayerAttention> attention_layers;
  OptimizerSection optimizer;
  TrainSection train;
  ParallelSection parallel;
  MemorySection memory;
  CheckpointSection checkpoint;
  EvaluationSection evaluation;

  const AttentionConfig& attention_of(int64_t layer) const {
    for (const LayerAttention& entry : attention_layers)
      for (int64_t one : entry.layers)
        if (one == layer) return entry.attention;
    return attention;
  }
};

}  // namespace hiptrain
