// What the tests of the selection share: cases, random index data, calls of search and union, and the plain definition
// of a score.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "kernels/hip_selection.h"

namespace hiptrain::kernels {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct SelectionCase {
  int64_t num_tokens = 500;
  std::vector<int64_t> document_starts = {0};
  int64_t block_size = 16, sink_tokens = 16, window = 32;
  int num_heads = 1, num_dims = 4, num_picks = 2;
  int64_t scan_tokens = 1 << 30;
  int beam = 2, top_nodes = 4;

  AttentionGeometry geometry() const {
    return {.num_tokens = num_tokens,
            .document_starts = document_starts.data(),
            .num_documents = static_cast<int64_t>(document_starts.size()),
            .block_size = block_size,
            .sink_tokens = sink_tokens,
            .window = window};
  }
};

// (heads, tokens, dims) each
struct IndexData {
  std::vector<float> query, key;
};

template <typename T>
T one_of(std::mt19937& generator, const std::vector<T>& values) {
  return values[generator() % values.size()];
}

inline int64_t between(std::mt19937& generator, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

// Document starts that are multiples of 128, which suit every block size.
inline std::vector<int64_t> random_documents(std::mt19937& generator, int64_t num_tokens) {
  std::vector<int64_t> starts = {0};
  for (int64_t position = 128; position < num_tokens; position += 128) {
    if (generator() % 4 == 0) starts.push_back(position);
  }
  return starts;
}

// Small integers: every dot product is exact in any order, and ties are plenty.
inline IndexData small_integers(const SelectionCase& setup, std::mt19937& generator) {
  const auto size = static_cast<size_t>(setup.num_heads * setup.num_tokens * setup.num_dims);
  IndexData data{std::vector<float>(size), std::vector<float>(size)};
  for (float& value : data.query) value = static_cast<float>(between(generator, -2, 2));
  for (float& value : data.key) value = static_cast<float>(between(generator, -2, 2));
  return data;
}

inline IndexData normal_values(const SelectionCase& setup, std::mt19937& generator) {
  const auto size = static_cast<size_t>(setup.num_heads * setup.num_tokens * setup.num_dims);
  IndexData data{std::vector<float>(size), std::vector<float>(size)};
  std::normal_distribution<float> normal;
  for (float& value : data.query) value = normal(generator);
  for (float& value : data.key) value = normal(generator);
  return data;
}

struct SearchResult {
  std::vector<int32_t> picks;  // (heads, queries, picks)
  int64_t num_nan = 0;
};

inline SearchParams search_params(const SelectionCase& setup) {
  SearchParams params{};
  params.geometry = setup.geometry();
  params.num_kv_heads = setup.num_heads;
  params.num_index_dims = setup.num_dims;
  params.num_picks = setup.num_picks;
  params.scan_tokens = setup.scan_tokens;
  params.beam = setup.beam;
  params.top_nodes = setup.top_nodes;
  return params;
}

// Searches the tokens [begin, end) and hands the search the index queries from its halo on, no others.
inline SearchResult run_search_range(const SelectionCase& setup, const IndexData& data, int64_t begin, int64_t end) {
  SearchParams params = search_params(setup);
  params.query_begin = begin;
  params.num_queries = end - begin;
  params.index_query_begin = std::max<int64_t>(0, begin - search_halo(params));
  const int64_t num_given = end - params.index_query_begin;
  std::vector<float> queries;
  for (int head = 0; head < setup.num_heads; ++head) {
    const auto row = data.query.begin() + (head * setup.num_tokens + params.index_query_begin) * setup.num_dims;
    queries.insert(queries.end(), row, row + num_given * setup.num_dims);
  }
  SearchResult result;
  result.picks.assign(static_cast<size_t>(setup.num_heads * params.num_queries * setup.num_picks), -7);
  params.index_query = queries.data();
  params.index_key = data.key.data();
  params.index_query_head_stride = num_given * setup.num_dims;
  params.index_key_head_stride = setup.num_tokens * setup.num_dims;
  params.picks = result.picks.data();
  params.picks_head_stride = params.num_queries * setup.num_picks;
  params.num_nan_scores = &result.num_nan;
  search_reference(params);
  return result;
}

inline SearchResult run_search(const SelectionCase& setup, const IndexData& data) {
  return run_search_range(setup, data, 0, setup.num_tokens);
}

// The picks of one token.
inline std::vector<int32_t> picks_of(const SelectionCase& setup, const std::vector<int32_t>& picks, int64_t head,
                                     int64_t token) {
  const auto begin = picks.begin() + (head * setup.num_tokens + token) * setup.num_picks;
  return {begin, begin + setup.num_picks};
}

struct TileLists {
  std::vector<int64_t> counts;   // (heads, tiles)
  std::vector<int64_t> offsets;  // (heads, tiles + 1)
  std::vector<uint32_t> entries;
  int64_t num_dropped = 0;

  std::vector<uint32_t> list(int64_t head, int64_t tile, int64_t tiles) const {
    const auto offset = offsets.begin() + head * (tiles + 1) + tile;
    return {entries.begin() + offset[0], entries.begin() + offset[1]};
  }
};

// counts -> offsets, and room for the entries.
inline void lay_out(int64_t num_heads, TileLists* lists) {
  const int64_t tiles = static_cast<int64_t>(lists->counts.size()) / num_heads;
  int64_t total = 0;
  for (int64_t head = 0; head < num_heads; ++head) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      lists->offsets.push_back(total);
      total += lists->counts[static_cast<size_t>(head * tiles + tile)];
    }
    lists->offsets.push_back(total);
  }
  lists->entries.assign(static_cast<size_t>(total), ~0u);
}

// picks holds the tokens [picks_begin, end) of every head; the lists are those of the tiles of [begin, end).
inline TileLists run_union(const SelectionCase& setup, const std::vector<int32_t>& picks, int64_t picks_begin,
                           int64_t begin, int64_t end, int64_t max_blocks = 0) {
  TileLists lists;
  lists.counts.assign(static_cast<size_t>(setup.num_heads * num_tiles(end - begin)), -1);
  UnionParams params{.picks = picks.data(),
                     .picks_head_stride = (end - picks_begin) * setup.num_picks,
                     .picks_begin = picks_begin,
                     .counts = lists.counts.data(),
                     .offsets = nullptr,
                     .entries = nullptr,
                     .geometry = setup.geometry(),
                     .query_begin = begin,
                     .num_queries = end - begin,
                     .num_kv_heads = setup.num_heads,
                     .num_picks = setup.num_picks,
                     .max_blocks = max_blocks,
                     .num_dropped = &lists.num_dropped};
  sliding_union_reference(params);
  lay_out(setup.num_heads, &lists);
  params.offsets = lists.offsets.data();
  params.entries = lists.entries.data();
  if (!lists.entries.empty()) sliding_union_reference(params);
  return lists;
}

// The definition: the largest dot product of the query with a key of the block, NaN as -infinity.
inline float block_score(const SelectionCase& setup, const IndexData& data, int64_t head, int64_t token,
                         int64_t block) {
  const float* query = data.query.data() + (head * setup.num_tokens + token) * setup.num_dims;
  float best = -kInfinity;
  for (int64_t i = block * setup.block_size; i < (block + 1) * setup.block_size; ++i) {
    const float* key = data.key.data() + (head * setup.num_tokens + i) * setup.num_dims;
    float sum = 0;
    for (int d = 0; d < setup.num_dims; ++d) sum = std::fma(query[d], key[d], sum);
    if (sum > best) best = sum;
  }
  return best;
}

// The `wanted` best of candidates (score, block), best first, filled with -1.
inline std::vector<int32_t> best_blocks(std::vector<std::pair<float, int64_t>> candidates, int64_t wanted) {
  std::sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  });
  std::vector<int32_t> blocks(static_cast<size_t>(wanted), -1);
  for (size_t i = 0; i < blocks.size() && i < candidates.size(); ++i) {
    blocks[i] = static_cast<int32_t>(candidates[i].second);
  }
  return blocks;
}

// One document of a packed case on its own, and its part of the data.
inline std::pair<SelectionCase, IndexData> document_alone(const SelectionCase& setup, const IndexData& data,
                                                          int64_t begin, int64_t end) {
  SelectionCase alone = setup;
  alone.document_starts = {0};
  alone.num_tokens = end - begin;
  IndexData part;
  for (int64_t head = 0; head < setup.num_heads; ++head) {
    const int64_t first = (head * setup.num_tokens + begin) * setup.num_dims;
    const int64_t last = (head * setup.num_tokens + end) * setup.num_dims;
    part.query.insert(part.query.end(), data.query.begin() + first, data.query.begin() + last);
    part.key.insert(part.key.end(), data.key.begin() + first, data.key.begin() + last);
  }
  return {alone, part};
}

}  // namespace hiptrain::kernels
