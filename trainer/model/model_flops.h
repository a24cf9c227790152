// How much arithmetic a step is, and how fast this rank could do it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/config/run_config.h"
#include "trainer/model/model_config.h"

namespace hiptrain {

// Useful FLOP of forward and backward a token, without recompute and search: 6 for every weight of a matrix (the output
// head included, the embedding's look-up not), and 14 * head_dim for every key a query head attends to (4 forward, 10
// backward). keys_per_token: see below.
double model_flops_per_token(const ModelConfig& model, double keys_per_token);

// Keys that a token attends to in a layer, on average: sinks, window and mean_list_entries blocks, at most half of the
// sequence; the half for dense attention.
double attended_keys(const AttentionConfig& attention, double mean_list_entries, int64_t sequence_length);

// The mean of that over the layers.
double mean_attended_keys(const RunConfig& config, const ModelConfig& model, double mean_list_entries);

// FLOP/s of a matrix product of this type on this rank's device, 8192^3 on a GPU and 1024^3 on the CPU's threads, the
// best of some: what MFU is measured against.
double measured_matmul_rate(at::Device device, at::ScalarType type);

}  // namespace hiptrain
