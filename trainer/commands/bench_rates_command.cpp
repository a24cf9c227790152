#include "trainer/commands/bench_rates_command.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>

#include <chrono>
#include <functional>
#include <iostream>

#include "trainer/attention/hip_attention.h"
#include "trainer/commands/attention_inputs.h"
#include "trainer/commands/bench_report.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_reader.h"
#include "trainer/device/device.h"
#include "trainer/device/host_memory.h"
#include "trainer/device/threads.h"
#include "trainer/formats/report_text.h"
#include "trainer/ops/block_lists.h"
#include "trainer/ops/linear.h"
#include "trainer/ops/pointwise_ops.h"
#include "trainer/planner/machine_rates.h"
#include "trainer/planner/step_time.h"

namespace hiptrain {
namespace {

// Sizes that are long enough for a GPU, and short enough for a CPU.
struct Sizes {
  std::vector<int64_t> lengths;    // of sequences
  std::vector<int64_t> head_dims;  // of attention
  int64_t query_heads, kv_heads;   // of attention
  int64_t rows, hidden, inner;     // of products and norms
  int64_t logit_rows, vocabulary, parameters, copy_bytes;
};

Sizes sizes_for(at::Device device) {
  if (device.is_cuda())
    return {.lengths = {65536, 262144, 1048576},
            .head_dims = {64, 128},
            .query_heads = 32,
            .kv_heads = 8,
            .rows = 16384,
            .hidden = 4096,
            .inner = 14336,
            .logit_rows = 4096,
            .vocabulary = 128256,
            .parameters = int64_t{1} << 28,
            .copy_bytes = int64_t{1} << 30};
  return {.lengths = {4096, 8192},
          .head_dims = {64},
          .query_heads = 2,
          .kv_heads = 1,
          .rows = 512,
          .hidden = 256,
          .inner = 1024,
          .logit_rows = 64,
          .vocabulary = 8192,
          .parameters = int64_t{1} << 20,
          .copy_bytes = int64_t{1} << 24};
}

class RateBench {
 public:
  RateBench(const BenchRatesCommand& command, const RunConfig& config, const ProcessGrid& grid, at::Device device)
      : config_(config), grid_(grid), device_(device), sizes_(sizes_for(device)) {
    if (!command.tokens.empty()) sizes_.lengths = command.tokens;
    const bool short_floats = device.is_cuda() && config.precision == Precision::kBfloat16;
    options_ = at::TensorOptions(short_floats ? at::kBFloat16 : at::kFloat).device(device);
  }

  MachineRates measure() const {
    MachineRates rates{};
    rates.matmul = matmul();
    rates.copy = copy();
    rates.pointwise = pointwise();
    rates.cross_entropy = cross_entropy_bytes();
    rates.adamw = adamw_bytes();
    for (const int64_t head_dim : sizes_.head_dims) measure_attention(head_dim, rates);
    measure_host_copies(rates);
    return rates;
  }

  // Bytes/s that a rank sends in an all-gather.
  double link() const {
    Communicator& world = grid_.world();
    const at::Tensor part = at::zeros({sizes_.copy_bytes / 4}, options_.dtype(at::kFloat));
    at::Tensor whole = at::empty({part.numel() * world.size()}, part.options());
    return static_cast<double>(sizes_.copy_bytes * (world.size() - 1)) /
           seconds_of([&] { world.all_gather(part, whole); });
  }

 private:
  // One call's time: the mean over a third of a second, at least two calls, after one that does not count. The same
  // number of calls on every rank, as they may be collective.
  double seconds_of(const std::function<void()>& work) const {
    constexpr double kSeconds = 0.3;
    work();
    const double first = timed(work, 1);
    at::Tensor calls = at::full({1}, static_cast<int64_t>(2 + kSeconds / first), at::kLong);
    grid_.control().all_reduce_max(calls);
    const int64_t repeats = calls.item<int64_t>();
    return timed(work, repeats) / static_cast<double>(repeats);
  }
  double timed(const std::function<void()>& work, int64_t calls) const {
    synchronize(device_);
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < calls; ++i) work();
    synchronize(device_);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  double bytes_rate(const at::Tensor& tensor, int accesses, const std::function<void()>& work) const {
    return accesses * static_cast<double>(tensor.nbytes()) / seconds_of(work);
  }
  at::Tensor random(at::IntArrayRef shape) const { return at::randn(shape, options_); }

  // An MLP's product up, down, and the weight's gradient.
  double matmul() const {
    const at::Tensor input = random({sizes_.rows, sizes_.hidden}), up = random({sizes_.inner, sizes_.hidden}),
                     down = random({sizes_.hidden, sizes_.inner}), inner = random({sizes_.rows, sizes_.inner}),
                     gradient = at::zeros(up.sizes(), options_.dtype(at::kFloat));
    const double seconds = seconds_of([&] {
      linear(input, up, at::Tensor());
      linear(inner, down, at::Tensor());
      add_weight_gradient(input, inner, gradient, {});
    });
    return 6.0 * static_cast<double>(sizes_.rows * sizes_.hidden * sizes_.inner) / seconds;
  }

  double copy() const {
    const at::Tensor source = at::zeros({sizes_.copy_bytes}, options_.dtype(at::kByte));
    at::Tensor target = at::empty_like(source);
    return bytes_rate(source, 2, [&] { target.copy_(source); });
  }

  // A norm and SwiGLU, in the proportion in which a layer has them.
  double pointwise() const {
    const at::Tensor input = random({sizes_.rows, sizes_.hidden}), weight = random({sizes_.hidden}),
                     gate = random({sizes_.rows, sizes_.inner}), up = random({sizes_.rows, sizes_.inner});
    const double bytes = 2 * static_cast<double>(input.nbytes()) + 3 * static_cast<double>(gate.nbytes());
    return bytes / seconds_of([&] {
             rms_norm(input, weight, 1e-5);
             swiglu(gate, up);
           });
  }

  double cross_entropy_bytes() const {
    at::Tensor logits = random({sizes_.logit_rows, sizes_.vocabulary});
    const at::Tensor targets = at::zeros({sizes_.logit_rows}, options_.dtype(at::kInt));
    return bytes_rate(logits, 2, [&] { cross_entropy(logits, targets, 1, /*with_gradient=*/true); });
  }

  // Weight and both moments read and written, the gradient read.
  double adamw_bytes() const {
    const auto zeros = [&] { return at::zeros({sizes_.parameters}, options_.dtype(at::kFloat)); };
    const AdamWState state{.weight = zeros(),
                           .gradient = zeros(),
                           .first_moment = zeros(),
                           .second_moment = zeros(),
                           .rounded_weight = {},
                           .first_index = 0};
    const AdamWSettings settings{.learning_rate = 1e-6,
                                 .beta1 = 0.9,
                                 .beta2 = 0.95,
                                 .epsilon = 1e-8,
                                 .weight_decay = 0,
                                 .gradient_scale = 1,
                                 .step = 1};
    return bytes_rate(state.weight, 7, [&] { adamw(state, settings); });
  }

  // Search, whose speed does not depend on the head's size, is measured with the last size.
  void measure_attention(int64_t head_dim, MachineRates& rates) const {
    rates.attention.push_back({.head_dim = head_dim, .forward = {}, .backward = {}});
    for (const int64_t tokens : sizes_.lengths) {
      const AttentionInputs inputs = random_attention_inputs(
          {.query_heads = sizes_.query_heads, .kv_heads = sizes_.kv_heads, .head_dim = head_dim}, tokens,
          options_.dtype().toScalarType(), device_);
      LayerSearch layer(config_.attention, inputs, grid_.sequence());
      const BlockLists lists = layer.attention.unite(layer.pick());
      measure_kernels(layer, inputs, lists, rates.attention.back());
      if (head_dim == sizes_.head_dims.back()) measure_search(layer, inputs, rates);
    }
  }

  // One layer's attention of a rank alone, and what it searches with. inputs is kept.
  struct LayerSearch {
    LayerSearch(const AttentionConfig& config, const AttentionInputs& layer_inputs, Communicator& sequence)
        : inputs(layer_inputs),
          num_index_heads(config.num_index_heads(inputs.query.size(1) / inputs.key.size(0))),
          shard(inputs.query.size(0), kernels::kQueryTile, 0, 1),
          counts(inputs.query.device()),
          exchange(sequence, inputs.query.device(), parallel),
          attention(config, inputs.key.size(0), shard, inputs.document_starts, exchange, counts),
          dims(index_dim_tensor(config, head_dim(), head_dim(), inputs.query.device())),
          key_type(index_key_type(config, inputs.query.scalar_type())),
          keys(exchange, attention.exchange_kind(), inputs.key.size(0), dims.size(0), shard,
               inputs.query.options().dtype(key_type)) {
      make_index_keys();
    }
    int head_dim() const { return static_cast<int>(inputs.query.size(2)); }
    void make_index_keys() { keys.own().copy_(index_keys(inputs.key, dims, key_type)); }
    // With the index queries of a query tile at a time that is as large as a plan makes it on a GPU.
    Picks pick() {
      const auto write = [&](int64_t begin, at::Tensor out) {
        index_queries(inputs.query.narrow(0, begin, out.size(1)), dims, out);
      };
      return attention.pick(keys, {.num_heads = num_index_heads, .type = inputs.query.scalar_type(), .write = write},
                            kSearchTile);
    }

    const AttentionInputs& inputs;
    int64_t num_index_heads;
    SequenceShard shard;
    ParallelSection parallel;
    RunningCounts counts;
    AttentionExchange exchange;
    HipAttention attention;
    at::Tensor dims;
    at::ScalarType key_type;
    IndexKeys keys;
  };

  void measure_kernels(LayerSearch& layer, const AttentionInputs& inputs, const BlockLists& lists,
                       AttentionRates& rates) const {
    const double tokens = static_cast<double>(inputs.query.size(0));
    const double tiles = static_cast<double>(lists.offsets.size(0) * (lists.offsets.size(1) - 1));
    const double mean_keys =
        executed_keys(config_.attention, static_cast<double>(lists.entries.numel()) / tiles, inputs.query.size(0));
    const double flops_a_key = static_cast<double>(inputs.query.numel());
    const ExchangeKind kind = layer.attention.exchange_kind();
    ExchangedKeys keys(layer.exchange, kind, inputs.key.size(0), inputs.key.size(2), layer.shard, inputs.key.options());
    keys.own().key.copy_(inputs.key);
    keys.own().value.copy_(inputs.value);
    const QueryTile tile = QueryTile::of(layer.shard, layer.shard.capacity()).front();
    HipAttention::Pass pass;
    const double forward = seconds_of([&] { pass = layer.attention.forward(inputs.query, keys, lists, tile); });
    const double backward = seconds_of([&] {
      KeyGradients d_keys(layer.exchange, kind, inputs.key.size(0), inputs.key.size(2), layer.shard,
                          inputs.key.options());
      layer.attention.backward(pass, keys, lists, tile, inputs.d_output, d_keys);
    });
    rates.forward.tokens.push_back(tokens);
    rates.forward.rates.push_back(4 * flops_a_key * (mean_keys + kForwardTileKeys) / forward);
    rates.backward.tokens.push_back(tokens);
    rates.backward.rates.push_back(10 * flops_a_key * (mean_keys + kBackwardTileKeys) / backward);
  }

  void measure_search(LayerSearch& layer, const AttentionInputs& inputs, MachineRates& rates) const {
    const int64_t tokens = inputs.query.size(0);
    const double heads = static_cast<double>(sizes_.kv_heads), all = heads * static_cast<double>(tokens);
    AttentionConfig scans = config_.attention, climbs = config_.attention;
    scans.scan_tokens = tokens;
    climbs.scan_tokens = 0;
    AttentionConfig scans_float8 = scans;
    scans.index_dtype = IndexType::kCompute;
    scans_float8.index_dtype = IndexType::kFloat8;
    LayerSearch scan(scans, inputs, grid_.sequence()), scan_float8(scans_float8, inputs, grid_.sequence()),
        tree(climbs, inputs, grid_.sequence());
    Picks picks;
    const double scanning_float8 = seconds_of([&] { picks = scan_float8.pick(); });
    const double scanning = seconds_of([&] { picks = scan.pick(); });
    const double climbing = seconds_of([&] { tree.pick(); });
    const double listing = seconds_of([&] {
      layer.make_index_keys();
      layer.attention.unite(picks);
    });
    const double index_heads = static_cast<double>(layer.num_index_heads);
    const double flops = heads * index_heads * scan_work(scans, inputs.query.size(2), tokens, false).flops;
    rates.scan.tokens.push_back(static_cast<double>(tokens));
    rates.scan.rates.push_back(flops / scanning);
    rates.scan_float8.tokens.push_back(static_cast<double>(tokens));
    rates.scan_float8.rates.push_back(flops / scanning_float8);
    rates.tree.tokens.push_back(static_cast<double>(tokens));
    rates.tree.rates.push_back(all * index_heads / climbing);
    rates.lists = all / listing;
  }

  // Both ways at once. A CPU has one memory: half of a copy.
  void measure_host_copies(MachineRates& rates) const {
    if (device_.is_cpu()) {
      rates.to_host = rates.from_host = rates.copy / 2;
      return;
    }
    const auto bytes = [&](at::TensorOptions options) {
      return at::zeros({sizes_.copy_bytes}, options.dtype(at::kByte));
    };
    const auto pinned = at::TensorOptions().pinned_memory(true);
    const at::Tensor here = bytes(options_), there = bytes(pinned);
    at::Tensor arrived = bytes(options_), left = bytes(pinned);
    const c10::cuda::CUDAStream out = c10::cuda::getStreamFromPool(), in = c10::cuda::getStreamFromPool();
    const double seconds = seconds_of([&] {
      {
        const c10::cuda::CUDAStreamGuard guard(out);
        left.copy_(here, /*non_blocking=*/true);
      }
      const c10::cuda::CUDAStreamGuard guard(in);
      arrived.copy_(there, /*non_blocking=*/true);
    });
    rates.to_host = rates.from_host = static_cast<double>(sizes_.copy_bytes) / seconds;
  }

  const RunConfig& config_;
  const ProcessGrid& grid_;
  at::Device device_;
  Sizes sizes_;
  at::TensorOptions options_;
};

void print(const MachineRates& rates) {
  std::vector<std::vector<std::string>> rows{{rates.device, "", ""}};
  const auto add = [&](const std::string& name, double rate, double unit, const char* unit_name) {
    rows.push_back({name, decimal(rate / unit, 1), unit_name});
  };
  add("layer products", rates.matmul, 1e12, "TFLOP/s");
  add("copy, read and written", rates.copy, 1e9, "GB/s");
  add("norm, SwiGLU", rates.pointwise, 1e9, "GB/s");
  add("cross entropy", rates.cross_entropy, 1e9, "GB/s");
  add("AdamW", rates.adamw, 1e9, "GB/s");
  for (const AttentionRates& entry : rates.attention)
    for (size_t i = 0; i < entry.forward.tokens.size(); ++i) {
      const std::string heads =
          ", heads of " + std::to_string(entry.head_dim) + ", " + decimal(entry.forward.tokens[i], 0) + " tokens";
      add("attention forward" + heads, entry.forward.rates[i], 1e12, "TFLOP/s");
      add("attention backward" + heads, entry.backward.rates[i], 1e12, "TFLOP/s");
    }
  for (size_t i = 0; i < rates.scan.tokens.size(); ++i) {
    const std::string tokens = ", " + decimal(rates.scan.tokens[i], 0) + " tokens";
    add("scan" + tokens, rates.scan.rates[i], 1e12, "TFLOP/s");
    add("scan, float8 keys" + tokens, rates.scan_float8.rates[i], 1e12, "TFLOP/s");
    add("tree" + tokens, rates.tree.rates[i], 1e6, "M index queries/s");
  }
  add("index keys and lists", rates.lists, 1e6, "M tokens/s a KV head");
  add("to host", rates.to_host, 1e9, "GB/s");
  add("from host", rates.from_host, 1e9, "GB/s");
  if (rates.link > 0) add("all-gather inside a host", rates.link, 1e9, "GB/s");
  if (rates.node_link > 0) add("all-gather between hosts", rates.node_link, 1e9, "GB/s");
  print_table(rows);
}

}  // namespace

int run_bench_rates(const BenchRatesCommand& command, MpiRuntime& mpi) {
  const RunConfig config = read_run_config({}, command.overrides, RunPurpose::kAny);
  share_threads(mpi.local_size());
  const at::Device device = choose_device(config.device, mpi);
  // Attention is each rank's own.
  const ProcessGrid grid =
      make_process_grid(mpi, device, {.sequence = 1, .timeout_seconds = config.parallel.timeout_seconds});
  at::manual_seed(config.seed);
  const RateBench bench(command, config, grid, device);
  MachineRates rates = bench.measure();
  rates.device = device_name(device);
  rates.gpu_memory = device.is_cuda() ? gpu_memory_bytes(device) : 0;
  rates.host_memory = host_memory_limit() / mpi.local_size();
  if (mpi.size() > 1) (mpi.size() > mpi.local_size() ? rates.node_link : rates.link) = bench.link();
  if (mpi.rank() != 0) return kSuccess;
  print(rates);
  write_bench_report(command.rates, device, json_of(rates));
  return kSuccess;
}

}  // namespace hiptrain
