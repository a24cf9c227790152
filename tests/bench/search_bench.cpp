// Times the search on the CPU and prints seconds for scan and tree: search_bench [tokens].
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "kernels/reference/parallel_for.h"
#include "kernels/search.h"

namespace {

namespace kernels = hiptrain::kernels;

constexpr int kHeads = 2, kDims = 32, kPicks = 2;

double seconds_of_search(int64_t num_tokens, int64_t scan_tokens, const std::vector<float>& queries,
                         const std::vector<float>& keys) {
  const int64_t document_starts[] = {0};
  std::vector<int32_t> picks(static_cast<size_t>(kHeads * num_tokens * kPicks));
  int64_t num_nan = 0;
  const auto begin = std::chrono::steady_clock::now();
  kernels::search_reference({.index_query = queries.data(),
                             .index_key = keys.data(),
                             .index_query_head_stride = num_tokens * kDims,
                             .index_key_head_stride = num_tokens * kDims,
                             .query_element = kernels::ElementType::kFloat32,
                             .key_element = kernels::ElementType::kFloat32,
                             .index_query_begin = 0,
                             .picks = picks.data(),
                             .picks_head_stride = num_tokens * kPicks,
                             .num_nan_scores = &num_nan,
                             .geometry = {.num_tokens = num_tokens,
                                          .document_starts = document_starts,
                                          .num_documents = 1,
                                          .block_size = 64,
                                          .sink_tokens = 64,
                                          .window = 512},
                             .query_begin = 0,
                             .num_queries = num_tokens,
                             .num_kv_heads = kHeads,
                             .num_index_heads = 1,
                             .num_index_dims = kDims,
                             .num_picks = kPicks,
                             .scan_tokens = scan_tokens,
                             .beam = 8,
                             .top_nodes = 16384});
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t num_tokens = argc > 1 ? std::atoll(argv[1]) : 65536;
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> queries(static_cast<size_t>(kHeads * num_tokens * kDims)), keys(queries.size());
  for (float& value : queries) value = normal(generator);
  for (float& value : keys) value = normal(generator);
  const double scan = seconds_of_search(num_tokens, num_tokens, queries, keys);
  const double tree = seconds_of_search(num_tokens, 0, queries, keys);
  const double products = 1.0 * kHeads * kDims * static_cast<double>(num_tokens * num_tokens);
  std::printf("%lld tokens, %d KV heads, %d index dims, %d threads\n", static_cast<long long>(num_tokens), kHeads,
              kDims, kernels::reference_threads());
  std::printf("scan  %8.3f s  %6.1f GFLOP/s\n", scan, products / scan * 1e-9);
  std::printf("tree  %8.3f s  (beam 8, top_nodes 16384)\n", tree);
}
