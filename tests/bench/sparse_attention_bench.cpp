// Times attention on the CPU: 4 query heads and 2 KV heads of 64, lists of random picks, and dense attention for
// comparison. The rate counts necessary products, per second of wall time and per second of processor time (which
// differ on a busy machine).
//
//   sparse_attention_bench [tokens ...]     (16384 and 65536 by default)
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>

#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"
#include "kernels/reference/parallel_for.h"
#include "tests/support/attention_case.h"

namespace {

using hiptrain::testing::AttentionCase;
using hiptrain::testing::AttentionShape;

struct Seconds {
  double wall, processor;
};

Seconds time(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  const std::clock_t processor_begin = std::clock();
  work();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
          static_cast<double>(std::clock() - processor_begin) / CLOCKS_PER_SEC};
}

// Returns the number of (query head, token, key) triples that are attended to.
double count_pairs(const AttentionCase& input) {
  double pairs = 0;
  const int64_t tiles = hiptrain::kernels::num_tiles(input.shape.num_tokens);
  for (int64_t index = 0; index < tiles; ++index) {
    const auto ranges = tile_ranges(input.geometry(), index);
    for (int64_t t = ranges.begin; t < ranges.end; ++t) {
      const int64_t sinks = std::min(t + 1, ranges.sink_end * input.shape.block_size);
      const int64_t window = t + 1 - ranges.window_begin * input.shape.block_size;
      pairs += static_cast<double>(sinks + std::max<int64_t>(0, window)) * input.shape.num_kv_heads;
    }
    for (int head = 0; head < input.shape.num_kv_heads; ++head)
      for (int64_t i = input.offsets[head * (tiles + 1) + index]; i < input.offsets[head * (tiles + 1) + index + 1];
           ++i)
        pairs +=
            static_cast<double>((ranges.end - ranges.begin - hiptrain::kernels::entry_first_row(input.entries[i])) *
                                input.shape.block_size);
  }
  return pairs * input.shape.group_size;
}

void report(const char* pass, const Seconds& seconds, double gigaflops) {
  std::printf("  %s %6.2f s, %6.1f GFLOP/s (processor %6.2f s, %5.1f)", pass, seconds.wall, gigaflops / seconds.wall,
              seconds.processor, gigaflops / seconds.processor);
}

void time_case(const char* name, const AttentionShape& shape) {
  AttentionCase input(shape, 1);
  const double gigaflops = 4e-9 * count_pairs(input) * shape.head_dim;
  const Seconds forward = time([&] { input.forward(); });
  const Seconds backward = time([&] { input.backward(); });
  std::printf("%s T=%lld", name, static_cast<long long>(shape.num_tokens));
  report("forward", forward, gigaflops);
  report("backward", backward, 2.5 * gigaflops);
  std::printf("  together %6.2f s\n", forward.wall + backward.wall);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  std::printf("%d threads\n", hiptrain::kernels::reference_threads());
  std::vector<int64_t> lengths = {16384, 65536};
  if (argc > 1) lengths.clear();
  for (int i = 1; i < argc; ++i) lengths.push_back(std::atoll(argv[i]));
  for (const int64_t tokens : lengths)
    time_case("picks", {.num_tokens = tokens, .head_dim = 64, .window = 512, .num_picks = 2});
  time_case("dense", {.num_tokens = 16384, .head_dim = 64, .window = 16384, .num_picks = 0});
}
