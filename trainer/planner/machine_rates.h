// How fast a machine does what a training step is made of, measured by `hiptrain bench rates`, kept as JSON.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace hiptrain {

// A rate that depends on the sequence's length.
struct RateCurve {
  std::vector<double> tokens;  // ascending, at least one
  std::vector<double> rates;   // at these

  // Straight lines over the logarithm of the length; beyond the ends, the rate there.
  double at(double length) const;
};

// FLOP/s of sparse attention for heads of one size, 4 or 10 a dim, query head and pair of whole blocks.
struct AttentionRates {
  int64_t head_dim;
  RateCurve forward, backward;
};

struct MachineRates {
  std::string device;                     // a GPU's name, or "CPU"
  int64_t gpu_memory, host_memory;        // bytes of a GPU (0 for a CPU) and of its share of the host
  double matmul;                          // FLOP/s of a layer's products
  double copy;                            // bytes/s read and written, of a copy on the device
  double pointwise;                       // bytes/s read and written, of norms, rotary embedding and SwiGLU
  double cross_entropy;                   // bytes/s read and written, of logits
  double adamw;                           // bytes/s read and written
  std::vector<AttentionRates> attention;  // at least one
  RateCurve scan, scan_float8;            // FLOP/s, 2 a dim, index query and key, by attention.index_dtype
  RateCurve tree;                         // index queries a second
  double lists;                           // (token, KV head) pairs a second, of index keys and sliding union
  double to_host, from_host;              // bytes/s of pinned copies, both ways at once
  // Bytes/s that a rank sends in collectives, inside a host and between hosts; 0: not measured.
  double link, node_link;

  // The rates of the nearest head size.
  const AttentionRates& attention_of(int64_t head_dim) const;
};

// Rates measured on one H200: configs/rates/h200.json as it was when the program was built.
const MachineRates& h200_rates();

// Throws FormatError for a file that lacks a rate, or has one that is not positive.
MachineRates read_machine_rates(const std::filesystem::path& path);
// The content of such a file.
nlohmann::ordered_json json_of(const MachineRates& rates);

}  // namespace hiptrain
