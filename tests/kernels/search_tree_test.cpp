// Compares the tree with its definition token by token, and checks the promises of the search when it uses the tree.
#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "kernels/reference/parallel_for.h"
#include "kernels/reference/search_tree.h"
#include "tests/kernels/selection_checks.h"

namespace hiptrain::kernels {
namespace {

constexpr unsigned kSeed = 20262;

// The tree as its definition reads, one token at a time, without lists of tiles or stored nodes: everything is computed
// from the keys.
class TreeDefinition {
 public:
  TreeDefinition(const SelectionCase& setup, const IndexData& data, int64_t head)
      : setup_(setup), data_(data), head_(head), kept_(static_cast<size_t>(setup.num_tokens)) {}

  std::vector<int32_t> picks(int64_t token) {
    const TileRanges ranges = tile_ranges(setup_.geometry(), token / kQueryTile);
    const int64_t searched = ranges.num_searched();
    std::vector<std::pair<float, int64_t>> candidates;
    if (searched * setup_.block_size <= setup_.scan_tokens) {
      for (int64_t x = 0; x < searched; ++x) add_leaf(ranges, token, x, &candidates);
      return best_blocks(candidates, setup_.num_picks);
    }
    int top = 0;
    while (whole(searched, top) * (top == 0 ? 1 : 4) > setup_.top_nodes) ++top;
    const bool blocks_are_kept = setup_.num_picks <= 16 && setup_.beam < setup_.num_tokens / setup_.block_size / 16;
    for (int level = top; level >= (blocks_are_kept ? 0 : 1); --level) {
      kept_[static_cast<size_t>(token)][level] = keep(ranges, token, level, seen(ranges, token, level, top));
    }
    candidates.clear();
    const std::set<int64_t> blocks =
        blocks_are_kept ? kept_by_neighbours(ranges, token, 0) : seen(ranges, token, 0, top);
    for (const int64_t x : blocks) add_leaf(ranges, token, x, &candidates);
    return best_blocks(candidates, setup_.num_picks);
  }

 private:
  static int64_t whole(int64_t searched, int level) {
    for (; level > 0; --level) searched /= 16;
    return searched;
  }

  void add_leaf(const TileRanges& ranges, int64_t token, int64_t x,
                std::vector<std::pair<float, int64_t>>* candidates) const {
    const int64_t block = ranges.sink_end + x;
    candidates->emplace_back(block_score(setup_, data_, head_, token, block), block);
  }

  // Keeps the best nodes of each class, and the best of these.
  std::vector<int32_t> keep(const TileRanges& ranges, int64_t token, int level, const std::set<int64_t>& nodes) const {
    const int64_t most = std::max<int64_t>(1, setup_.num_tokens / setup_.block_size / 16);
    const int64_t beam = level == 0 ? 48 : std::min<int64_t>(setup_.beam, most);
    int64_t count = level == 0 ? 48 : 16;
    while (count < beam) count *= 2;
    std::map<int64_t, std::vector<std::pair<float, int64_t>>> by_class;
    for (const int64_t node : nodes) by_class[node % 4].emplace_back(score(ranges, token, level, node), node);
    std::vector<std::pair<float, int64_t>> winners;
    for (const auto& [number, candidates] : by_class) {
      for (const int64_t winner : best_blocks(candidates, std::min<int64_t>(count / 4, std::ssize(candidates))))
        winners.emplace_back(score(ranges, token, level, winner), winner);
    }
    return best_blocks(winners, std::min<int64_t>(beam, std::ssize(winners)));
  }

  // Returns the nodes of a level that the token sees.
  std::set<int64_t> seen(const TileRanges& ranges, int64_t token, int level, int top) {
    const int64_t searched = ranges.num_searched();
    std::set<int64_t> nodes;
    const int64_t first = level == top ? 0 : whole(searched, level + 1) * 16;
    for (int64_t node = first; node < whole(searched, level); ++node) nodes.insert(node);
    if (level == top) return nodes;
    for (const int64_t node : kept_by_neighbours(ranges, token, level + 1)) {
      for (int64_t child = 0; child < 16; ++child) nodes.insert(node * 16 + child);
    }
    return nodes;
  }

  // Returns what the tokens of the previous tile kept, and those of the token's tile up to itself. Above level 1 these
  // are the first ones that a token kept, and what 8 tokens of the previous tile kept.
  std::set<int64_t> kept_by_neighbours(const TileRanges& ranges, int64_t token, int level) {
    std::set<int64_t> nodes;
    std::map<int64_t, int> tokens_that_kept;
    const bool beam_is_all = setup_.beam >= setup_.num_tokens / setup_.block_size / 16;
    const auto leading = static_cast<size_t>(level < 2 || beam_is_all ? 1 << 30 : std::max(1, setup_.beam / 4));
    const int64_t oldest = std::max(ranges.document_begin, ranges.begin - kQueryTile);
    for (int64_t other = oldest; other <= token; ++other) {
      const std::vector<int32_t>& kept = kept_[static_cast<size_t>(other)][level];
      nodes.insert(kept.begin(), kept.begin() + std::min(leading, kept.size()));
      for (const int32_t node : kept) {
        if (other < ranges.begin && ++tokens_that_kept[node] == 8) nodes.insert(node);
      }
    }
    return nodes;
  }

  // Returns the score of the node's best centre or box.
  float score(const TileRanges& ranges, int64_t token, int level, int64_t node) const {
    int64_t node_keys = setup_.block_size;
    for (int i = 0; i < level; ++i) node_keys *= 16;
    const int64_t num_rows = level == 0 ? 16 : 32, row_keys = node_keys / num_rows;
    float best = -kInfinity;
    for (int64_t i = 0; i < num_rows * setup_.index_heads; ++i) {
      const int64_t first = ranges.sink_end * setup_.block_size + node * node_keys + i % num_rows * row_keys;
      const int64_t index_head = i / num_rows, end = first + row_keys;
      best = std::max(
          best, level == 0 ? centre_score(token, index_head, first, end) : box_bound(token, index_head, first, end));
    }
    return best;
  }

  float centre_score(int64_t token, int64_t index_head, int64_t first_key, int64_t end_key) const {
    float sum = 0;
    for (int d = 0; d < setup_.num_dims; ++d) {
      float mean = 0;
      for (int64_t key = first_key; key < end_key; ++key) mean += key_value(key, d);
      mean = rounded_to(setup_.index_element, mean / static_cast<float>(end_key - first_key));
      sum += query_value(token, index_head, d) * mean;
    }
    return sum;
  }

  float box_bound(int64_t token, int64_t index_head, int64_t first_key, int64_t end_key) const {
    float sum = 0;
    for (int d = 0; d < setup_.num_dims; ++d) {
      float low = kInfinity, high = -kInfinity;
      for (int64_t key = first_key; key < end_key; ++key) {
        low = std::min(low, key_value(key, d));
        high = std::max(high, key_value(key, d));
      }
      const float query = query_value(token, index_head, d);
      sum += std::max(query * low, query * high);
    }
    return sum;
  }

  float key_value(int64_t key, int dim) const {
    return data_.key[static_cast<size_t>(row(key) * setup_.num_dims + dim)];
  }
  float query_value(int64_t token, int64_t index_head, int dim) const {
    return data_.query[static_cast<size_t>(row(token) * setup_.query_dims() + index_head * setup_.num_dims + dim)];
  }

  int64_t row(int64_t position) const { return head_ * setup_.num_tokens + position; }

  const SelectionCase& setup_;
  const IndexData& data_;
  int64_t head_;
  std::vector<std::map<int, std::vector<int32_t>>> kept_;  // by token, then level
};

void expect_definition(const SelectionCase& setup, const IndexData& data) {
  const SearchResult result = run_search(setup, data);
  expect_valid(setup, result.picks);
  for (int64_t head = 0; head < setup.num_heads; ++head) {
    TreeDefinition definition(setup, data, head);
    for (int64_t token = 0; token < setup.num_tokens; ++token) {
      ASSERT_EQ(picks_of(setup, result.picks, head, token), definition.picks(token))
          << "head " << head << " token " << token << " of " << setup.num_tokens;
    }
  }
}

using SearchTreeAtPlace = AtPlace;
INSTANTIATE_TEST_SUITE_P(Places, SearchTreeAtPlace, ::testing::ValuesIn(kPlaces), place_name);
INSTANTIATE_TEST_SUITE_P(Float8Places, SearchTreeAtPlace, ::testing::ValuesIn(kFloat8Places), place_name);

// A number of dims that the tensor cores take.
SelectionCase tree_case(Place place, int64_t num_tokens) {
  SelectionCase setup = at(place, {});
  setup.num_dims = setup.index_element == ElementType::kFloat8E4m3 ? 16 : 8;
  setup.num_tokens = num_tokens;
  setup.scan_tokens = 0;
  return setup;
}

// Moves every run of 64 keys to a centre of its own, so that nodes differ and a narrow beam has a choice to make.
// Float8 keys stay small enough that all sums are exact in half precision.
void move_keys_apart(const SelectionCase& setup, std::mt19937& generator, IndexData* data) {
  const int64_t far = setup.index_element == ElementType::kFloat8E4m3 ? 4 : 40;
  std::vector<float> centre(static_cast<size_t>(setup.num_dims));
  for (int64_t row = 0; row < setup.num_heads * setup.num_tokens; ++row) {
    for (size_t d = 0; d < centre.size(); ++d) {
      if (row % 64 == 0) centre[d] = static_cast<float>(between(generator, -far, far));
      data->key[static_cast<size_t>(row) * centre.size() + d] += centre[d];
    }
  }
}

// Makes queries change only now and then. The tokens of a tile then agree on few of the nodes, and it matters who kept
// one.
void make_queries_rarely_change(const SelectionCase& setup, std::mt19937& generator, IndexData* data) {
  for (int64_t row = 1; row < setup.num_heads * setup.num_tokens; ++row) {
    if (generator() % 40 == 0) continue;
    const auto query = data->query.begin() + row * setup.query_dims();
    std::copy(query - setup.query_dims(), query, query);
  }
}

TEST(SearchTree, CentresAreMeansAndBoxesHoldTheirKeys) {
  std::mt19937 generator(kSeed + 12);
  for (const int64_t block_size : {16, 64}) {
    SelectionCase setup = tree_case(kPlaces[0], 520 * block_size);
    setup.num_dims = 3;
    setup.block_size = block_size;
    setup.top_nodes = 8;
    const IndexData data = normal_values(setup, generator);
    const TreeRows rows(search_params(setup), data.key.data(), 520);
    for (const int level : {0, 1, 2}) {
      const int64_t node_rows = level == 0 ? 16 : 32;
      const int64_t row_keys = (block_size << (4 * level)) / node_rows;
      for (int64_t i = 0; i < num_whole_nodes(520, level) * node_rows * 3; ++i) {
        const int64_t row = i / 3, d = i % 3;
        std::vector<float> values;
        for (int64_t key = row * row_keys; key < (row + 1) * row_keys; ++key) {
          values.push_back(data.key[static_cast<size_t>(key * 3 + d)]);
        }
        const auto [low, high] = std::minmax_element(values.begin(), values.end());
        const float mean = std::accumulate(values.begin(), values.end(), 0.0f) / static_cast<float>(row_keys);
        const float* const node = rows.node(level, row / node_rows);
        if (level == 0) {
          ASSERT_NEAR(node[row % node_rows * 3 + d], mean, 1e-6) << "centre " << row;
        } else {
          ASSERT_EQ(node[(row % node_rows * 3 + d) * 2], *high) << "level " << level << " box " << row;
          ASSERT_EQ(node[(row % node_rows * 3 + d) * 2 + 1], *low) << "level " << level << " box " << row;
        }
      }
    }
  }
}

TEST_P(SearchTreeAtPlace, OneLevelFollowsTheDefinition) {
  std::mt19937 generator(kSeed);
  std::printf("seed %u\n", kSeed);
  for (int i = 0; i < 12; ++i) {
    SelectionCase setup = tree_case(GetParam(), between(generator, 1000, 1700));
    setup.document_starts = {0, 128 * between(generator, 1, 7)};
    setup.block_size = one_of<int64_t>(generator, {16, 32});
    setup.sink_tokens = setup.block_size * between(generator, 0, 2);
    setup.window = one_of<int64_t>(generator, {1, 50, 130});
    setup.num_heads = 1 + i % 2;
    setup.num_dims = static_cast<int>(between(generator, 1, 6));
    if (GetParam().index_element == ElementType::kBfloat16) setup.num_dims = one_of<int>(generator, {5, 8, 16, 24, 32});
    if (GetParam().index_element == ElementType::kFloat8E4m3) setup.num_dims = one_of<int>(generator, {5, 16, 32});
    setup.num_picks = static_cast<int>(between(generator, 1, 8));
    setup.beam = static_cast<int>(between(generator, 1, 3));
    setup.top_nodes = one_of<int>(generator, {4, 8, 24, 200});  // 200: all blocks are scored by their centres
    setup.scan_tokens = one_of<int64_t>(generator, {0, 500});   // 500: the first tiles scan
    setup.index_heads = one_of<int>(generator, {1, 2, 3, 4});
    IndexData data = small_integers(setup, generator);
    if (i % 3 != 0) {
      make_queries_rarely_change(setup, generator, &data);
      move_keys_apart(setup, generator, &data);
    }
    expect_definition(setup, data);
  }
}

TEST_P(SearchTreeAtPlace, TwoLevelsFollowTheDefinition) {
  std::mt19937 generator(kSeed + 1);
  SelectionCase setup = tree_case(GetParam(), 8601);  // two whole nodes of level 2 at the end
  setup.beam = 1;
  setup.top_nodes = 12;
  setup.index_heads = 3;
  IndexData data = small_integers(setup, generator);
  make_queries_rarely_change(setup, generator, &data);
  move_keys_apart(setup, generator, &data);
  expect_definition(setup, data);
  setup.beam = 3;
  setup.top_nodes = 72;  // the top level changes within the sequence
  expect_definition(setup, data);
}

TEST_P(SearchTreeAtPlace, IndexesOfAnyWidthFollowTheReference) {
  std::mt19937 generator(kSeed + 13);
  for (const int num_dims : {3, 8, 16, 24, 32, 64, 128}) {
    for (const bool finite : {true, false}) {
      SelectionCase setup = tree_case(GetParam(), between(generator, 2000, 6000));
      setup.document_starts = {0, 128 * between(generator, 1, 12)};
      setup.block_size = one_of<int64_t>(generator, {16, 32, 64, 128});
      setup.num_dims = num_dims;
      setup.num_picks = one_of<int>(generator, {1, 2, 3, 5, 20});
      setup.beam = static_cast<int>(between(generator, 2, 9));
      setup.top_nodes = one_of<int>(generator, {4, 20, 80, 1000});
      setup.index_heads = one_of<int>(generator, {1, 2, 3, 4, 7, 16});
      IndexData data = small_integers(setup, generator);
      make_queries_rarely_change(setup, generator, &data);
      move_keys_apart(setup, generator, &data);
      if (!finite) make_some_not_finite(generator, setup, &data);
      expect_as_reference(setup, data);
    }
  }
}

TEST_P(SearchTreeAtPlace, UnboundedBeamIsTheScan) {
  std::mt19937 generator(kSeed + 2);
  for (const int64_t block_size : {16, 32, 64, 128}) {
    SelectionCase setup = tree_case(GetParam(), between(generator, 30 * block_size, 60 * block_size));
    setup.block_size = setup.sink_tokens = block_size;
    setup.num_dims = 16;
    setup.num_picks = 5;
    setup.index_heads = 4;
    setup.beam = 1 << 20;
    setup.top_nodes = 2;
    const IndexData data = normal_values(setup, generator);
    const SearchResult tree = run_search(setup, data);
    setup.scan_tokens = 1 << 30;
    EXPECT_EQ(tree.picks, run_search(setup, data).picks) << block_size;
  }
}

TEST_P(SearchTreeAtPlace, NothingFromTheFuture) {
  std::mt19937 generator(kSeed + 3);
  SelectionCase setup = tree_case(GetParam(), 2114);
  setup.num_picks = 3;
  setup.beam = 1;
  setup.top_nodes = 32;
  setup.index_heads = 2;
  ASSERT_GE(search_halo(search_params(setup)), kQueryTile);
  IndexData data = normal_values(setup, generator);
  make_queries_rarely_change(setup, generator, &data);
  const IndexData other = normal_values(setup, generator);
  expect_causal(setup, data, other, 17);
  expect_causal(setup, data, other, 31);
}

TEST_P(SearchTreeAtPlace, ChunksAgreeWithTheirHalo) {
  std::mt19937 generator(kSeed + 4);
  SelectionCase setup = tree_case(GetParam(), 6000);
  setup.num_heads = 2;
  setup.beam = 1;
  setup.top_nodes = 4;
  setup.index_heads = 3;
  IndexData data = normal_values(setup, generator);
  EXPECT_EQ(search_halo(search_params(setup)), 3 * kQueryTile);
  data.key[static_cast<size_t>(1700 * setup.num_dims)] = kNan;
  expect_chunks_agree(setup, data, {0, 64, 1024, 4160, 4224, 5760, 6000});
  setup.document_starts = {0, 512, 1792};
  setup.scan_tokens = 1500;
  expect_chunks_agree(setup, data, {0, 64, 1024, 3328, 3392, 5760, 6000});
}

// A node that many tokens of a tile keep is passed on to the next tile even if it leads for none of them, and even if
// none of its siblings is passed on.
TEST_P(SearchTreeAtPlace, CommonNodesReachTheNextTile) {
  std::mt19937 generator(kSeed + 15);
  SelectionCase setup = tree_case(GetParam(), 90'000);  // 21 nodes of level 2, the children of two nodes
  setup.beam = 8;                                       // of which two lead
  setup.top_nodes = 84;
  IndexData data = small_integers(setup, generator);
  make_queries_rarely_change(setup, generator, &data);
  move_keys_apart(setup, generator, &data);
  expect_as_reference(setup, data);
}

TEST(SearchTree, HaloIsThatOfTheHighestTree) {
  SelectionCase setup = tree_case(kPlaces[0], 1 << 20);
  setup.block_size = 64;
  setup.top_nodes = 256;
  EXPECT_EQ(search_halo(search_params(setup)), 3 * kQueryTile);  // 16,382 blocks, 1,023 and 63 nodes
  setup.num_picks = 17;                                          // blocks are not chosen by their centres
  EXPECT_EQ(search_halo(search_params(setup)), 2 * kQueryTile);
  setup.top_nodes = 4096;
  EXPECT_EQ(search_halo(search_params(setup)), kQueryTile);
  setup.num_picks = 2;
  setup.document_starts = {0, 1 << 19};  // 8,190 blocks each
  EXPECT_EQ(search_halo(search_params(setup)), 2 * kQueryTile);
  setup.top_nodes = 8192;
  EXPECT_EQ(search_halo(search_params(setup)), kQueryTile);
  setup.num_picks = 17;
  EXPECT_EQ(search_halo(search_params(setup)), 0);
  setup.top_nodes = 1;
  setup.scan_tokens = 1 << 20;
  EXPECT_EQ(search_halo(search_params(setup)), 0);
}

TEST_P(SearchTreeAtPlace, DocumentsPickWhatTheyPickAlone) {
  std::mt19937 generator(kSeed + 5);
  SelectionCase setup = tree_case(GetParam(), 3000);
  setup.document_starts = {0, 128, 1280, 1408};
  setup.num_heads = 2;
  setup.beam = 1;
  setup.top_nodes = 8;
  setup.index_heads = 2;
  expect_documents_alone(setup, normal_values(setup, generator));
}

TEST_P(SearchTreeAtPlace, ScaleIsFree) {
  std::mt19937 generator(kSeed + 6);
  SelectionCase setup = tree_case(GetParam(), 1500);
  setup.index_heads = 4;
  expect_scale_free(setup, normal_values(setup, generator));
}

TEST(SearchTree, ThreadsDoNotMatter) {
  std::mt19937 generator(kSeed + 7);
  SelectionCase setup = tree_case(kPlaces[0], 5000);
  setup.num_heads = 2;
  const IndexData data = normal_values(setup, generator);
  set_reference_threads(1);
  const SearchResult one = run_search(setup, data);
  set_reference_threads(5);
  EXPECT_EQ(run_search(setup, data).picks, one.picks);
  set_reference_threads(0);
}

TEST_P(SearchTreeAtPlace, EqualScoresGoToTheLowestBlocks) {
  SelectionCase setup = tree_case(GetParam(), 1400);
  setup.num_picks = 4;
  setup.beam = 1;
  setup.top_nodes = 4;
  const auto size = static_cast<size_t>(1400 * setup.num_dims);
  const IndexData data{std::vector<float>(size, 0.0f), std::vector<float>(size, 1.0f)};
  const SearchResult result = run_search(setup, data);
  for (int64_t token = 256; token < setup.num_tokens; ++token) {
    ASSERT_EQ(picks_of(setup, result.picks, 0, token), (std::vector<int32_t>{1, 2, 3, 4})) << token;
  }
}

TEST_P(SearchTreeAtPlace, ManyPicksFromFewNodesAreStillAllThere) {
  std::mt19937 generator(kSeed + 8);
  SelectionCase setup = tree_case(GetParam(), 2500);
  setup.num_picks = 48;
  setup.beam = 3;
  setup.top_nodes = 8;
  expect_valid(setup, run_search(setup, normal_values(setup, generator)).picks);
}

TEST_P(SearchTreeAtPlace, ABeamThatTheGpuCannotHoldIsNamed) {
  std::mt19937 generator(kSeed + 14);
  SelectionCase setup = tree_case(GetParam(), 20'000);  // 78 nodes of level 1
  setup.beam = 17;
  const IndexData data = small_integers(setup, generator);
  if (setup.backend == Backend::kCuda)
    EXPECT_THROW(run_search(setup, data), std::logic_error);
  else
    expect_valid(setup, run_search(setup, data).picks);  // the CPU takes any beam
}

// A NaN key must not hide the other keys of its centre or box, and its node must not hide the other nodes.
TEST_P(SearchTreeAtPlace, NanKeysHideNothing) {
  std::mt19937 generator(kSeed + 9);
  SelectionCase setup = tree_case(GetParam(), 1500);
  setup.beam = 1;
  setup.top_nodes = 32;
  IndexData data = small_integers(setup, generator);
  for (int64_t key = 3; key < setup.num_tokens; key += 8) {
    data.key[static_cast<size_t>(key * setup.num_dims + between(generator, 0, 3))] = kNan;
  }
  for (int d = 0; d < setup.num_dims; ++d) {
    data.query[static_cast<size_t>(1490 * setup.num_dims + d)] = 1;
    data.key[static_cast<size_t>(700 * setup.num_dims + d)] = 50;  // block 43, in a box with a NaN
  }
  const SearchResult result = run_search(setup, data);
  expect_valid(setup, result.picks);
  EXPECT_GT(result.num_nan, 0);
  EXPECT_EQ(picks_of(setup, result.picks, 0, 1490)[0], 43);
}

TEST_P(SearchTreeAtPlace, NothingButNanIsCountedAndStillPicks) {
  SelectionCase setup = tree_case(GetParam(), 1500);
  setup.beam = 1;
  setup.top_nodes = 4;
  const auto size = static_cast<size_t>(1500 * setup.num_dims);
  const IndexData nan_keys{std::vector<float>(size, 1.0f), std::vector<float>(size, kNan)};
  const IndexData nan_queries{std::vector<float>(size, kNan), std::vector<float>(size, 1.0f)};
  for (const IndexData& data : {nan_keys, nan_queries}) {
    const SearchResult result = run_search(setup, data);
    expect_valid(setup, result.picks);
    EXPECT_GT(result.num_nan, 1500);
    EXPECT_EQ(picks_of(setup, result.picks, 0, 1400), (std::vector<int32_t>{1, 2}));
  }
}

TEST_P(SearchTreeAtPlace, InfiniteKeysAreFound) {
  std::mt19937 generator(kSeed + 10);
  SelectionCase setup = tree_case(GetParam(), 1500);
  setup.beam = 1;
  setup.top_nodes = 32;
  IndexData data = small_integers(setup, generator);
  data.key[static_cast<size_t>(900 * setup.num_dims)] = kInfinity;  // block 56
  for (int d = 0; d < setup.num_dims; ++d) data.query[static_cast<size_t>(1490 * setup.num_dims + d)] = 1;
  EXPECT_EQ(picks_of(setup, run_search(setup, data).picks, 0, 1490)[0], 56);
}

TEST_P(SearchTreeAtPlace, PlantedKeysAreFound) {
  std::mt19937 generator(kSeed + 11);
  SelectionCase setup = tree_case(GetParam(), 8192);
  setup.num_dims = 16;
  setup.beam = 8;
  setup.top_nodes = 128;
  setup.index_heads = 4;
  IndexData data = normal_values(setup, generator);
  // Adjacent keys are similar. Otherwise no box would say anything about its keys.
  for (size_t i = static_cast<size_t>(setup.num_dims); i < data.key.size(); ++i) {
    const float before = data.key[i - static_cast<size_t>(setup.num_dims)];
    data.key[i] = 0.98f * before + 0.2f * data.key[i];
  }
  const double recall = planted_recall(setup, data, generator);
  std::printf("planted keys found: %.3f, by chance about %.3f\n", recall, 2 / 380.0);
  EXPECT_GT(recall, 0.5);
}

}  // namespace
}  // namespace hiptrain::kernels
