// The inner loops of attention on the CPU: small dense float32 products, and the softmax between them, on tiles that
// fit in the cache. The same source is compiled for the baseline and for AVX2 with FMA, and one of them is chosen at
// run time.
//
// The right matrix of a product is packed in strips of kStripColumns columns: element (k, n) is at
//   (n / kStripColumns) * strip_stride + k * kStripColumns + n % kStripColumns.
#pragma once

#include <cstdint>

namespace hiptrain::kernels {

constexpr int kStripColumns = 16;

// result (+)= left * right. An element of the result is one sum over k in ascending order for all sizes, so its bits do
// not depend on the rows and columns that are computed with it.
struct MatrixProduct {
  const float* left;    // (num_rows, num_inner), or (num_inner, num_rows) if left_transposed
  int64_t left_stride;  // elements from one row in memory to the next
  const float* right;   // (num_inner, num_columns) in strips
  int64_t right_strip_stride;
  float* result;  // (num_rows, num_columns)
  int64_t result_stride;
  int num_rows, num_inner;
  int num_columns;             // a multiple of 8
  const int32_t* inner_begin;  // (num_rows), row i sums over k >= inner_begin[i] only; null: 0
  const int32_t* inner_end;    // (num_rows), row i sums over k < inner_end[i] only; null: num_inner
  bool left_transposed;
  bool accumulate;  // otherwise overwritten; required if inner_begin or inner_end is given
};

// Rows of float32 or bfloat16 to be packed in strips, as they are or transposed.
struct PackedRows {
  const void* source;    // (num_rows, num_columns), contiguous
  float* strips;         // plain: (num_columns / kStripColumns rounded up, num_rows, kStripColumns), strips
                         //   strip_stride apart, the last one perhaps half written;
                         // transposed: (num_rows / kStripColumns rounded up, num_columns, kStripColumns), contiguous,
                         //   zeros where there are no more rows
  int64_t strip_stride;  // of plain strips
  int num_rows;
  int num_columns;  // a multiple of 8
  bool bfloat16;
};

// A step of the online softmax (arXiv 1805.02867) over rows of scores. The running maximum, sum and output of each row
// are rescaled to the new maximum.
struct SoftmaxRows {
  float* scores;           // (num_rows, num_keys), in: dot products; out: exp(scale * score - maximum)
  int64_t score_stride;    // at least num_keys rounded up to 8; scores after num_keys are overwritten
  const int32_t* key_end;  // (num_rows), keys that a row sees, at least 1; null: num_keys
  float* maximum;          // (num_rows), of the scaled scores; -infinity at first
  float* sum;              // (num_rows)
  float* output;           // (num_rows, head_dim)
  int num_rows, num_keys, head_dim;
  float scale;
};

// probability = exp(scale * score - log_sum_exp)
// score gradient = scale * probability * (probability gradient - output_dot), with respect to the unscaled score
struct ScoreGradientRows {
  float* scores;             // (num_rows, num_keys), in: dot products; out: probabilities
  float* gradients;          // (num_rows, num_keys), in: probability gradients; out: score gradients
  int64_t score_stride;      // stride of both, at least num_keys rounded up to 8; values after num_keys are overwritten
  const float* log_sum_exp;  // (num_rows)
  const float* output_dot;   // (num_rows), the output's dot product with its gradient
  int num_rows, num_keys;
  float scale;
};

struct TileKernels {
  void (*multiply)(const MatrixProduct&);
  void (*pack)(const PackedRows&);
  void (*pack_transposed)(const PackedRows&);
  void (*softmax)(const SoftmaxRows&);
  void (*score_gradient)(const ScoreGradientRows&);
};
const TileKernels& baseline_tile_kernels();
const TileKernels* avx2_tile_kernels();  // null if this machine cannot run them
const TileKernels& tile_kernels();       // the best that this machine can run

}  // namespace hiptrain::kernels
