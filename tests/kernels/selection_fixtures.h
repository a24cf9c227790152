// What the tests of the selection share: cases, random index data, calls of search and union, and the definition of a
// score in plain loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/attention_geometry.h"
#include "kernels/search.h"
#include "kernels/sliding_union.h"
#include "tests/support/kernel_call.h"

namespace hiptrain::kernels {

using testing::Backend;
using testing::KernelCall;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct SelectionCase {
  int64_t num_tokens = 500;
  std::vector<int64_t> document_starts = {0};
  int64_t block_size = 16, sink_tokens = 16, window = 32;
  int num_heads = 1, num_dims = 4, num_picks = 2;
  int index_heads = 1;  // index queries of a token and KV head
  int64_t scan_tokens = 1 << 30;
  int beam = 2, top_nodes = 4;
  Backend backend = Backend::kReference;
  ElementType index_element = ElementType::kFloat32;  // of index keys

  ElementType query_element() const {
    return index_element == ElementType::kFloat8E4m3 ? ElementType::kBfloat16 : index_element;
  }
  // The dims of all index queries of a token and KV head.
  int64_t query_dims() const { return int64_t{index_heads} * num_dims; }
  AttentionGeometry geometry() const {
    return {.num_tokens = num_tokens,
            .document_starts = document_starts.data(),
            .num_documents = static_cast<int64_t>(document_starts.size()),
            .block_size = block_size,
            .sink_tokens = sink_tokens,
            .window = window};
  }
};

// The backend and the kind of index on which a test runs.
struct Place {
  Backend backend;
  ElementType index_element;
};

inline SelectionCase at(Place place, SelectionCase setup) {
  setup.backend = place.backend;
  setup.index_element = place.index_element;
  return setup;
}

constexpr Place kPlaces[] = {{Backend::kReference, ElementType::kFloat32},
                             {Backend::kReference, ElementType::kBfloat16},
                             {Backend::kCuda, ElementType::kFloat32},
                             {Backend::kCuda, ElementType::kBfloat16}};
constexpr Place kFloat8Places[] = {{Backend::kReference, ElementType::kFloat8E4m3},
                                   {Backend::kCuda, ElementType::kFloat8E4m3}};

inline std::string place_name(const ::testing::TestParamInfo<Place>& place) {
  const ElementType element = place.param.index_element;
  return std::string(backend_name(place.param.backend)) + (element == ElementType::kFloat32    ? "_float32"
                                                           : element == ElementType::kBfloat16 ? "_bfloat16"
                                                                                               : "_float8");
}

// Tests of a derived class run at every place.
class AtPlace : public ::testing::TestWithParam<Place> {
 protected:
  void SetUp() override { HIPTRAIN_SKIP_WITHOUT_GPU(GetParam().backend); }
};

struct IndexData {
  std::vector<float> query;  // (heads, tokens, index heads, dims)
  std::vector<float> key;    // (heads, tokens, dims)
};

inline IndexData zeros(const SelectionCase& setup) {
  const auto tokens = static_cast<size_t>(setup.num_heads * setup.num_tokens);
  return {std::vector<float>(tokens * static_cast<size_t>(setup.query_dims())),
          std::vector<float>(tokens * static_cast<size_t>(setup.num_dims))};
}

template <typename T>
T one_of(std::mt19937& generator, const std::vector<T>& values) {
  return values[generator() % values.size()];
}

inline int64_t between(std::mt19937& generator, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

// Returns document starts that are multiples of 128, which suit every block size.
inline std::vector<int64_t> random_documents(std::mt19937& generator, int64_t num_tokens) {
  std::vector<int64_t> starts = {0};
  for (int64_t position = 128; position < num_tokens; position += 128) {
    if (generator() % 4 == 0) starts.push_back(position);
  }
  return starts;
}

// Small integers, for which every dot product is exact in any order, and ties are frequent.
inline IndexData small_integers(const SelectionCase& setup, std::mt19937& generator) {
  IndexData data = zeros(setup);
  for (float& value : data.query) value = static_cast<float>(between(generator, -2, 2));
  for (float& value : data.key) value = static_cast<float>(between(generator, -2, 2));
  return data;
}

inline float rounded_to(ElementType element, float value) {
  if (element == ElementType::kFloat8E4m3) return float8_to_float(float_to_float8(value));
  return element == ElementType::kFloat32 ? value : bfloat16_to_float(float_to_bfloat16(value));
}

inline IndexData normal_values(const SelectionCase& setup, std::mt19937& generator) {
  IndexData data = zeros(setup);
  std::normal_distribution<float> normal;
  for (float& value : data.query) value = rounded_to(setup.query_element(), normal(generator));
  for (float& value : data.key) value = rounded_to(setup.index_element, normal(generator));
  return data;
}

// Returns values as memory of the element type.
inline std::vector<char> as_elements(const std::vector<float>& values, ElementType element) {
  std::vector<char> bytes(values.size() * static_cast<size_t>(element_bytes(element)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (element == ElementType::kFloat32) {
      std::memcpy(&bytes[i * 4], &values[i], 4);
    } else if (element == ElementType::kBfloat16) {
      const uint16_t bits = float_to_bfloat16(values[i]);
      std::memcpy(&bytes[i * 2], &bits, 2);
    } else {
      bytes[i] = static_cast<char>(float_to_float8(values[i]));
    }
  }
  return bytes;
}

struct SearchResult {
  std::vector<int32_t> picks;  // (heads, queries, picks)
  int64_t num_nan = 0;
};

inline SearchParams search_params(const SelectionCase& setup) {
  SearchParams params{};
  params.geometry = setup.geometry();
  params.num_kv_heads = setup.num_heads;
  params.query_element = setup.query_element();
  params.key_element = setup.index_element;
  params.num_index_heads = setup.index_heads;
  params.num_index_dims = setup.num_dims;
  params.num_picks = setup.num_picks;
  params.scan_tokens = setup.scan_tokens;
  params.beam = setup.beam;
  params.top_nodes = setup.top_nodes;
  return params;
}

// Searches the tokens [begin, end) and gives the search only the index queries from its halo on.
inline SearchResult run_search_range(const SelectionCase& setup, const IndexData& data, int64_t begin, int64_t end) {
  SearchParams params = search_params(setup);
  params.query_begin = begin;
  params.num_queries = end - begin;
  params.index_query_begin = std::max<int64_t>(0, begin - search_halo(params));
  const int64_t num_given = end - params.index_query_begin;
  std::vector<float> queries;
  for (int head = 0; head < setup.num_heads; ++head) {
    const auto row = data.query.begin() + (head * setup.num_tokens + params.index_query_begin) * setup.query_dims();
    queries.insert(queries.end(), row, row + num_given * setup.query_dims());
  }
  SearchResult result;
  result.picks.assign(static_cast<size_t>(setup.num_heads * params.num_queries * setup.num_picks), -7);
  std::vector<int64_t> num_nan = {0};
  const std::vector<char> query_elements = as_elements(queries, setup.query_element());
  const std::vector<char> key_elements = as_elements(data.key, setup.index_element);
  KernelCall call(setup.backend);
  params.geometry.document_starts = call.in(setup.document_starts);
  params.index_query = call.in(query_elements);
  params.index_key = call.in(key_elements);
  params.index_query_head_stride = num_given * setup.query_dims();
  params.index_key_head_stride = setup.num_tokens * setup.num_dims;
  params.picks = call.in_out(result.picks);
  params.picks_head_stride = params.num_queries * setup.num_picks;
  params.num_nan_scores = call.in_out(num_nan);
  params.workspace = call.workspace(search_workspace_bytes(params));
  call.run(params, search_reference, search_cuda);
  result.num_nan = num_nan[0];
  return result;
}

inline SearchResult run_search(const SelectionCase& setup, const IndexData& data) {
  return run_search_range(setup, data, 0, setup.num_tokens);
}

// Replaces some keys and queries by NaN or infinity. (float8 has no infinity, and sums with its largest number are not
// exact.)
inline void make_some_not_finite(std::mt19937& generator, const SelectionCase& setup, IndexData* data) {
  for (std::vector<float>* values : {&data->query, &data->key}) {
    const bool nan_only = values == &data->key && setup.index_element == ElementType::kFloat8E4m3;
    for (int i = 0; i < 6; ++i) {
      const auto at = static_cast<size_t>(between(generator, 0, std::ssize(*values) - 1));
      const float value = one_of<float>(generator, {kNan, kInfinity, -kInfinity});
      (*values)[at] = nan_only ? kNan : value;
    }
  }
}

// Returns the picks of one token.
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

inline UnionParams union_params(const SelectionCase& setup, int64_t picks_begin, int64_t begin, int64_t end) {
  UnionParams params{};
  params.picks_head_stride = (end - picks_begin) * setup.num_picks;
  params.picks_begin = picks_begin;
  params.geometry = setup.geometry();
  params.query_begin = begin;
  params.num_queries = end - begin;
  params.num_kv_heads = setup.num_heads;
  params.num_picks = setup.num_picks;
  return params;
}

// Computes offsets from counts and allocates the entries.
inline void lay_out(const SelectionCase& setup, TileLists* lists) {
  const int64_t tiles = static_cast<int64_t>(lists->counts.size()) / setup.num_heads;
  lists->offsets.assign(static_cast<size_t>(setup.num_heads * (tiles + 1)), -1);
  KernelCall call(setup.backend);
  const ListOffsetsParams params{.counts = call.in(lists->counts),
                                 .offsets = call.in_out(lists->offsets),
                                 .num_tiles = tiles,
                                 .num_kv_heads = setup.num_heads};
  call.run(params, list_offsets_reference, list_offsets_cuda);
  lists->entries.assign(static_cast<size_t>(lists->offsets.back()), ~0u);
}

// `picks` holds the tokens [picks_begin, end) of every head. Returns the lists of the tiles of [begin, end).
inline TileLists run_union(const SelectionCase& setup, const std::vector<int32_t>& picks, int64_t picks_begin,
                           int64_t begin, int64_t end, int64_t max_blocks = 0) {
  TileLists lists;
  lists.counts.assign(static_cast<size_t>(setup.num_heads * num_tiles(end - begin)), -1);
  for (const bool writes_entries : {false, true}) {
    std::vector<int64_t> num_dropped = {0};
    KernelCall call(setup.backend);
    UnionParams params = union_params(setup, picks_begin, begin, end);
    params.geometry.document_starts = call.in(setup.document_starts);
    params.picks = call.in(picks);
    params.counts = writes_entries ? nullptr : call.in_out(lists.counts);
    params.offsets = writes_entries ? call.in(lists.offsets) : nullptr;
    params.entries = writes_entries ? call.in_out(lists.entries) : nullptr;
    params.max_blocks = max_blocks;
    params.num_dropped = call.in_out(num_dropped);
    call.run(params, sliding_union_reference, sliding_union_cuda);
    lists.num_dropped += num_dropped[0];
    if (!writes_entries) lay_out(setup, &lists);
    if (lists.entries.empty()) break;  // without entries there is nothing left to write
  }
  return lists;
}

// The definition: the largest dot product of one of the token's queries with a key of the block; a NaN counts as
// -infinity.
inline float block_score(const SelectionCase& setup, const IndexData& data, int64_t head, int64_t token,
                         int64_t block) {
  float best = -kInfinity;
  for (int64_t i = 0; i < setup.index_heads * setup.block_size; ++i) {
    const int64_t index_head = i / setup.block_size, position = block * setup.block_size + i % setup.block_size;
    const float* query =
        data.query.data() + (head * setup.num_tokens + token) * setup.query_dims() + index_head * setup.num_dims;
    const float* key = data.key.data() + (head * setup.num_tokens + position) * setup.num_dims;
    float sum = 0;
    for (int d = 0; d < setup.num_dims; ++d) sum = std::fma(query[d], key[d], sum);
    if (sum > best) best = sum;
  }
  return best;
}

// Returns the `wanted` best of the candidates (score, block), best first, filled with -1.
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

// Returns one document of a packed case as a case of its own, with its part of the data.
inline std::pair<SelectionCase, IndexData> document_alone(const SelectionCase& setup, const IndexData& data,
                                                          int64_t begin, int64_t end) {
  SelectionCase alone = setup;
  alone.document_starts = {0};
  alone.num_tokens = end - begin;
  IndexData part;
  for (int64_t head = 0; head < setup.num_heads; ++head) {
    const int64_t first = head * setup.num_tokens + begin, last = head * setup.num_tokens + end;
    const auto add_rows = [&](const std::vector<float>& from, int64_t width, std::vector<float>* to) {
      to->insert(to->end(), from.begin() + first * width, from.begin() + last * width);
    };
    add_rows(data.query, setup.query_dims(), &part.query);
    add_rows(data.key, setup.num_dims, &part.key);
  }
  return {alone, part};
}

}  // namespace hiptrain::kernels
