// Rows of elements as float32, sums in a fixed order, and ranges of rows for threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/element.h"
#include "kernels/reference/parallel_for.h"

namespace hiptrain::kernels {

// Writes the `count` elements from `offset` on to `values`.
inline void load_elements(const void* elements, ElementType element, int64_t offset, int64_t count, float* values) {
  if (element == ElementType::kFloat32) {
    std::copy_n(static_cast<const float*>(elements) + offset, count, values);
  } else if (element == ElementType::kBfloat16) {
    const uint16_t* bits = static_cast<const uint16_t*>(elements) + offset;
    for (int64_t i = 0; i < count; ++i) values[i] = bfloat16_to_float(bits[i]);
  } else {
    const uint8_t* bits = static_cast<const uint8_t*>(elements) + offset;
    for (int64_t i = 0; i < count; ++i) values[i] = float8_to_float(bits[i]);
  }
}

inline void store_elements(const float* values, ElementType element, int64_t offset, int64_t count, void* elements) {
  if (element == ElementType::kFloat32) {
    std::copy_n(values, count, static_cast<float*>(elements) + offset);
  } else if (element == ElementType::kBfloat16) {
    uint16_t* bits = static_cast<uint16_t*>(elements) + offset;
    for (int64_t i = 0; i < count; ++i) bits[i] = float_to_bfloat16(values[i]);
  } else {
    uint8_t* bits = static_cast<uint8_t*>(elements) + offset;
    for (int64_t i = 0; i < count; ++i) bits[i] = float_to_float8(values[i]);
  }
}

// Sums use this many interleaved partial sums, so that they vectorise, and always in the same order.
constexpr int kSumLanes = 16;

// Returns term(0) + ... + term(count - 1).
template <typename Accumulator, typename Term>
Accumulator sum_of(int64_t count, const Term& term) {
  Accumulator lanes[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes) {
    for (int lane = 0; lane < kSumLanes; ++lane) lanes[lane] += term(i + lane);
  }
  for (int lane = 0; i < count; ++i, ++lane) lanes[lane] += term(i);
  for (int width = kSumLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

// Calls body(begin, end) on several threads for ranges of rows of about kElementsPerRange elements each. The ranges do
// not depend on the number of threads.
template <typename Body>
void parallel_for_rows(int64_t num_rows, int64_t elements_per_row, const Body& body) {
  constexpr int64_t kElementsPerRange = 32768;
  const int64_t rows_per_range = std::max<int64_t>(1, kElementsPerRange / std::max<int64_t>(1, elements_per_row));
  parallel_for((num_rows + rows_per_range - 1) / rows_per_range,
               [&](int64_t range) { body(range * rows_per_range, std::min(num_rows, (range + 1) * rows_per_range)); });
}

}  // namespace hiptrain::kernels
