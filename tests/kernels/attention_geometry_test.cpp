// Compares the tiles of a key block with the blocks of every tile.
#include "kernels/attention_geometry.h"

#include <gtest/gtest.h>

#include <vector>

namespace hiptrain::testing {
namespace {

using kernels::AttentionGeometry;

struct Case {
  int64_t num_tokens, block_size, sink_tokens, window;
  std::vector<int64_t> document_starts;
};

class AttentionGeometryCases : public ::testing::TestWithParam<Case> {
 protected:
  AttentionGeometry geometry() const {
    const Case& parts = GetParam();
    return {.num_tokens = parts.num_tokens,
            .document_starts = parts.document_starts.data(),
            .num_documents = static_cast<int64_t>(parts.document_starts.size()),
            .block_size = parts.block_size,
            .sink_tokens = parts.sink_tokens,
            .window = parts.window};
  }
};

TEST_P(AttentionGeometryCases, DocumentsHoldTheirPositions) {
  const std::vector<int64_t>& starts = GetParam().document_starts;
  for (int64_t position = 0; position < GetParam().num_tokens; ++position) {
    const int64_t document = document_at(geometry(), position);
    ASSERT_LE(starts[document], position);
    ASSERT_LT(position, document_end(geometry(), document));
  }
  EXPECT_EQ(document_end(geometry(), static_cast<int64_t>(starts.size()) - 1), GetParam().num_tokens);
}

TEST_P(AttentionGeometryCases, StructuredTilesAreThoseWithTheBlockInSinksOrWindow) {
  const int64_t num_blocks = (GetParam().num_tokens - 1) / GetParam().block_size + 1;
  for (int64_t block = 0; block < num_blocks; ++block) {
    const kernels::TileSpan span = structured_tiles(geometry(), block);
    for (int64_t tile = 0; tile < kernels::num_tiles(GetParam().num_tokens); ++tile) {
      const kernels::TileRanges ranges = tile_ranges(geometry(), tile);
      const bool sink = ranges.sink_begin <= block && block < ranges.sink_end;
      const bool window = ranges.window_begin <= block && block < ranges.window_end;
      ASSERT_EQ(span.begin <= tile && tile < span.end, sink || window) << "block " << block << ", tile " << tile;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, AttentionGeometryCases,
                         ::testing::Values(Case{1, 64, 64, 1, {0}}, Case{1000, 64, 0, 1, {0}},
                                           Case{1000, 64, 64, 65, {0}}, Case{1500, 64, 128, 512, {0, 64, 576}},
                                           Case{1500, 128, 128, 100, {0, 128, 1024}},
                                           Case{999, 16, 48, 70, {0, 192, 256, 896}},
                                           Case{700, 32, 0, int64_t{1} << 40, {0, 64}}));

}  // namespace
}  // namespace hiptrain::testing
