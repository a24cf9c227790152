#include <stdexcept>

#include "kernels/adamw.h"
#include "kernels/adamw_update.h"
#include "kernels/reference/element_rows.h"
#include "kernels/stochastic_rounding.h"

namespace hiptrain::kernels {
namespace {

constexpr int64_t kBlock = 512;  // elements that are converted to float32 at a time

struct Block {
  float weight[kBlock], first_moment[kBlock], second_moment[kBlock];
};

void update(const AdamWFactors& factors, const float* __restrict gradient, int64_t count, Block& block) {
  for (int64_t i = 0; i < count; ++i) {
    const AdamWValues values =
        adamw_update(factors, {block.weight[i], block.first_moment[i], block.second_moment[i]}, gradient[i]);
    block.weight[i] = values.weight;
    block.first_moment[i] = values.first_moment;
    block.second_moment[i] = values.second_moment;
  }
}

// Writes elements [offset, offset + count). Values in bfloat16 are rounded by the 16 bits from `shift` on of each
// element's random bits.
void store(const AdamWParams& params, ElementType element, int64_t offset, int64_t count, int shift,
           const float* values, void* target) {
  if (element == ElementType::kFloat32) return store_elements(values, element, offset, count, target);
  const uint64_t start = random_start(params.seed, params.step);
  uint16_t* bits = static_cast<uint16_t*>(target) + offset;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t random = random_bits(start, params.first_index + offset + i);
    bits[i] = round_stochastically(values[i], static_cast<uint32_t>(random >> shift));
  }
}

void update_block(const AdamWParams& params, const AdamWFactors& factors, int64_t offset, int64_t count) {
  Block block{};
  load_elements(params.weight, params.weight_element, offset, count, block.weight);
  load_elements(params.first_moment, params.moment_element, offset, count, block.first_moment);
  load_elements(params.second_moment, params.moment_element, offset, count, block.second_moment);
  update(factors, params.gradient + offset, count, block);
  store(params, params.weight_element, offset, count, 0, block.weight, params.weight);
  store(params, params.moment_element, offset, count, 16, block.first_moment, params.first_moment);
  store(params, params.moment_element, offset, count, 32, block.second_moment, params.second_moment);
  if (params.bfloat16_weight != nullptr)
    store_elements(block.weight, ElementType::kBfloat16, offset, count, params.bfloat16_weight);
}

}  // namespace

void adamw_reference(const AdamWParams& params) {
  if (params.weight_element == ElementType::kBfloat16 && params.bfloat16_weight != nullptr)
    throw std::logic_error("adamw: bfloat16 weights have no second, rounded copy");
  const AdamWFactors factors = adamw_factors(params);
  parallel_for_rows(params.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t offset = begin; offset < end; offset += kBlock)
      update_block(params, factors, offset, std::min(kBlock, end - offset));
  });
}

}  // namespace hiptrain::kernels
