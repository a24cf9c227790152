#include "trainer/config/config_fields.h"

#include <algorithm>
#include <type_traits>

namespace hiptrain {
namespace {

constexpr double kMostEpochs = 1e6;            // so that a count of steps is an integer of 64 bits
constexpr double kMostPositions = 2147483647;  // as in a config.json: below 2^31

FieldLimits at_least(double minimum) { return {.minimum = minimum}; }
FieldLimits between(double minimum, double maximum) { return {.minimum = minimum, .maximum = maximum}; }
FieldLimits above(double minimum) { return {.minimum = minimum, .minimum_excluded = true}; }
FieldLimits fraction_below_one() { return {.minimum = 0, .maximum = 1, .maximum_excluded = true}; }
FieldLimits multiples(int64_t unit) { return {.minimum = static_cast<double>(unit), .multiple_of = unit}; }
FieldLimits one_of(std::vector<std::string> choices) { return {.choices = std::move(choices)}; }

// slot<&RunConfig::seed>, slot<&RunConfig::optimizer, &OptimizerSection::learning_rate>
template <auto Member>
FieldSlot slot(RunConfig& config) {
  return &(config.*Member);
}
template <auto Section, auto Member>
FieldSlot slot(RunConfig& config) {
  return &(config.*Section.*Member);
}

template <auto Section, auto Member>
FieldSlot auto_count(RunConfig& config) {
  return AutoCount{&(config.*Section.*Member)};
}
template <auto Section, auto Member>
FieldSlot auto_bytes(RunConfig& config) {
  return AutoBytes{&(config.*Section.*Member)};
}

template <auto Member>
FieldSlot enumeration(RunConfig& config) {
  using Value = std::remove_reference_t<decltype(config.*Member)>;
  return EnumerationSlot{.config = &config,
                         .get = [](const RunConfig& from) { return static_cast<size_t>(from.*Member); },
                         .set = [](RunConfig& to, size_t value) { to.*Member = static_cast<Value>(value); }};
}
template <auto Section, auto Member>
FieldSlot enumeration(RunConfig& config) {
  using Value = std::remove_reference_t<decltype(config.*Section.*Member)>;
  return EnumerationSlot{.config = &config,
                         .get = [](const RunConfig& from) { return static_cast<size_t>(from.*Section.*Member); },
                         .set = [](RunConfig& to, size_t value) { to.*Section.*Member = static_cast<Value>(value); }};
}

std::vector<ConfigField> top_level_fields() {
  return {
      {"output_dir",
       slot<&RunConfig::output_dir>,
       {},
       "folder of the run: metrics.jsonl, checkpoints, resolved config"},
      {"seed", slot<&RunConfig::seed>, {}, "of random weights and of the order of the data"},
      {"precision", enumeration<&RunConfig::precision>, one_of({"bfloat16", "float32"}),
       "of weights and activations as stored; master weights, sums and products on the CPU are float32"},
      {"device", enumeration<&RunConfig::device>, one_of({"auto", "cuda", "cpu"}),
       "auto: a GPU where the host has one that the kernels run on, else the CPU"},
  };
}

std::vector<ConfigField> model_fields() {
  return {
      {"model.path",
       slot<&RunConfig::model, &ModelSection::path>,
       {},
       "Hugging Face folder; for init random its config.json is enough"},
      {"model.init", enumeration<&RunConfig::model, &ModelSection::init>, one_of({"pretrained", "random"}),
       "where the weights come from"},
      {"model.rope_theta", [](RunConfig& config) -> FieldSlot { return AutoNumber{&config.model.rope_theta}; },
       above(0), "base of the rotary frequencies, for a longer context; auto: what the model's config.json says"},
      {"model.rope_scaling",
       [](RunConfig& config) -> FieldSlot { return RopeScaling{&config.model.rope_scaling}; },
       {},
       "scaling of the rotary frequencies with Hugging Face's names, as {rope_type: yarn, factor: 4.0}; rope_type: "
       "default, linear, dynamic, llama3, yarn or longrope; original_max_position_embeddings is the model's own where "
       "it is not given; none or null: no scaling; auto: what config.json says"},
      {"model.max_position_embeddings", auto_count<&RunConfig::model, &ModelSection::max_position_embeddings>,
       between(1, kMostPositions),
       "longest context that the model is for: dynamic scaling begins beyond it, the exported config.json says it; "
       "auto: what config.json says"},
  };
}

std::vector<ConfigField> data_fields() {
  return {
      {"data.path",
       slot<&RunConfig::data, &DataSection::path>,
       {},
       "token files: prefixes of .bin/.idx pairs, one or a list"},
      {"data.sequence_length", slot<&RunConfig::data, &DataSection::sequence_length>, at_least(2),
       "tokens of a sequence, over all ranks"},
      {"data.packing", enumeration<&RunConfig::data, &DataSection::packing>, one_of({"documents", "stream"}),
       "documents: each is isolated; stream: all are one text"},
      {"data.shuffle",
       slot<&RunConfig::data, &DataSection::shuffle>,
       {},
       "a new order every epoch; false: the order of the files"},
  };
}

std::vector<ConfigField> attention_fields() {
  return {
      {"attention.type", enumeration<&RunConfig::attention, &AttentionConfig::type>, one_of({"hip", "dense"}),
       "hip: sinks, window and picked blocks; dense: all earlier tokens"},
      {"attention.selection", enumeration<&RunConfig::attention, &AttentionConfig::selection>,
       one_of({"picks", "published", "published_own_tile"}),
       "picks: every token picks; published: one list a tile, of the paper, for comparison (slow: on the CPU); "
       "published_own_tile sees the future: for evaluation only"},
      {"attention.window", slot<&RunConfig::attention, &AttentionConfig::window>, at_least(1),
       "latest tokens that are always attended"},
      {"attention.sink_tokens", slot<&RunConfig::attention, &AttentionConfig::sink_tokens>, at_least(0),
       "first tokens of a document that are always attended; a multiple of attention.block_size"},
      {"attention.block_size", slot<&RunConfig::attention, &AttentionConfig::block_size>,
       one_of({"16", "32", "64", "128"}), "keys that are picked together"},
      {"attention.picks", slot<&RunConfig::attention, &AttentionConfig::picks>, between(0, 64),
       "blocks that every token picks; 0: sinks and window only"},
      {"attention.index_heads", enumeration<&RunConfig::attention, &AttentionConfig::index_heads>,
       one_of({"each", "mean"}),
       "each: a block's score is that of the best query head of a KV head's group; mean: that of their mean, a "
       "fraction "
       "of the search's work, which misses what one head looks for"},
      {"attention.index_dims",
       [](RunConfig& config) -> FieldSlot {
         return CountOrList{&config.attention.index_dims, &config.attention.index_dim_list};
       },
       {.minimum = 2, .multiple_of = 2},
       "dims of a head that enter the score: how many (at most all), from the pairs that rotate slowest, or a list"},
      {"attention.index_dtype", enumeration<&RunConfig::attention, &AttentionConfig::index_dtype>,
       one_of({"auto", "compute", "float8_e4m3"}),
       "type of the searched keys; compute: the type that layers compute in; auto: float8_e4m3 where layers "
       "compute in bfloat16, else compute"},
      {"attention.scan_tokens", auto_count<&RunConfig::attention, &AttentionConfig::scan_tokens>, at_least(0),
       "up to this much context every key is scored; beyond, a tree is searched; 0: the tree at every length; auto: "
       "131072 where keys are searched in float8, else 65536"},
      {"attention.beam", slot<&RunConfig::attention, &AttentionConfig::beam>, between(1, 65536),
       "nodes that a token keeps at each level of the tree, on a GPU at most 16; published: that a tile keeps"},
      {"attention.top_nodes", slot<&RunConfig::attention, &AttentionConfig::top_nodes>, between(1, 65536),
       "most blocks at the tree's top level, all of which are scored, or a quarter as many nodes of 16, 256, ... "
       "blocks; 16384 blocks of 64 are 1048576 tokens"},
      {"attention.max_blocks", slot<&RunConfig::attention, &AttentionConfig::max_blocks>, at_least(0),
       "most blocks of a tile's list, what is dropped is counted; 0: no cap"},
      {"attention.blocks", slot<&RunConfig::attention, &AttentionConfig::blocks>, between(1, 65536),
       "published: blocks of a tile's list"},
      {"attention.query_stride", slot<&RunConfig::attention, &AttentionConfig::query_stride>, between(1, 64),
       "published: every n-th query of a tile selects"},
      {"attention.scale", slot<&RunConfig::attention, &AttentionConfig::scale>, at_least(0),
       "of the scores; 0: 1 / sqrt(head_dim)"},
      {"attention.deterministic",
       slot<&RunConfig::attention, &AttentionConfig::deterministic>,
       {},
       "dense layers on a GPU by our own kernels: the last bits of cuDNN's gradients differ from run to run"},
      {"attention.layers",
       slot<&RunConfig::attention_layers>,
       {},
       "settings for some layers, e.g. [{layers: \"0-3,7\", type: dense}]; later entries win"},
  };
}

std::vector<ConfigField> optimizer_fields() {
  return {
      {"optimizer.learning_rate", slot<&RunConfig::optimizer, &OptimizerSection::learning_rate>, at_least(0),
       "of AdamW, after warm-up"},
      {"optimizer.weight_decay", slot<&RunConfig::optimizer, &OptimizerSection::weight_decay>, at_least(0),
       "decoupled, of AdamW"},
      {"optimizer.decay_norms_and_biases",
       slot<&RunConfig::optimizer, &OptimizerSection::decay_norms_and_biases>,
       {},
       "whether weight decay acts on them too"},
      {"optimizer.adam_beta1", slot<&RunConfig::optimizer, &OptimizerSection::adam_beta1>, fraction_below_one(),
       "decay of the first moment"},
      {"optimizer.adam_beta2", slot<&RunConfig::optimizer, &OptimizerSection::adam_beta2>, fraction_below_one(),
       "decay of the second moment"},
      {"optimizer.adam_epsilon", slot<&RunConfig::optimizer, &OptimizerSection::adam_epsilon>, above(0),
       "added to the root of the second moment"},
      {"optimizer.max_grad_norm", slot<&RunConfig::optimizer, &OptimizerSection::max_grad_norm>, at_least(0),
       "longer gradients are scaled down to this norm; 0: no clipping"},
      {"optimizer.lr_scheduler_type", enumeration<&RunConfig::optimizer, &OptimizerSection::lr_scheduler_type>,
       one_of({"constant", "linear", "cosine"}), "of the learning rate after warm-up"},
      {"optimizer.warmup_steps", slot<&RunConfig::optimizer, &OptimizerSection::warmup_steps>, at_least(0),
       "steps of linear warm-up"},
      {"optimizer.min_lr_ratio", slot<&RunConfig::optimizer, &OptimizerSection::min_lr_ratio>, between(0, 1),
       "of optimizer.learning_rate, where linear and cosine end"},
      {"optimizer.state_dtype", enumeration<&RunConfig::optimizer, &OptimizerSection::state_dtype>,
       one_of({"float32", "bfloat16"}), "what the moments are kept in; bfloat16: rounded stochastically"},
      {"optimizer.master_weights",
       slot<&RunConfig::optimizer, &OptimizerSection::master_weights>,
       {},
       "float32 weights behind those of precision: bfloat16; false: these are the only ones, updated with stochastic "
       "rounding"},
  };
}

std::vector<ConfigField> train_fields() {
  return {
      {"train.max_steps", slot<&RunConfig::train, &TrainSection::max_steps>, at_least(0),
       "optimizer steps; 0: as many as num_epochs gives"},
      {"train.num_epochs",
       slot<&RunConfig::train, &TrainSection::num_epochs>,
       {.minimum = 0, .maximum = kMostEpochs, .minimum_excluded = true},
       "passes over the data, where max_steps is 0"},
      {"train.gradient_accumulation_steps", slot<&RunConfig::train, &TrainSection::gradient_accumulation_steps>,
       between(1, 65536), "sequences that every data rank adds up for a step"},
      {"train.max_skipped_steps", slot<&RunConfig::train, &TrainSection::max_skipped_steps>, at_least(1),
       "steps in a row with a loss or gradient that is not finite, which end the run"},
      {"train.on_signal", enumeration<&RunConfig::train, &TrainSection::on_signal>,
       one_of({"finish_step", "abandon_step"}),
       "what SIGTERM, SIGINT and SIGUSR1 do before saving: finish_step; or abandon_step: within a layer, as of the "
       "step "
       "before"},
      {"train.deterministic",
       slot<&RunConfig::train, &TrainSection::deterministic>,
       {},
       "on the same number of ranks the same bits in every run, whatever memory, recompute and offload are: tiles are "
       "of " +
           std::to_string(kUsualQueryTile) + " (queries), " + std::to_string(kUsualTokenTile) + " (MLP) and " +
           std::to_string(kUsualLossTile) +
           " (loss) tokens, larger ones are taken in such pieces; sets attention.deterministic in all layers"},
  };
}

std::vector<ConfigField> machine_fields() {
  return {
      {"parallel.sequence", slot<&RunConfig::parallel, &ParallelSection::sequence>, between(0, 1048576),
       "ranks that share a sequence, a divisor of the number of ranks; 0: all"},
      {"parallel.exchange", enumeration<&RunConfig::parallel, &ParallelSection::exchange>,
       one_of({"auto", "allgather", "alltoall"}),
       "allgather: every rank has all keys and values; alltoall: all tokens of some KV heads, which the ranks of a "
       "sequence must divide"},
      {"parallel.exchange_heads", slot<&RunConfig::parallel, &ParallelSection::exchange_heads>, between(0, 65536),
       "KV heads whose keys and values are exchanged at a time, beside the attention of those before; 0: 256 MiB of "
       "them"},
      {"parallel.timeout_seconds", slot<&RunConfig::parallel, &ParallelSection::timeout_seconds>, between(1, 31536000),
       "a collective that takes longer ends the run; within a step, 60 s more than the longest so far"},
  };
}

std::vector<ConfigField> memory_fields() {
  return {
      {"memory.gpu", auto_bytes<&RunConfig::memory, &MemorySection::gpu>, at_least(1),
       "GPU memory that a rank may take; auto: what is free at the start"},
      {"memory.host", auto_bytes<&RunConfig::memory, &MemorySection::host>, at_least(0),
       "host memory that a rank may take; auto: its part of what the machine and its limits leave"},
      {"memory.query_tile", auto_count<&RunConfig::memory, &MemorySection::query_tile>, multiples(64),
       "tokens whose queries, attention outputs and their gradients exist at a time"},
      {"memory.token_tile", auto_count<&RunConfig::memory, &MemorySection::token_tile>, at_least(1),
       "tokens whose norm outputs and MLP activations exist at a time"},
      {"memory.loss_tile", auto_count<&RunConfig::memory, &MemorySection::loss_tile>, at_least(1),
       "tokens whose logits exist at a time"},
      {"recompute.interval", auto_count<&RunConfig::recompute, &RecomputeSection::interval>, at_least(1),
       "every n-th layer's input is kept, counted from the last; the layers between run again in backward"},
      {"recompute.last_layers", auto_count<&RunConfig::recompute, &RecomputeSection::last_layers>, at_least(0),
       "the inputs of so many last layers are all kept; auto: of interval of them, with from_start of none, and where "
       "interval is auto too, of as many as there is room for"},
      {"recompute.from_start",
       slot<&RunConfig::recompute, &RecomputeSection::from_start>,
       {},
       "the inputs between are made one at a time, each from the kept one: two of them on the device instead of "
       "interval, or one if all kept ones are in host memory, for about interval / 2 forward passes"},
      {"offload.layer_inputs", auto_count<&RunConfig::offload, &OffloadSection::layer_inputs>, at_least(0),
       "how many of the kept inputs lie in host memory; the first layers' first"},
      {"offload.optimizer",
       slot<&RunConfig::offload, &OffloadSection::optimizer>,
       {},
       "moments, and master weights beside those that are computed with, in host memory; they pass through the device "
       "beside the next step's forward pass"},
      {"offload.gradients",
       slot<&RunConfig::offload, &OffloadSection::gradients>,
       {},
       "gradients in host memory from when a layer's are complete to the update"},
      {"offload.weights",
       slot<&RunConfig::offload, &OffloadSection::weights>,
       {},
       "the weights that layers are computed with in host memory, copied in one layer ahead"},
  };
}

std::vector<ConfigField> checkpoint_and_report_fields() {
  return {
      {"checkpoint.every", slot<&RunConfig::checkpoint, &CheckpointSection::every>, at_least(0),
       "steps; 0: at the end only"},
      {"checkpoint.keep", slot<&RunConfig::checkpoint, &CheckpointSection::keep>, at_least(0),
       "newest checkpoints that are kept; 0: all"},
      {"checkpoint.resume",
       slot<&RunConfig::checkpoint, &CheckpointSection::resume>,
       {},
       "auto: from the newest checkpoint if there is one; none; or a checkpoint folder"},
      {"evaluation.path",
       slot<&RunConfig::evaluation, &EvaluationSection::path>,
       {},
       "token files that are held out, one or a list; empty: no evaluation while training"},
      {"evaluation.every", slot<&RunConfig::evaluation, &EvaluationSection::every>, at_least(0),
       "steps; 0: at the end only"},
      {"evaluation.sequences", slot<&RunConfig::evaluation, &EvaluationSection::sequences>, at_least(0),
       "sequences of an evaluation; 0: all"},
      {"metrics.recall_every", slot<&RunConfig::metrics, &MetricsSection::recall_every>, at_least(0),
       "steps, from the first on, between measurements of how much of exact attention the picked blocks cover; 0: "
       "none, "
       "and none by evaluate"},
      {"metrics.recall_tiles", slot<&RunConfig::metrics, &MetricsSection::recall_tiles>, between(1, 65536),
       "query tiles of 64 tokens that are measured in every sequence and layer"},
  };
}

std::vector<ConfigField> all_fields() {
  std::vector<ConfigField> fields;
  for (const auto& part : {top_level_fields(), model_fields(), data_fields(), attention_fields(), optimizer_fields(),
                           train_fields(), machine_fields(), memory_fields(), checkpoint_and_report_fields()})
    fields.insert(fields.end(), part.begin(), part.end());
  return fields;
}

}  // namespace

std::string ConfigField::section() const {
  const size_t dot = name.find('.');
  return dot == std::string::npos ? "" : name.substr(0, dot);
}

std::string ConfigField::key() const {
  const size_t dot = name.find('.');
  return dot == std::string::npos ? name : name.substr(dot + 1);
}

std::span<const ConfigField> config_fields() {
  static const std::vector<ConfigField> fields = all_fields();
  return fields;
}

const ConfigField* find_field(std::string_view name) {
  for (const ConfigField& field : config_fields())
    if (field.name == name) return &field;
  return nullptr;
}

std::vector<std::string> config_sections() {
  std::vector<std::string> sections;
  for (const ConfigField& field : config_fields())
    if (!field.section().empty() && (sections.empty() || sections.back() != field.section()))
      sections.push_back(field.section());
  return sections;
}

}  // namespace hiptrain
