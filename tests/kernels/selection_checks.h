// Promises that scan and tree both make. The same functions check both.
#pragma once

#include <gtest/gtest.h>

#include <set>

#include "tests/kernels/selection_fixtures.h"

namespace hiptrain::kernels {

// Every token has min(picks, searched) different picks, all from its tile's searched range, followed by -1.
inline void expect_valid(const SelectionCase& setup, const std::vector<int32_t>& picks) {
  for (int64_t head = 0; head < setup.num_heads; ++head) {
    for (int64_t token = 0; token < setup.num_tokens; ++token) {
      const TileRanges ranges = tile_ranges(setup.geometry(), token / kQueryTile);
      const int64_t wanted = std::min<int64_t>(setup.num_picks, ranges.num_searched());
      const std::vector<int32_t> own = picks_of(setup, picks, head, token);
      EXPECT_EQ(std::set<int32_t>(own.begin(), own.begin() + wanted).size(), static_cast<size_t>(wanted));
      for (int64_t i = 0; i < setup.num_picks; ++i) {
        const int32_t pick = own[static_cast<size_t>(i)];
        if (i < wanted) {
          ASSERT_GE(pick, ranges.sink_end) << "token " << token;
          ASSERT_LT(pick, ranges.window_begin) << "token " << token;
        } else {
          ASSERT_EQ(pick, -1) << "token " << token;
        }
      }
    }
  }
}

// Picks and NaN counts are equal to those of the reference.
inline void expect_as_reference(SelectionCase setup, const IndexData& data) {
  const SearchResult result = run_search(setup, data);
  setup.backend = Backend::kReference;
  const SearchResult expected = run_search(setup, data);
  for (int64_t head = 0; head < setup.num_heads; ++head) {
    for (int64_t token = 0; token < setup.num_tokens; ++token) {
      ASSERT_EQ(picks_of(setup, result.picks, head, token), picks_of(setup, expected.picks, head, token))
          << "head " << head << " token " << token << " of " << setup.num_tokens << ", " << setup.index_heads << " x "
          << setup.num_dims << " dims, blocks of " << setup.block_size << ", " << setup.num_picks << " picks, beam "
          << setup.beam << ", " << setup.top_nodes << " top nodes";
    }
  }
  ASSERT_EQ(result.num_nan, expected.num_nan);
}

// Returns the blocks that a row sees in a list: the entries with first row <= row.
inline std::vector<int64_t> visible_blocks(const std::vector<uint32_t>& list, int64_t row) {
  std::vector<int64_t> blocks;
  for (const uint32_t entry : list) {
    if (entry_first_row(entry) <= row) blocks.push_back(entry_block(entry));
  }
  return blocks;
}

// Returns index data in which everything from position p on is replaced by other data.
inline IndexData changed_from(const SelectionCase& setup, IndexData data, int64_t p, const IndexData& other) {
  for (int64_t head = 0; head < setup.num_heads; ++head) {
    const int64_t first = head * setup.num_tokens + p, last = (head + 1) * setup.num_tokens;
    const auto replace_rows = [&](const std::vector<float>& from, int64_t width, std::vector<float>* to) {
      std::copy(from.begin() + first * width, from.begin() + last * width, to->begin() + first * width);
    };
    replace_rows(other.query, setup.query_dims(), &data.query);
    replace_rows(other.key, setup.num_dims, &data.key);
  }
  return data;
}

// For every p of the tile: if everything at positions >= p is changed, the rows before p keep their picks and what they
// see in the list. The tile's later rows must change, otherwise the test would say nothing.
inline void expect_causal(const SelectionCase& setup, const IndexData& data, const IndexData& other, int64_t tile) {
  const int64_t tiles = num_tiles(setup.num_tokens);
  const SearchResult before = run_search(setup, data);
  const TileLists lists = run_union(setup, before.picks, 0, 0, setup.num_tokens);
  int64_t num_changed = 0;
  for (int64_t p = tile * kQueryTile; p < (tile + 1) * kQueryTile; ++p) {
    const SearchResult after = run_search(setup, changed_from(setup, data, p, other));
    const TileLists changed = run_union(setup, after.picks, 0, 0, setup.num_tokens);
    for (int64_t head = 0; head < setup.num_heads; ++head) {
      for (int64_t token = 0; token < p; ++token) {
        ASSERT_EQ(picks_of(setup, after.picks, head, token), picks_of(setup, before.picks, head, token))
            << "p " << p << " token " << token;
        const int64_t its_tile = token / kQueryTile, row = token % kQueryTile;
        ASSERT_EQ(visible_blocks(changed.list(head, its_tile, tiles), row),
                  visible_blocks(lists.list(head, its_tile, tiles), row))
            << "p " << p << " token " << token;
      }
      num_changed += picks_of(setup, after.picks, head, p) != picks_of(setup, before.picks, head, p);
    }
  }
  EXPECT_GT(num_changed, kQueryTile / 4);
}

// Calls over the ranges between the cuts give the same result as one call.
inline void expect_chunks_agree(const SelectionCase& setup, const IndexData& data, const std::vector<int64_t>& cuts) {
  const SearchResult whole = run_search(setup, data);
  int64_t num_nan = 0;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const SearchResult part = run_search_range(setup, data, cuts[i], cuts[i + 1]);
    num_nan += part.num_nan;
    const int64_t part_head = (cuts[i + 1] - cuts[i]) * setup.num_picks;
    for (int64_t head = 0; head < setup.num_heads; ++head) {
      const auto expected = whole.picks.begin() + (head * setup.num_tokens + cuts[i]) * setup.num_picks;
      ASSERT_TRUE(std::equal(expected, expected + part_head, part.picks.begin() + head * part_head))
          << "tokens from " << cuts[i];
    }
  }
  EXPECT_EQ(num_nan, whole.num_nan);
}

// Each document of a packed sequence picks the same blocks as it does alone.
inline void expect_documents_alone(const SelectionCase& setup, const IndexData& data) {
  const SearchResult packed = run_search(setup, data);
  for (size_t i = 0; i < setup.document_starts.size(); ++i) {
    const int64_t begin = setup.document_starts[i];
    const int64_t end = i + 1 < setup.document_starts.size() ? setup.document_starts[i + 1] : setup.num_tokens;
    const auto [alone, part] = document_alone(setup, data, begin, end);
    const SearchResult expected = run_search(alone, part);
    for (int64_t head = 0; head < setup.num_heads; ++head) {
      for (int64_t token = begin; token < end; ++token) {
        std::vector<int32_t> own = picks_of(alone, expected.picks, head, token - begin);
        for (int32_t& pick : own) {
          if (pick >= 0) pick += static_cast<int32_t>(begin / setup.block_size);
        }
        ASSERT_EQ(picks_of(setup, packed.picks, head, token), own) << "token " << token;
      }
    }
  }
}

// The order of scores does not depend on the scale.
inline void expect_scale_free(const SelectionCase& setup, const IndexData& data) {
  const SearchResult expected = run_search(setup, data);
  for (const int power : {-20, -3, 1, 17}) {
    IndexData scaled = data;
    for (float& value : scaled.query) value = std::ldexp(value, power);
    EXPECT_EQ(run_search(setup, scaled).picks, expected.picks) << "2^" << power;
  }
}

// Plants much larger copies of random keys at known places. Returns the share of later tokens with such a query that
// pick the block of the copy.
inline double planted_recall(const SelectionCase& setup, IndexData data, std::mt19937& generator) {
  int64_t num_asked = 0, num_found = 0;
  std::vector<std::pair<int64_t, int64_t>> asked;  // token, block
  for (int64_t token = setup.num_tokens / 2; token < setup.num_tokens; token += 5) {
    const TileRanges ranges = tile_ranges(setup.geometry(), token / kQueryTile);
    const int64_t key =
        between(generator, ranges.sink_end * setup.block_size, ranges.window_begin * setup.block_size - 1);
    // Any one of the heads asks.
    const auto query =
        data.query.begin() + token * setup.query_dims() + between(generator, 0, setup.index_heads - 1) * setup.num_dims;
    for (int d = 0; d < setup.num_dims; ++d) query[d] = 2 * data.key[static_cast<size_t>(key * setup.num_dims + d)];
    asked.emplace_back(token, key / setup.block_size);
  }
  const SearchResult result = run_search(setup, data);
  for (const auto& [token, block] : asked) {
    const std::vector<int32_t> own = picks_of(setup, result.picks, 0, token);
    ++num_asked;
    num_found += std::find(own.begin(), own.end(), block) != own.end();
  }
  return static_cast<double>(num_found) / static_cast<double>(num_asked);
}

}  // namespace hiptrain::kernels
