// Rows of the embedding table by token, and the gradient of the table.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace hiptrain::kernels {

// output[i] = table[tokens[i]]. For a token outside [0, vocabulary) the CPU form throws, and the GPU form writes a row
// of NaN.
struct EmbeddingParams {
  const void* table;      // (vocabulary, hidden)
  const int32_t* tokens;  // (num_tokens)
  void* output;           // (num_tokens, hidden)
  ElementType element;
  int64_t num_tokens, hidden, vocabulary;
};
void embedding_forward_reference(const EmbeddingParams& params);
void embedding_forward_cuda(const EmbeddingParams& params, Stream stream);

// d_table[tokens[i]] += d_output[i], in the order of i. On the GPU the rows of a frequent token are summed in chunks,
// in a fixed order. For a token outside [0, vocabulary) the CPU form throws, and the GPU form skips it.
struct EmbeddingBackwardParams {
  const void* d_output;   // (num_tokens, hidden)
  const int32_t* tokens;  // (num_tokens)
  float* d_table;         // (vocabulary, hidden), added to
  ElementType element;    // of d_output
  int64_t num_tokens, hidden, vocabulary;
  void* workspace = nullptr;  // (embedding_backward_workspace_bytes(params)); GPU only
};
void embedding_backward_reference(const EmbeddingBackwardParams& params);
void embedding_backward_cuda(const EmbeddingBackwardParams& params, Stream stream);
int64_t embedding_backward_workspace_bytes(const EmbeddingBackwardParams& params);

}  // namespace hiptrain::kernels
