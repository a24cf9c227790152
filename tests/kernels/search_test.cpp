// Compares the scan with its definition, and checks the promises of the search.
#include <gtest/gtest.h>

#include <stdexcept>

#include "kernels/reference/block_scores.h"
#include "kernels/reference/parallel_for.h"
#include "kernels/reference/score_key.h"
#include "tests/kernels/selection_checks.h"

namespace hiptrain::kernels {
namespace {

constexpr unsigned kSeed = 20261;

using SearchAtPlace = AtPlace;
INSTANTIATE_TEST_SUITE_P(Places, SearchAtPlace, ::testing::ValuesIn(kPlaces), place_name);
INSTANTIATE_TEST_SUITE_P(Float8Places, SearchAtPlace, ::testing::ValuesIn(kFloat8Places), place_name);

SelectionCase random_case(Place place, std::mt19937& generator) {
  SelectionCase setup = at(place, {});
  setup.num_tokens = between(generator, 1, 900);
  setup.document_starts = random_documents(generator, setup.num_tokens);
  setup.block_size = one_of<int64_t>(generator, {16, 32, 64, 128});
  setup.sink_tokens = setup.block_size * between(generator, 0, 2);
  setup.window = one_of<int64_t>(generator, {1, 2, 17, 64, 100, 128});
  setup.num_heads = static_cast<int>(between(generator, 1, 3));
  setup.num_dims = static_cast<int>(between(generator, 1, 9));
  if (place.index_element != ElementType::kFloat32)
    setup.num_dims = one_of<int>(generator, {5, 8, 16, 24, 32, 64, 72, 80});
  setup.num_picks = static_cast<int>(between(generator, 1, 8));
  setup.index_heads = one_of<int>(generator, {1, 1, 2, 3, 4, 7, 16});
  return setup;
}

void expect_definition(const SelectionCase& setup, const IndexData& data) {
  const SearchResult result = run_search(setup, data);
  for (int64_t head = 0; head < setup.num_heads; ++head) {
    for (int64_t token = 0; token < setup.num_tokens; ++token) {
      const TileRanges ranges = tile_ranges(setup.geometry(), token / kQueryTile);
      std::vector<std::pair<float, int64_t>> candidates;
      for (int64_t block = ranges.sink_end; block < ranges.window_begin; ++block) {
        candidates.emplace_back(block_score(setup, data, head, token, block), block);
      }
      ASSERT_EQ(picks_of(setup, result.picks, head, token), best_blocks(candidates, setup.num_picks))
          << "head " << head << " token " << token << " of " << setup.num_tokens;
    }
  }
}

TEST_P(SearchAtPlace, SmallIntegersFollowTheDefinition) {
  std::mt19937 generator(kSeed);
  std::printf("seed %u\n", kSeed);
  for (int i = 0; i < 120; ++i) {
    const SelectionCase setup = random_case(GetParam(), generator);
    const IndexData data = small_integers(setup, generator);
    expect_definition(setup, data);
    expect_valid(setup, run_search(setup, data).picks);
  }
}

TEST_P(SearchAtPlace, LongSequencesOfOddLengthsFollowTheReference) {
  std::mt19937 generator(kSeed + 13);
  for (const int64_t num_tokens : {1, 63, 64, 65, 8191, 20'011, 70'000}) {
    for (const int num_dims : {16, 32, 128}) {
      SelectionCase setup = at(GetParam(), {.num_tokens = num_tokens,
                                            .block_size = 64,
                                            .sink_tokens = 64,
                                            .window = 1024,
                                            .num_dims = num_dims,
                                            .num_picks = 2,
                                            .index_heads = num_dims == 128 ? 1 : one_of<int>(generator, {1, 3, 4})});
      if (num_tokens > 8192) setup.document_starts = {0, 1024, 1152, 11'008};
      const IndexData data = small_integers(setup, generator);
      expect_as_reference(setup, data);
      if (num_tokens > 20'011) break;  // the reference is slow
    }
  }
}

enum class Signs { kBoth, kNegative, kMixedRows };

// Makes all scores negative, or those of every third row.
void make_scores_negative(const SelectionCase& setup, Signs signs, IndexData* data) {
  if (signs == Signs::kBoth) return;
  for (float& value : data->key) value = std::abs(value) + 1;
  for (size_t i = 0; i < data->query.size(); ++i) {
    const bool negative = signs == Signs::kNegative || i / static_cast<size_t>(setup.num_dims) % 3 == 0;
    data->query[i] = std::abs(data->query[i]) * (negative ? -1.0f : 1.0f) - (negative ? 1.0f : 0.0f);
  }
}

TEST_P(SearchAtPlace, BlocksOfManyKeysFollowTheReference) {
  std::mt19937 generator(kSeed + 16);
  for (const Signs signs : {Signs::kBoth, Signs::kNegative, Signs::kMixedRows}) {
    for (const int num_picks : {1, 2, 3, 8}) {
      for (const int64_t block_size : {64, 128}) {
        SelectionCase setup = at(GetParam(), {.num_tokens = between(generator, 2000, 5000),
                                              .document_starts = {0, 128 * between(generator, 1, 9)},
                                              .block_size = block_size,
                                              .sink_tokens = block_size * between(generator, 0, 1),
                                              .window = between(generator, 1, 300),
                                              .num_heads = 2,
                                              .num_dims = one_of<int>(generator, {8, 16, 32, 56, 64, 128}),
                                              .num_picks = num_picks,
                                              .index_heads = one_of<int>(generator, {1, 2, 3, 8})});
        IndexData data = small_integers(setup, generator);
        make_scores_negative(setup, signs, &data);
        if (generator() % 2 == 0) make_some_not_finite(generator, setup, &data);
        expect_as_reference(setup, data);
      }
    }
  }
}

// The places whose sums have the order of the definition. The tensor cores (bfloat16 and float8 on the GPU) have their
// own order. Their picks are only as good as those of the definition, see RealNumbersPickTheBestToRounding.
using SearchInOrder = AtPlace;
INSTANTIATE_TEST_SUITE_P(Places, SearchInOrder, ::testing::ValuesIn(kPlaces, kPlaces + 3), place_name);

TEST_P(SearchInOrder, RealNumbersFollowTheDefinitionBitForBit) {
  std::mt19937 generator(kSeed + 1);
  for (int i = 0; i < 30; ++i) {
    SelectionCase setup = random_case(GetParam(), generator);
    setup.num_dims = one_of<int>(generator, {5, 16, 32});
    expect_definition(setup, normal_values(setup, generator));
  }
}

// Multiplies a token's queries by the power of two that brings their largest magnitude into [bound / 2, bound), and
// rounds them to float8. The bound is the largest power of two, up to 16, for which num_dims products with 448 stay
// within the 65504 of half precision.
void round_to_float8(const SelectionCase& setup, float* query) {
  float bound = 16, largest = 0;
  while (static_cast<float>(setup.num_dims) * bound * 448 > 65504) bound /= 2;
  for (int d = 0; d < setup.query_dims(); ++d) largest = std::max(largest, std::abs(query[d]));
  float scale = 1;
  while (largest * scale >= bound) scale /= 2;
  while (largest > 0 && largest * scale < bound / 2) scale *= 2;
  for (int d = 0; d < setup.query_dims(); ++d) query[d] = rounded_to(ElementType::kFloat8E4m3, query[d] * scale);
}

// Returns the queries that are multiplied with float8 keys.
IndexData float8_queries(const SelectionCase& setup, IndexData data) {
  for (size_t i = 0; i < data.query.size(); i += static_cast<size_t>(setup.query_dims()))
    round_to_float8(setup, &data.query[i]);
  return data;
}

// 11 bits from 2^-14 on.
float nearest_half(float score) {
  if (score == 0) return 0;
  const int last_bit = std::max(std::ilogb(score), -14) - 10;
  return std::ldexp(std::nearbyint(std::ldexp(score, -last_bit)), last_bit);
}

using SearchOfFloat8 = AtPlace;
INSTANTIATE_TEST_SUITE_P(Float8Places, SearchOfFloat8, ::testing::ValuesIn(kFloat8Places), place_name);

// Dims that the tensor cores do not take, so that the GPU's sums also have the order of the definition.
TEST_P(SearchOfFloat8, RealNumbersFollowTheDefinitionBitForBit) {
  std::mt19937 generator(kSeed + 17);
  for (int i = 0; i < 20; ++i) {
    SelectionCase setup = random_case(GetParam(), generator);
    setup.num_dims = one_of<int>(generator, {5, 24, 40, 72});
    IndexData data = normal_values(setup, generator);
    for (float& value : data.query) value *= generator() % 8 == 0 ? 64.0f : 1.0f;
    const IndexData rounded = float8_queries(setup, data);
    const SearchResult result = run_search(setup, data);
    for (int64_t token = 0; token < setup.num_tokens; ++token) {
      const TileRanges ranges = tile_ranges(setup.geometry(), token / kQueryTile);
      std::vector<std::pair<float, int64_t>> candidates;
      for (int64_t block = ranges.sink_end; block < ranges.window_begin; ++block)
        candidates.emplace_back(nearest_half(block_score(setup, rounded, 0, token, block)), block);
      ASSERT_EQ(picks_of(setup, result.picks, 0, token), best_blocks(candidates, setup.num_picks)) << "token " << token;
    }
  }
}

TEST_P(SearchAtPlace, RealNumbersPickTheBestToRounding) {
  const bool float8 = GetParam().index_element == ElementType::kFloat8E4m3;
  const float tolerance = float8 ? 0.2f : 2e-4f;  // the tensor cores keep about 13 bits of a float8 sum, then 11
  std::mt19937 generator(kSeed + 14);
  for (const int num_dims : {16, 32, 64, 128}) {
    const SelectionCase setup = at(GetParam(), {.num_tokens = 1900,
                                                .block_size = 64,
                                                .sink_tokens = 64,
                                                .window = 100,
                                                .num_dims = num_dims,
                                                .index_heads = one_of<int>(generator, {1, 3, 4})});
    IndexData data = normal_values(setup, generator);
    const SearchResult result = run_search(setup, data);
    if (float8) data = float8_queries(setup, data);
    expect_valid(setup, result.picks);
    for (int64_t token = 0; token < setup.num_tokens; ++token) {
      const TileRanges ranges = tile_ranges(setup.geometry(), token / kQueryTile);
      std::vector<float> scores;
      for (int64_t block = ranges.sink_end; block < ranges.window_begin; ++block) {
        scores.push_back(block_score(setup, data, 0, token, block));
      }
      std::sort(scores.rbegin(), scores.rend());
      for (size_t i = 0; i < 2 && i < scores.size(); ++i) {
        const int32_t pick = picks_of(setup, result.picks, 0, token)[i];
        ASSERT_NEAR(block_score(setup, data, 0, token, pick), scores[i], tolerance) << "token " << token;
      }
    }
  }
}

TEST(Search, FastAndPlainScoresAreTheSameBits) {
  std::mt19937 generator(kSeed + 2);
  std::normal_distribution<float> normal;
  for (int i = 0; i < 200; ++i) {
    const int64_t num_keys = between(generator, 1, 70), num_dims = between(generator, 1, 40);
    const int64_t num_heads = between(generator, 1, 3);
    std::vector<float> columns(static_cast<size_t>(num_heads * kQueryTile * num_dims));
    std::vector<float> keys(static_cast<size_t>(num_keys * num_dims));
    for (float& value : columns) value = generator() % 97 == 0 ? kInfinity : normal(generator);
    for (float& value : keys) value = generator() % 97 == 0 ? -kInfinity : normal(generator);
    for (float& value : keys) value = generator() % 499 == 0 ? kNan : value;
    std::vector<float> fast(kQueryTile), plain(kQueryTile);
    BestScoresParams params{.columns = columns.data(),
                            .keys = keys.data(),
                            .best = fast.data(),
                            .num_keys = num_keys,
                            .num_dims = num_dims,
                            .wanted = row_bits(between(generator, 0, 20), between(generator, 30, 64)),
                            .num_heads = num_heads};
    const int64_t fast_nan = best_scores(params);
    params.best = plain.data();
    EXPECT_EQ(best_scores_portable(params), fast_nan);
    for (int64_t c = 0; c < kQueryTile; ++c) {
      if (params.wanted >> c & 1) {
        const auto column = static_cast<size_t>(c);
        ASSERT_EQ(score_key(fast[column], 0), score_key(plain[column], 0));
      }
    }
  }
}

TEST(Search, KeysOrderByScoreThenBlock) {
  const std::vector<float> ascending = {-kInfinity, -3e38f, -1.5f, -1e-45f, 0.0f, 1e-45f, 2, kInfinity};
  for (size_t i = 1; i < ascending.size(); ++i) {
    EXPECT_LT(score_key(ascending[i - 1], 0), score_key(ascending[i], 1000000));
  }
  EXPECT_EQ(score_key(-0.0f, 5), score_key(0.0f, 5));
  EXPECT_GT(score_key(1, 5), score_key(1, 6));
  EXPECT_GT(score_key(-kInfinity, (1 << 26) - 1), 0u);
  EXPECT_EQ(key_block(score_key(-2, 123456)), 123456);
}

TEST_P(SearchAtPlace, NothingFromTheFuture) {
  std::mt19937 generator(kSeed + 3);
  const SelectionCase setup = at(
      GetParam(), {.num_tokens = 333, .window = 20, .num_heads = 2, .num_dims = 8, .num_picks = 3, .index_heads = 3});
  const IndexData data = normal_values(setup, generator);
  const IndexData other = normal_values(setup, generator);
  expect_causal(setup, data, other, 2);
  expect_causal(setup, data, other, 4);
}

TEST_P(SearchAtPlace, KeysOutsideTheSearchedRangeAreNotRead) {
  std::mt19937 generator(kSeed + 4);
  const SelectionCase setup = at(GetParam(), {.num_tokens = 500, .sink_tokens = 32, .window = 40, .num_dims = 8});
  IndexData data = normal_values(setup, generator);
  const SearchResult expected = run_search(setup, data);
  const TileRanges last = tile_ranges(setup.geometry(), num_tiles(setup.num_tokens) - 1);
  for (int64_t key = 0; key < setup.num_tokens; ++key) {
    const int64_t block = key / setup.block_size;
    if (block >= last.sink_end && block < last.window_begin) continue;
    std::fill_n(data.key.begin() + key * setup.num_dims, setup.num_dims, kNan);
  }
  const SearchResult result = run_search(setup, data);
  EXPECT_EQ(result.picks, expected.picks);
  EXPECT_EQ(result.num_nan, 0);
}

TEST_P(SearchAtPlace, EqualScoresGoToTheLowestBlocks) {
  std::mt19937 generator(kSeed + 18);
  for (const int64_t block_size : {16, 64, 128}) {
    for (const int num_picks : {2, 4}) {
      for (const int num_dims : {3, 8, 16}) {
        const SelectionCase setup = at(GetParam(), {.num_tokens = 1000,
                                                    .block_size = block_size,
                                                    .sink_tokens = block_size,
                                                    .num_dims = num_dims,
                                                    .num_picks = num_picks,
                                                    .index_heads = one_of<int>(generator, {1, 2, 5})});
        IndexData data = zeros(setup);
        std::fill(data.key.begin(), data.key.end(), 1.0f);
        for (size_t i = 0; i < data.query.size(); i += 2) data.query[i] = -0.0f;
        const SearchResult result = run_search(setup, data);
        expect_valid(setup, result.picks);
        for (int64_t token = 768; token < setup.num_tokens; ++token) {
          const std::vector<int32_t> picks = picks_of(setup, result.picks, 0, token);
          for (int i = 0; i < num_picks; ++i) ASSERT_EQ(picks[static_cast<size_t>(i)], 1 + i) << "token " << token;
        }
      }
    }
  }
}

// A head that looks something up decides, wherever the others look. The sum of their queries would point elsewhere.
TEST_P(SearchAtPlace, TheBestHeadDecides) {
  const SelectionCase setup = at(
      GetParam(), {.num_tokens = 1000, .sink_tokens = 0, .window = 1, .num_dims = 8, .num_picks = 1, .index_heads = 4});
  IndexData data = zeros(setup);
  const int64_t token = 900, wanted_key = 333, other_key = 555;
  float* const queries = data.query.data() + token * setup.query_dims();
  queries[2 * setup.num_dims + 1] = 8;  // head 2 points along dim 1
  for (const int head : {0, 1, 3}) {
    queries[head * setup.num_dims] = 4;  // the others point along dim 0 and away from dim 1
    queries[head * setup.num_dims + 1] = -4;
  }
  data.key[static_cast<size_t>(wanted_key * setup.num_dims + 1)] = 4;
  data.key[static_cast<size_t>(other_key * setup.num_dims)] = 4;
  EXPECT_EQ(picks_of(setup, run_search(setup, data).picks, 0, token)[0], wanted_key / setup.block_size);
}

// The best blocks of the heads tie in every way: several heads have the same block, and different blocks have equal
// scores.
TEST_P(SearchAtPlace, TiesBetweenHeadsGoToTheLowestBlocks) {
  std::mt19937 generator(kSeed + 19);
  for (const int64_t block_size : {16, 64, 128}) {
    for (const int num_picks : {1, 2, 3, 5}) {
      const SelectionCase setup = at(GetParam(), {.num_tokens = 1900,
                                                  .block_size = block_size,
                                                  .sink_tokens = 0,
                                                  .window = 1,
                                                  .num_dims = 16,
                                                  .num_picks = num_picks,
                                                  .index_heads = 4});
      IndexData data = zeros(setup);
      for (float& value : data.query) value = static_cast<float>(between(generator, 0, 1));
      for (float& value : data.key) value = generator() % 40 == 0 ? 1.0f : 0.0f;
      expect_definition(setup, data);
    }
  }
}

TEST_P(SearchAtPlace, NanScoresAreLowestAndCounted) {
  std::mt19937 generator(kSeed + 5);
  const SelectionCase setup = at(GetParam(), {.num_tokens = 250, .sink_tokens = 0, .window = 1, .num_heads = 2});
  IndexData data = small_integers(setup, generator);
  for (int d = 0; d < setup.num_dims; ++d) data.query[static_cast<size_t>(200 * 4 + d)] = kNan;
  data.key[37 * 4 + 2] = kNan;  // of block 2 of head 0
  const bool infinite = GetParam().index_element != ElementType::kFloat8E4m3;
  if (infinite) data.key[(250 + 5) * 4] = kInfinity;  // of block 0 of head 1: NaN where the query is 0
  int64_t expected = 0;
  for (int64_t head = 0; head < 2; ++head) {
    for (int64_t token = 0; token < setup.num_tokens; ++token) {
      const TileRanges ranges = tile_ranges(setup.geometry(), token / kQueryTile);
      const float* query = data.query.data() + (head * 250 + token) * 4;
      const int64_t num_keys = ranges.num_searched() * setup.block_size;
      if (std::isnan(query[0])) {
        expected += num_keys;
      } else if (head == 0) {
        expected += num_keys > 37;
      } else {
        expected += infinite && num_keys > 5 && query[0] == 0;
      }
    }
  }
  const SearchResult result = run_search(setup, data);
  EXPECT_GT(expected, 300);
  EXPECT_EQ(result.num_nan, expected);
  EXPECT_EQ(picks_of(setup, result.picks, 0, 200), (std::vector<int32_t>{0, 1}));
  expect_valid(setup, result.picks);
  expect_definition(setup, data);
}

TEST_P(SearchAtPlace, NanAndInfinityFollowTheReference) {
  std::mt19937 generator(kSeed + 15);
  for (const int num_dims : {8, 16, 32, 64, 128}) {
    for (int i = 0; i < 6; ++i) {
      SelectionCase setup = random_case(GetParam(), generator);
      setup.num_dims = num_dims;
      setup.index_heads = one_of<int>(generator, {1, 2, 3, 4});
      IndexData data = small_integers(setup, generator);
      make_some_not_finite(generator, setup, &data);
      expect_as_reference(setup, data);
    }
  }
}

TEST_P(SearchAtPlace, HugeScoresKeepTheirOrder) {
  const bool float8 = GetParam().index_element == ElementType::kFloat8E4m3;
  const float huge = float8 ? 384 : 3e38f;
  const SelectionCase setup =
      at(GetParam(), {.num_tokens = 192, .sink_tokens = 0, .window = 1, .num_dims = 1, .num_picks = 3});
  IndexData data{std::vector<float>(192, 1.0f), std::vector<float>(192, -huge)};
  data.key[20] = huge;
  data.key[40] = huge / 1.5f;
  data.key[70] = kInfinity;  // in float8: 448
  EXPECT_EQ(picks_of(setup, run_search(setup, data).picks, 0, 150), (std::vector<int32_t>{4, 1, 2}));
}

TEST_P(SearchAtPlace, ScaleIsFree) {
  std::mt19937 generator(kSeed + 6);
  const SelectionCase setup = at(GetParam(), {.num_tokens = 600, .num_dims = 8, .num_picks = 5, .index_heads = 4});
  expect_scale_free(setup, normal_values(setup, generator));
}

TEST_P(SearchAtPlace, ChunksAgree) {
  std::mt19937 generator(kSeed + 7);
  for (int i = 0; i < 10; ++i) {
    SelectionCase setup = random_case(GetParam(), generator);
    setup.num_tokens = between(generator, 600, 800);
    IndexData data = small_integers(setup, generator);
    data.key[static_cast<size_t>(50 * setup.num_dims)] = kNan;
    expect_chunks_agree(setup, data, {0, 64, 128, 320, 576, setup.num_tokens});
  }
}

TEST_P(SearchAtPlace, DocumentsPickWhatTheyPickAlone) {
  std::mt19937 generator(kSeed + 8);
  const SelectionCase setup{.num_tokens = 1111,
                            .document_starts = {0, 128, 640, 704},
                            .block_size = 32,
                            .sink_tokens = 32,
                            .num_heads = 2,
                            .index_heads = 3};
  expect_documents_alone(setup, small_integers(setup, generator));
}

TEST(Search, ThreadsDoNotMatter) {
  std::mt19937 generator(kSeed + 9);
  const SelectionCase setup{.num_tokens = 700, .num_heads = 2, .num_dims = 16, .index_heads = 2};
  const IndexData data = normal_values(setup, generator);
  set_reference_threads(1);
  const SearchResult one = run_search(setup, data);
  set_reference_threads(5);
  EXPECT_EQ(run_search(setup, data).picks, one.picks);
  set_reference_threads(0);
}

TEST_P(SearchAtPlace, MorePicksKeepTheOnesBefore) {
  std::mt19937 generator(kSeed + 10);
  SelectionCase setup = at(GetParam(), {.num_tokens = 500, .num_picks = 6});
  const IndexData data = small_integers(setup, generator);
  const SearchResult many = run_search(setup, data);
  SelectionCase fewer = setup;
  fewer.num_picks = 2;
  const SearchResult few = run_search(fewer, data);
  for (int64_t token = 0; token < setup.num_tokens; ++token) {
    std::vector<int32_t> own = picks_of(setup, many.picks, 0, token);
    own.resize(2);
    ASSERT_EQ(picks_of(fewer, few.picks, 0, token), own);
  }
}

TEST_P(SearchAtPlace, PlantedKeysAreFound) {
  std::mt19937 generator(kSeed + 11);
  const SelectionCase setup = at(GetParam(), {.num_tokens = 2048, .num_dims = 32, .index_heads = 4});
  const double recall = planted_recall(setup, normal_values(setup, generator), generator);
  std::printf("planted keys found: %.3f, by chance about %.3f\n", recall, 2 / 95.0);
  EXPECT_GT(recall, 0.95);
}

TEST_P(SearchAtPlace, BrokenParamsAreNamed) {
  SelectionCase setup = at(GetParam(), {.num_tokens = 300, .num_picks = 65});
  std::mt19937 generator(kSeed + 12);
  const IndexData data = small_integers(setup, generator);
  EXPECT_THROW(run_search(setup, data), std::logic_error);
  setup.num_picks = 40;
  setup.beam = 2;  // 32 candidates are fewer than 40 picks
  EXPECT_THROW(run_search(setup, data), std::logic_error);
}

}  // namespace
}  // namespace hiptrain::kernels
