#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/embedding.h"
#include "kernels/reference/element_rows.h"

namespace hiptrain::kernels {
namespace {

constexpr int64_t kColumnsPerTask = 64;

void check_tokens(const int32_t* tokens, int64_t num_tokens, int64_t vocabulary) {
  for (int64_t i = 0; i < num_tokens; ++i) {
    if (tokens[i] >= 0 && tokens[i] < vocabulary) continue;
    throw std::logic_error("embedding: token " + std::to_string(tokens[i]) + " at " + std::to_string(i) +
                           " is not in [0, " + std::to_string(vocabulary) + ")");
  }
}

}  // namespace

void embedding_forward_reference(const EmbeddingParams& params) {
  check_tokens(params.tokens, params.num_tokens, params.vocabulary);
  const int64_t row_bytes = params.hidden * element_bytes(params.element);
  const char* table = static_cast<const char*>(params.table);
  char* output = static_cast<char*>(params.output);
  parallel_for_rows(params.num_tokens, params.hidden, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(output + i * row_bytes, table + params.tokens[i] * row_bytes, row_bytes);
    }
  });
}

// Columns are divided among the threads, so that every table entry receives its tokens in order.
void embedding_backward_reference(const EmbeddingBackwardParams& params) {
  check_tokens(params.tokens, params.num_tokens, params.vocabulary);
  const int64_t num_tasks = (params.hidden + kColumnsPerTask - 1) / kColumnsPerTask;
  parallel_for(num_tasks, [&](int64_t task) {
    const int64_t column = task * kColumnsPerTask;
    const int64_t count = std::min(kColumnsPerTask, params.hidden - column);
    float d_output[kColumnsPerTask];
    for (int64_t i = 0; i < params.num_tokens; ++i) {
      load_elements(params.d_output, params.element, i * params.hidden + column, count, d_output);
      float* d_row = params.d_table + params.tokens[i] * params.hidden + column;
      for (int64_t j = 0; j < count; ++j) d_row[j] += d_output[j];
    }
  });
}

}  // namespace hiptrain::kernels
