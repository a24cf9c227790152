#include "trainer/commands/attention_command.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>

#include "distributed/sequence_rows.h"
#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"
#include "trainer/attention/hip_attention.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_reader.h"
#include "trainer/device/device.h"
#include "trainer/device/threads.h"
#include "trainer/formats/format_error.h"
#include "trainer/formats/safetensors_reader.h"
#include "trainer/formats/safetensors_writer.h"
#include "trainer/model/model_checks.h"
#include "trainer/ops/block_lists.h"

namespace hiptrain {
namespace {

struct AttentionInput {
  at::Tensor query;     // (tokens, query heads, head_dim)
  at::Tensor key;       // (tokens, kv heads, head_dim)
  at::Tensor value;     // (tokens, kv heads, head_dim)
  at::Tensor d_output;  // (tokens, query heads, head_dim), or undefined
  DocumentStarts document_starts;
};

[[noreturn]] void refuse(const SafetensorsFile& file, const std::string& what) {
  throw FormatError(file.path().string() + ": " + what);
}

std::string shape_of(const at::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.scalar_type() << " " << tensor.sizes();
  return text.str();
}

void check_shapes(const SafetensorsFile& file, const AttentionInput& input) {
  const at::Tensor &q = input.query, &k = input.key;
  if (q.dim() != 3 || k.dim() != 3 || q.size(0) < 1)
    refuse(file, "q " + shape_of(q) + " and k " + shape_of(k) + ": expected (tokens, heads, head_dim)");
  if (q.scalar_type() != at::kFloat && q.scalar_type() != at::kBFloat16)
    refuse(file, "q is " + shape_of(q) + ": expected F32 or BF16");
  if (k.size(0) != q.size(0) || k.size(2) != q.size(2) || k.scalar_type() != q.scalar_type())
    refuse(file, "k " + shape_of(k) + " does not match q " + shape_of(q) + " in type, tokens or head_dim");
  if (input.value.sizes() != k.sizes() || input.value.scalar_type() != k.scalar_type())
    refuse(file, "v " + shape_of(input.value) + " does not match k " + shape_of(k));
  if (k.size(1) < 1 || q.size(1) % k.size(1) != 0 || q.size(1) / k.size(1) > 16)
    refuse(file, std::to_string(q.size(1)) + " query heads over " + std::to_string(k.size(1)) +
                     " KV heads: expected 1 to 16 query heads for each KV head");
  if (q.size(2) % 8 != 0 || q.size(2) < 8 || q.size(2) > 256)
    refuse(file, "head_dim " + std::to_string(q.size(2)) + ": expected a multiple of 8 up to 256");
  if (input.d_output.defined() &&
      (input.d_output.sizes() != q.sizes() || input.d_output.scalar_type() != q.scalar_type()))
    refuse(file, "do " + shape_of(input.d_output) + " does not match q " + shape_of(q));
}

std::vector<int64_t> read_document_starts(const SafetensorsFile& file, int64_t num_tokens, int64_t block_size) {
  if (!file.tensors().contains("document_starts")) return {0};
  const at::Tensor tensor = file.tensor("document_starts");
  if (tensor.scalar_type() != at::kLong || tensor.dim() != 1 || tensor.size(0) < 1)
    refuse(file, "document_starts is " + shape_of(tensor) + ": expected I64 (documents)");
  const int64_t alignment = std::max(kernels::kQueryTile, block_size);
  const int64_t* starts = tensor.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < tensor.size(0); ++i) {
    const int64_t least = i == 0 ? 0 : starts[i - 1] + 1;
    if (starts[i] < least || starts[i] >= num_tokens || starts[i] % alignment != 0 || (i == 0 && starts[i] != 0))
      refuse(file, "document_starts[" + std::to_string(i) + "] = " + std::to_string(starts[i]) +
                       ": expected 0 first, then ascending multiples of " + std::to_string(alignment) + " below " +
                       std::to_string(num_tokens));
  }
  return {starts, starts + tensor.size(0)};
}

AttentionInput read_input(const std::filesystem::path& path, const AttentionConfig& config, at::Device device) {
  const SafetensorsFile file(path);
  AttentionInput input{.query = file.tensor("q"),
                       .key = file.tensor("k"),
                       .value = file.tensor("v"),
                       .d_output = {},
                       .document_starts = {}};
  if (file.tensors().contains("do")) input.d_output = file.tensor("do");
  check_shapes(file, input);
  input.document_starts = DocumentStarts(read_document_starts(file, input.query.size(0), config.block_size), device);
  for (at::Tensor* tensor : {&input.query, &input.key, &input.value, &input.d_output})
    if (tensor->defined()) *tensor = tensor->to(device);
  return input;
}

// (tokens, heads, head_dim) -> this rank's (heads, local tokens, head_dim), or (local tokens, heads, head_dim).
at::Tensor local_heads(const at::Tensor& whole, const SequenceShard& shard) {
  return whole.narrow(0, shard.begin(), shard.size()).transpose(0, 1).contiguous();
}
at::Tensor local_tokens(const at::Tensor& whole, const SequenceShard& shard) {
  return whole.narrow(0, shard.begin(), shard.size()).contiguous();
}

// (local tokens, ...) of every rank -> (tokens, ...).
at::Tensor gather_tokens(const at::Tensor& local, const SequenceShard& shard, Communicator& world) {
  std::vector<int64_t> shape = local.sizes().vec();
  shape[0] = shard.num_tokens();
  int64_t columns = 1;
  for (size_t i = 1; i < shape.size(); ++i) columns *= shape[i];
  return gather_sequence(local.reshape({1, local.size(0), columns}), shard, world).view(shape);
}

// The lists of all ranks' tiles as one.
BlockLists gather_lists(const BlockLists& local, const SequenceShard& shard, Communicator& world) {
  const int64_t num_kv_heads = local.offsets.size(0), tiles = kernels::num_tiles(shard.num_tokens());
  const SequenceShard tile_shard(tiles, 1, world.rank(), world.size());
  const at::Tensor counts =
      gather_sequence(local.offsets.diff(1, 1).unsqueeze(2).contiguous(), tile_shard, world).squeeze(2);
  BlockLists all{.offsets = at::zeros({num_kv_heads, tiles + 1}, counts.options()), .entries = {}};
  const at::Tensor running = counts.flatten().cumsum(0).view({num_kv_heads, tiles});
  all.offsets.narrow(1, 1, tiles).copy_(running);
  for (int64_t head = 1; head < num_kv_heads; ++head) all.offsets[head][0] = all.offsets[head - 1][tiles];

  at::Tensor longest = at::full({1}, local.entries.numel(), counts.options());
  world.all_reduce_max(longest);
  const int64_t room = longest.item<int64_t>();
  const auto options = local.entries.options();
  at::Tensor padded = at::zeros({room}, options), gathered = at::empty({world.size(), room}, options);
  padded.narrow(0, 0, local.entries.numel()).copy_(local.entries);
  world.all_gather(padded, gathered);
  std::vector<at::Tensor> in_order{at::empty({0}, options)};
  std::vector<int64_t> taken(world.size(), 0);  // each rank's entries are ordered by head, then tile
  for (int64_t head = 0; head < num_kv_heads; ++head)
    for (int rank = 0; rank < world.size(); ++rank) {
      const SequenceShard part(tiles, 1, rank, world.size());
      const int64_t size = counts[head].narrow(0, part.begin(), part.size()).sum().item<int64_t>();
      in_order.push_back(gathered[rank].narrow(0, taken[rank], size));
      taken[rank] += size;
    }
  all.entries = at::cat(in_order);
  return all;
}

using Tensors = std::map<std::string, at::Tensor>;

void add_lists(Tensors& out, const BlockLists& lists) {
  out["list_offsets"] = lists.offsets;
  out["list_block"] = lists.entries.bitwise_right_shift(kernels::kFirstRowBits)
                          .bitwise_and((int64_t{1} << (32 - kernels::kFirstRowBits)) - 1)
                          .to(at::kInt);
  out["list_first_row"] = lists.entries.bitwise_and((1 << kernels::kFirstRowBits) - 1);
}

// Seconds of this rank, waiting for others included.
struct Timings {
  double selection = 0, forward = 0, backward = 0;
};

// Adds the seconds that `work` takes on the device to `total`, and returns its result.
template <typename Work>
auto timed(at::Device device, double& total, Work work) {
  synchronize(device);
  const auto start = std::chrono::steady_clock::now();
  auto result = work();
  synchronize(device);
  total += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

// query (local tokens, query heads, head_dim), key (kv heads, local tokens, head_dim).
Picks pick(const HipAttention& attention, AttentionExchange& exchange, const AttentionConfig& config,
           const SequenceShard& shard, const at::Tensor& query, const at::Tensor& key, int64_t query_tile) {
  const int64_t num_kv_heads = key.size(0);
  const int head_dim = static_cast<int>(key.size(2));
  const at::Tensor dims = index_dim_tensor(config, head_dim, head_dim, query.device());
  // As in training: the GPU's index is of the values' type, the CPU's always float32.
  const at::ScalarType type = query.is_cuda() ? query.scalar_type() : at::kFloat;
  const at::ScalarType key_type = index_key_type(config, type);
  IndexKeys keys(exchange, attention.exchange_kind(), num_kv_heads, dims.size(0), shard,
                 query.options().dtype(key_type));
  keys.own().copy_(index_keys(key, dims, key_type));
  keys.exchange();
  const IndexQuerySource source{
      .num_heads = config.num_index_heads(query.size(1) / num_kv_heads),
      .type = type,
      .write = [&](int64_t begin, at::Tensor out) { index_queries(query.narrow(0, begin, out.size(1)), dims, out); }};
  return attention.pick(keys, source, query_tile);
}

BlockLists select(const HipAttention& attention, AttentionExchange& exchange, const RunConfig& config,
                  const SequenceShard& shard, const at::Tensor& query, ExchangedKeys& keys, Tensors& out) {
  const int64_t num_kv_heads = keys.own().key.size(0);
  if (attention.selects()) {
    const int64_t query_tile = unless_auto(config.memory.query_tile).value_or(shard.capacity());
    const Picks picks = pick(attention, exchange, config.attention, shard, query, keys.own().key, query_tile);
    const at::Tensor own = picks.blocks.narrow(1, shard.begin() - picks.begin, shard.size());
    out["picks"] = gather_sequence(own.contiguous(), shard, exchange.sequence()).contiguous();
    return attention.unite(picks);
  }
  if (attention.selects_as_published()) return attention.select_as_published(query, keys);
  return {.offsets = at::zeros({num_kv_heads, kernels::num_tiles(shard.size()) + 1}, query.options().dtype(at::kLong)),
          .entries = at::empty({0}, query.options().dtype(at::kInt))};
}

Tensors compute(const AttentionInput& input, const RunConfig& config, Communicator& world, RunningCounts& counts,
                Timings& timings) {
  const SequenceShard shard(input.query.size(0), kernels::kQueryTile, world.rank(), world.size());
  const int64_t num_kv_heads = input.key.size(1), head_dim = input.key.size(2);
  const ParallelSection parallel{
      .exchange = ExchangeChoice::kAllGather};  // lists and log-sum-exps are those of a rank's own tokens
  AttentionExchange exchange(world, input.query.device(), parallel);
  const HipAttention attention(config.attention, num_kv_heads, shard, input.document_starts, exchange, counts);
  const at::Tensor query = local_tokens(input.query, shard);
  ExchangedKeys keys(exchange, attention.exchange_kind(), num_kv_heads, head_dim, shard, input.key.options());
  keys.own().key.copy_(local_heads(input.key, shard));
  keys.own().value.copy_(local_heads(input.value, shard));
  keys.exchange();
  Tensors out;
  const BlockLists lists = timed(query.device(), timings.selection,
                                 [&] { return select(attention, exchange, config, shard, query, keys, out); });
  const QueryTile tile = QueryTile::of(shard, shard.capacity()).front();
  const HipAttention::Pass pass =
      timed(query.device(), timings.forward, [&] { return attention.forward(query, keys, lists, tile); });
  out["o"] = gather_tokens(pass.output, shard, world);
  out["lse"] = gather_tokens(pass.pieces.front().attended.log_sum_exp.squeeze(0), shard, world);
  add_lists(out, gather_lists(lists, shard, world));
  if (!input.d_output.defined()) return out;

  KeyGradients d_keys(exchange, attention.exchange_kind(), num_kv_heads, head_dim, shard, input.key.options());
  const at::Tensor d_output = local_tokens(input.d_output, shard);
  const at::Tensor d_query = timed(query.device(), timings.backward,
                                   [&] { return attention.backward(pass, keys, lists, tile, d_output, d_keys); });
  out["dq"] = gather_tokens(d_query, shard, world);
  const KeysAndValues d_own = d_keys.own();
  out["dk"] = gather_tokens(d_own.key.transpose(0, 1), shard, world);
  out["dv"] = gather_tokens(d_own.value.transpose(0, 1), shard, world);
  return out;
}

}  // namespace

int run_attention(const AttentionCommand& command, MpiRuntime& mpi) {
  const RunConfig config = read_run_config({}, command.overrides, RunPurpose::kAny);
  const at::Device device = choose_device(command.backend == "cuda" ? DeviceChoice::kCuda : DeviceChoice::kCpu, mpi);
  const ProcessGrid grid = make_process_grid(mpi, device, {.timeout_seconds = config.parallel.timeout_seconds});
  const AttentionInput input = read_input(command.input, config.attention, device);
  check_attention(config.attention, input.query.size(2));
  share_threads(mpi.local_size());
  RunningCounts counts(device);
  Timings timings;
  const Tensors out = compute(input, config, grid.sequence(), counts, timings);
  const RunningCounts::Values counted = counts.take();
  at::Tensor totals = at::zeros({2}, at::kLong);
  totals[0] = counted.nan_scores;
  totals[1] = counted.dropped_entries;
  grid.control().all_reduce_sum(totals);
  if (mpi.rank() != 0) return kSuccess;
  write_safetensors(command.output, out);
  const int64_t tiles = (out.at("list_offsets").size(1) - 1) * input.key.size(1);
  std::cout << command.output.string() << ": " << input.query.size(0) << " tokens, "
            << static_cast<double>(out.at("list_block").numel()) / static_cast<double>(tiles)
            << " picked blocks a tile, " << totals[0].item<int64_t>() << " NaN scores, " << totals[1].item<int64_t>()
            << " entries dropped\n"
            << "seconds: selection " << timings.selection << ", forward " << timings.forward << ", backward "
            << timings.backward << "\n";
  return kSuccess;
}

}  // namespace hiptrain
