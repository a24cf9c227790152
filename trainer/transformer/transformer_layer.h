// One decoder layer on this rank's part of a sequence, forward and backward, tile by tile.
//
// A layer holds x, dx, and (exchanged over the sequence's ranks) k, v, dk, dv and the block lists of the whole local
// sequence. Queries, attention outputs and their gradients exist for a query tile, everything else for a token tile.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "trainer/attention/attention_exchange.h"
#include "trainer/attention/hip_attention.h"
#include "trainer/config/run_config.h"
#include "trainer/model/model_config.h"
#include "trainer/model/parameter_layout.h"
#include "trainer/ops/block_lists.h"
#include "trainer/ops/pointwise_ops.h"
#include "trainer/ops/selection_ops.h"
#include "trainer/transformer/local_batch.h"

namespace hiptrain {

// The data that all layers share while one sequence is computed.
struct SequenceContext {
  const LocalBatch& batch;
  AttentionExchange& exchange;
  RotaryEmbedding rope;
  RunningCounts& counts;
  bool trains;                               // there are backward passes, of whose memory forward passes make use
  std::optional<RecallOfLayer> recall = {};  // where a pass that searches measures its selection; none: nowhere
};

// The element types of a layer's tensors.
struct LayerTypes {
  at::ScalarType storage;  // queries, keys, values and attention outputs between kernels: float32 or bfloat16
  at::ScalarType compute;  // weights, and everything within a token tile: storage on a GPU, float32 on the CPU
  at::Device device;
};

class TransformerLayer {
 public:
  TransformerLayer(const ModelConfig& model, const AttentionConfig& attention, const MemorySection& memory,
                   const LayerTypes& types);

  // hidden (local tokens, hidden) is replaced by the layer's output. Without saved lists the layer searches, and
  // measures its selection where the context asks for it; the lists that were used are returned.
  BlockLists forward(const LayerTensors& weights, at::Tensor& hidden, SequenceContext& context,
                     const BlockLists* saved) const;

  // hidden: the layer's input. d_hidden (local tokens, hidden) of the compute type: the gradient of the layer's output,
  // replaced by that of its input. Adds to gradients, which are float32. The search is not run again.
  void backward(const LayerTensors& weights, LayerTensors& gradients, const at::Tensor& hidden, const BlockLists& lists,
                at::Tensor& d_hidden, SequenceContext& context) const;

 private:
  struct Tile {
    int64_t begin, size;  // local tokens
  };
  // The results of the first pass over the local tokens.
  struct FirstPass {
    ExchangedKeys keys;                   // under way; if something is searched, pick() starts that
    std::optional<IndexKeys> index_keys;  // under way; none if nothing is searched
  };
  // One of the three head projections and what follows it.
  struct HeadProjection {
    const at::Tensor &weight, &bias, &norm;  // bias and norm may be undefined
    int num_heads;
    bool rotated;
  };

  static std::vector<Tile> tiles(int64_t begin, int64_t size, int64_t tile_size);
  HeadProjection query_projection(const LayerTensors& tensors) const;
  HeadProjection key_projection(const LayerTensors& tensors) const;
  HeadProjection value_projection(const LayerTensors& tensors) const;

  at::Tensor normed(const LayerTensors& weights, const at::Tensor& hidden, Tile tile) const;
  at::Tensor project(const HeadProjection& projection, const at::Tensor& input, const SequenceContext& context,
                     Tile tile) const;
  at::Tensor project_backward(const HeadProjection& projection, const HeadProjection& gradient, const at::Tensor& input,
                              at::Tensor d_heads, const SequenceContext& context, Tile tile) const;

  HipAttention attention(SequenceContext& context) const;
  FirstPass first_pass(const LayerTensors& weights, const at::Tensor& hidden, SequenceContext& context,
                       const HipAttention& attention, bool with_index) const;
  at::Tensor queries(const LayerTensors& weights, const at::Tensor& hidden, const SequenceContext& context,
                     const QueryTile& tile, const at::Tensor& kept = {}) const;
  int64_t kept_queries(const SequenceContext& context) const;
  void write_index_queries(const LayerTensors& weights, const at::Tensor& hidden, const SequenceContext& context,
                           int64_t begin, const at::Tensor& index, at::Tensor& kept) const;
  Picks pick(const LayerTensors& weights, const at::Tensor& hidden, SequenceContext& context,
             const HipAttention& attention, FirstPass& pass, at::Tensor& kept) const;
  BlockLists select(const LayerTensors& weights, const at::Tensor& hidden, SequenceContext& context,
                    const HipAttention& attention, FirstPass& pass, at::Tensor& kept) const;

  void after_attention(const LayerTensors& weights, at::Tensor& hidden, const at::Tensor& attention_output,
                       Tile tile) const;
  void after_attention_backward(const LayerTensors& weights, LayerTensors& gradients, const at::Tensor& hidden,
                                const at::Tensor& attention_output, at::Tensor& d_hidden, at::Tensor d_output,
                                Tile tile) const;
  void queries_backward(const LayerTensors& weights, LayerTensors& gradients, const at::Tensor& hidden,
                        const at::Tensor& d_query, at::Tensor& d_hidden, const SequenceContext& context,
                        Tile tile) const;
  void keys_backward(const LayerTensors& weights, LayerTensors& gradients, const at::Tensor& hidden,
                     const KeysAndValues& d_keys, at::Tensor& d_hidden, const SequenceContext& context) const;

  const ModelConfig& model_;
  const AttentionConfig& attention_;
  const MemorySection& memory_;
  LayerTypes types_;
  at::Tensor index_dims_;  // (index dims) int32
};

}  // namespace hiptrain
