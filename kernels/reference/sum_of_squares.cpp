#include <vector>

#include "kernels/reference/element_rows.h"
#include "kernels/sum_of_squares.h"

namespace hiptrain::kernels {
namespace {
constexpr int64_t kValuesPerSum = 65536;
}  // namespace

void sum_of_squares_reference(const SumOfSquaresParams& params) {
  std::vector<double> sums((params.count + kValuesPerSum - 1) / kValuesPerSum);
  parallel_for(static_cast<int64_t>(sums.size()), [&](int64_t i) {
    const float* begin = params.values + i * kValuesPerSum;
    const int64_t size = std::min(kValuesPerSum, params.count - i * kValuesPerSum);
    sums[i] = sum_of<double>(size, [begin](int64_t j) { return double{begin[j]} * begin[j]; });
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  *params.sum += total;
}

}  // namespace hiptrain::kernels
