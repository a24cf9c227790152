#include "trainer/commands/bench_attention_command.h"

#include <ATen/Context.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <optional>
#include <random>
#include <set>

#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"
#include "trainer/attention/hip_attention.h"
#include "trainer/commands/attention_inputs.h"
#include "trainer/commands/bench_report.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_fields.h"
#include "trainer/config/config_reader.h"
#include "trainer/config/config_text.h"
#include "trainer/device/device.h"
#include "trainer/formats/report_text.h"
#include "trainer/model/model_checks.h"
#include "trainer/ops/block_lists.h"

namespace hiptrain {
namespace {

constexpr double kForwardFlops = 4, kBackwardFlops = 10;  // for each dim of a (query, key) pair and head

// Blocks of one tile: half of them near (distances spread evenly over orders of magnitude), a quarter anywhere, a
// quarter from `shared`, which many tiles attend to.
std::set<int64_t> draw_blocks(const kernels::TileRanges& ranges, int64_t count, const std::vector<int64_t>& shared,
                              std::mt19937_64& generator) {
  const int64_t searched = ranges.num_searched();
  std::uniform_real_distribution<double> uniform(0, 1);
  std::set<int64_t> blocks;
  if (searched <= count)
    for (int64_t i = 0; i < searched; ++i) blocks.insert(ranges.sink_end + i);
  while (static_cast<int64_t>(blocks.size()) < std::min(count, searched)) {
    const double kind = uniform(generator), where = uniform(generator);
    const double distance =
        kind < 0.5 ? std::pow(static_cast<double>(searched), where) - 1 : where * static_cast<double>(searched);
    int64_t block = ranges.window_begin - 1 - std::min(static_cast<int64_t>(distance), searched - 1);
    if (kind > 0.75) block = shared[generator() % shared.size()];
    if (block >= ranges.sink_end && block < ranges.window_begin) blocks.insert(block);
  }
  return blocks;
}

// Lists of list_blocks blocks a tile, first rows 0.
BlockLists fixed_lists(const BenchAttentionCommand& command, const kernels::AttentionGeometry& host_geometry,
                       at::Device device) {
  const int64_t tiles = kernels::num_tiles(host_geometry.num_tokens);
  const int64_t num_blocks = host_geometry.num_tokens / host_geometry.block_size;
  std::mt19937_64 generator(1);
  std::vector<int32_t> entries;
  at::Tensor offsets = at::zeros({command.kv_heads, tiles + 1}, at::kLong);
  for (int64_t head = 0; head < command.kv_heads; ++head) {
    std::vector<int64_t> shared(command.list_blocks);
    for (int64_t& block : shared) block = static_cast<int64_t>(generator() % static_cast<uint64_t>(num_blocks));
    int64_t* offset = offsets[head].mutable_data_ptr<int64_t>();
    for (int64_t tile = 0; tile < tiles; ++tile) {
      *offset++ = static_cast<int64_t>(entries.size());
      for (const int64_t block :
           draw_blocks(kernels::tile_ranges(host_geometry, tile), command.list_blocks, shared, generator))
        entries.push_back(static_cast<int32_t>(kernels::make_list_entry(block, 0)));
    }
    *offset = static_cast<int64_t>(entries.size());
  }
  at::Tensor values = at::empty({static_cast<int64_t>(entries.size())}, at::kInt);
  std::copy(entries.begin(), entries.end(), values.mutable_data_ptr<int32_t>());
  return {.offsets = offsets.to(device), .entries = values.to(device)};
}

// (query, key) pairs of all query heads: those that are attended to, and those of whole blocks.
struct Pairs {
  double attended = 0, whole = 0;
};

Pairs count_pairs(const BenchAttentionCommand& command, const kernels::AttentionGeometry& host_geometry,
                  const BlockLists& lists) {
  Pairs local;  // of sinks and window, one head
  for (int64_t tile = 0; tile < kernels::num_tiles(host_geometry.num_tokens); ++tile) {
    const kernels::TileRanges ranges = kernels::tile_ranges(host_geometry, tile);
    const int64_t sink_keys = (ranges.sink_end - ranges.sink_begin) * host_geometry.block_size;
    const int64_t window_keys = (ranges.window_end - ranges.window_begin) * host_geometry.block_size;
    local.whole += static_cast<double>((sink_keys + window_keys) * kernels::kQueryTile);
    for (int64_t row = ranges.begin; row < ranges.end; ++row)
      local.attended +=
          static_cast<double>(std::min(row + 1, sink_keys) +
                              std::max<int64_t>(0, row + 1 - ranges.window_begin * host_geometry.block_size));
  }
  const double row_keys = static_cast<double>(host_geometry.block_size);
  const double entries = static_cast<double>(lists.entries.numel());
  const double hidden_rows =
      lists.entries.bitwise_and((1 << kernels::kFirstRowBits) - 1).sum(at::kDouble).item<double>();
  const double heads = static_cast<double>(command.query_heads);
  const double group = heads / static_cast<double>(command.kv_heads);
  return {.attended = heads * local.attended + group * row_keys * (kernels::kQueryTile * entries - hidden_rows),
          .whole = heads * local.whole + group * row_keys * kernels::kQueryTile * entries};
}

struct Measurement {
  std::string name;
  double seconds = 0;
  double flops = 0, whole_flops = 0;  // 0: not counted
  bool extrapolated = false;
};

// One layer's attention of a rank alone.
struct Layer {
  AttentionExchange& exchange;
  SequenceShard shard;
  HipAttention attention;
};

void time_attention(const std::string& name, const BenchAttentionCommand& command, const Layer& layer,
                    const kernels::AttentionGeometry& host_geometry, const AttentionInputs& inputs,
                    const BlockLists& lists, std::vector<Measurement>& results) {
  const at::Device device = inputs.query.device();
  const ExchangeKind kind = layer.attention.exchange_kind();
  const auto options = inputs.key.options();
  ExchangedKeys keys(layer.exchange, kind, command.kv_heads, command.head_dim, layer.shard, options);
  keys.own().key.copy_(inputs.key);
  keys.own().value.copy_(inputs.value);
  const QueryTile tile = QueryTile::of(layer.shard, layer.shard.capacity()).front();
  HipAttention::Pass pass;
  const double forward =
      seconds_of(device, command.repeats, [&] { pass = layer.attention.forward(inputs.query, keys, lists, tile); });
  // As in a layer: the gradients of keys and values start from zeros.
  const double backward = seconds_of(device, command.repeats, [&] {
    KeyGradients d_keys(layer.exchange, kind, command.kv_heads, command.head_dim, layer.shard, options);
    layer.attention.backward(pass, keys, lists, tile, inputs.d_output, d_keys);
  });
  const Pairs pairs = count_pairs(command, host_geometry, lists);
  const double dim = static_cast<double>(command.head_dim);
  const auto add = [&](const char* which, double seconds, double flops) {
    results.push_back({.name = name + ": " + which,
                       .seconds = seconds,
                       .flops = flops * dim * pairs.attended,
                       .whole_flops = flops * dim * pairs.whole});
  };
  add("forward", forward, kForwardFlops);
  add("backward", backward, kBackwardFlops);
}

// Returns the lists that the search found.
BlockLists time_search(const BenchAttentionCommand& command, const AttentionConfig& config, const Layer& layer,
                       const AttentionInputs& inputs, std::vector<Measurement>& results) {
  const at::Device device = inputs.query.device();
  const int head_dim = static_cast<int>(command.head_dim);
  const at::Tensor dims = index_dim_tensor(config, head_dim, head_dim, device);
  const at::ScalarType type = inputs.query.scalar_type();
  const at::ScalarType key_type = index_key_type(config, type);
  IndexKeys keys(layer.exchange, layer.attention.exchange_kind(), command.kv_heads, dims.size(0), layer.shard,
                 inputs.query.options().dtype(key_type));
  const IndexQuerySource source{.num_heads = config.num_index_heads(command.query_heads / command.kv_heads),
                                .type = type,
                                .write = [&](int64_t begin, at::Tensor out) {
                                  index_queries(inputs.query.narrow(0, begin, out.size(1)), dims, out);
                                }};
  Picks picks;
  BlockLists lists;
  const auto time = [&](const char* name, const std::function<void()>& work) {
    results.push_back(
        {.name = std::string("own search: ") + name, .seconds = seconds_of(device, command.repeats, work)});
  };
  time("index keys", [&] { keys.own().copy_(index_keys(inputs.key, dims, key_type)); });
  // With their index queries, of a query tile at a time that is as large as a plan makes it on a GPU.
  time("picks", [&] { picks = layer.attention.pick(keys, source, kSearchTile); });
  time("union", [&] { lists = layer.attention.unite(picks); });
  return lists;
}

// Forward and backward of dense causal attention by cuDNN.
std::pair<double, double> time_dense(const AttentionInputs& inputs, int64_t repeats) {
  const at::Device device = inputs.query.device();
  const int64_t tokens = inputs.query.size(0);
  const at::Tensor query = inputs.query.transpose(0, 1).contiguous().unsqueeze(0),
                   d_output = inputs.d_output.transpose(0, 1).contiguous().unsqueeze(0), key = inputs.key.unsqueeze(0),
                   value = inputs.value.unsqueeze(0);
  at::Tensor output, log_sum_exp, query_starts, key_starts, seed, offset;
  const double forward = seconds_of(device, repeats, [&] {
    auto result = at::_scaled_dot_product_cudnn_attention(query, key, value, /*attn_bias=*/std::nullopt,
                                                          /*compute_log_sumexp=*/true, /*dropout_p=*/0.0,
                                                          /*is_causal=*/true, /*return_debug_mask=*/false);
    output = std::get<0>(result);
    log_sum_exp = std::get<1>(result);
    query_starts = std::get<2>(result);
    key_starts = std::get<3>(result);
    seed = std::get<6>(result);
    offset = std::get<7>(result);
  });
  const double backward = seconds_of(device, repeats, [&] {
    at::_scaled_dot_product_cudnn_attention_backward(d_output, query, key, value, output, log_sum_exp, seed, offset,
                                                     /*attn_bias=*/at::Tensor(), query_starts, key_starts, tokens,
                                                     tokens, /*dropout_p=*/0.0, /*is_causal=*/true);
  });
  return {forward, backward};
}

// Rates of dense attention at the longest sequence that was timed.
struct DenseRates {
  double forward = 0, backward = 0;  // FLOP/s
};

void add_dense(const BenchAttentionCommand& command, const AttentionInputs& inputs, DenseRates& rates,
               std::vector<Measurement>& results) {
  const double tokens = static_cast<double>(inputs.query.size(0));
  const double pairs = tokens * (tokens + 1) / 2 * static_cast<double>(command.query_heads * command.head_dim);
  Measurement forward{.name = "dense cuDNN: forward", .flops = kForwardFlops * pairs};
  Measurement backward{.name = "dense cuDNN: backward", .flops = kBackwardFlops * pairs};
  // Each is run twice, and the second run is timed.
  const double expected = rates.forward > 0 ? 2 * (forward.flops / rates.forward + backward.flops / rates.backward) : 0;
  if (expected > command.dense_seconds) {
    forward.seconds = forward.flops / rates.forward;
    backward.seconds = backward.flops / rates.backward;
    forward.extrapolated = backward.extrapolated = true;
  } else {
    std::tie(forward.seconds, backward.seconds) = time_dense(inputs, expected > 1 ? 1 : command.repeats);
    rates = {.forward = forward.flops / forward.seconds, .backward = backward.flops / backward.seconds};
  }
  results.push_back(forward);
  results.push_back(backward);
}

double seconds_under(const std::vector<Measurement>& results, const std::string& prefix) {
  double seconds = 0;
  for (const Measurement& result : results)
    if (result.name.starts_with(prefix)) seconds += result.seconds;
  return seconds;
}

void print(const std::vector<Measurement>& results) {
  std::vector<std::vector<std::string>> rows{{"", "ms", "TFLOP/s", "of whole blocks"}};
  const auto rate = [](double flops, double seconds) {
    return flops > 0 ? decimal(1e-12 * flops / seconds, 0) : std::string();
  };
  for (const Measurement& result : results)
    rows.push_back({result.name + (result.extrapolated ? " (extrapolated)" : ""), decimal(1e3 * result.seconds, 2),
                    rate(result.flops, result.seconds), rate(result.whole_flops, result.seconds)});
  print_table(rows);
}

nlohmann::ordered_json json_of(const std::vector<Measurement>& results) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Measurement& result : results)
    list.push_back({{"name", result.name},
                    {"seconds", result.seconds},
                    {"flops", result.flops},
                    {"whole_block_flops", result.whole_flops},
                    {"extrapolated", result.extrapolated}});
  return list;
}

double mean_length(const BlockLists& lists) {
  return static_cast<double>(lists.entries.numel()) /
         static_cast<double>(lists.offsets.size(0) * (lists.offsets.size(1) - 1));
}

nlohmann::ordered_json bench_length(const BenchAttentionCommand& command, const AttentionConfig& config, int64_t tokens,
                                    const ProcessGrid& grid, at::Device device, DenseRates& rates) {
  reset_peak_memory(device);
  RunningCounts counts(device);
  const AttentionInputs inputs = random_attention_inputs(
      {.query_heads = command.query_heads, .kv_heads = command.kv_heads, .head_dim = command.head_dim}, tokens,
      at::kBFloat16, device);
  const ParallelSection parallel;
  AttentionExchange exchange(grid.sequence(), device, parallel);
  const SequenceShard shard(tokens, kernels::kQueryTile, 0, 1);
  const Layer layer{
      .exchange = exchange,
      .shard = shard,
      .attention = HipAttention(config, command.kv_heads, shard, inputs.document_starts, exchange, counts)};
  const int64_t first_document = 0;
  const kernels::AttentionGeometry host_geometry{.num_tokens = tokens,
                                                 .document_starts = &first_document,
                                                 .num_documents = 1,
                                                 .block_size = config.block_size,
                                                 .sink_tokens = config.sink_tokens,
                                                 .window = config.window};
  std::vector<Measurement> results;
  const BlockLists fixed = fixed_lists(command, host_geometry, device);
  time_attention("fixed lists", command, layer, host_geometry, inputs, fixed, results);
  const BlockLists found = time_search(command, config, layer, inputs, results);
  time_attention("own search", command, layer, host_geometry, inputs, found, results);
  const int64_t memory = peak_memory_bytes(device);
  if (command.dense_seconds > 0) add_dense(command, inputs, rates, results);

  const double own = seconds_under(results, "own search"), dense = seconds_under(results, "dense");
  std::cout << tokens << " tokens: lists of " << decimal(mean_length(fixed), 1) << " blocks a tile (fixed) and "
            << decimal(mean_length(found), 1) << " (own search), memory " << bytes_text(memory) << "\n";
  print(results);
  std::cout << "own search, a layer: " << decimal(1e3 * own, 1) << " ms";
  if (dense > 0)
    std::cout << ", dense: " << decimal(1e3 * dense, 1) << " ms, " << decimal(dense / own, 1) << " times as long";
  std::cout << "\n" << std::endl;
  return {{"tokens", tokens},
          {"mean_list_blocks", {{"fixed", mean_length(fixed)}, {"own", mean_length(found)}}},
          {"memory_peak_bytes", memory},
          {"measurements", json_of(results)}};
}

void check_shape(const BenchAttentionCommand& command) {
  if (command.query_heads % command.kv_heads != 0)
    throw std::invalid_argument("bench attention: " + std::to_string(command.query_heads) +
                                " query heads are no multiple of " + std::to_string(command.kv_heads) + " KV heads");
  for (const int64_t tokens : command.tokens)
    if (tokens % kernels::kQueryTile != 0)
      throw std::invalid_argument("bench attention: --tokens " + std::to_string(tokens) + " is no multiple of " +
                                  std::to_string(kernels::kQueryTile));
}

}  // namespace

int run_bench_attention(const BenchAttentionCommand& command, MpiRuntime& mpi) {
  check_shape(command);
  if (mpi.size() > 1) throw std::invalid_argument("bench attention: runs on one rank");
  const RunConfig config = read_run_config({}, command.overrides, RunPurpose::kAny);
  check_attention(config.attention, command.head_dim);
  const at::Device device = choose_device(DeviceChoice::kCuda, mpi);
  const ProcessGrid grid = make_process_grid(mpi, device, config.parallel);
  at::manual_seed(config.seed);
  DenseRates rates;
  nlohmann::ordered_json lengths = nlohmann::ordered_json::array();
  for (const int64_t tokens : command.tokens)
    lengths.push_back(bench_length(command, config.attention, tokens, grid, device, rates));
  const auto written = [&config](const char* field) { return value_text(*find_field(field), config); };
  write_bench_report(command.json, device,
                     {{"query_heads", command.query_heads},
                      {"kv_heads", command.kv_heads},
                      {"head_dim", command.head_dim},
                      {"window", config.attention.window},
                      {"picks", config.attention.picks},
                      {"index_heads", written("attention.index_heads")},
                      {"index_dims", config.attention.index_dims},
                      {"index_dtype", written("attention.index_dtype")},
                      {"lengths", lengths}});
  return kSuccess;
}

}  // namespace hiptrain
