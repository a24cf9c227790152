// Checks of SearchParams that the CPU form and the GPU form share.
#pragma once

#include <sstream>
#include <stdexcept>

#include "kernels/list_entry.h"
#include "kernels/tree_geometry.h"

namespace hiptrain::kernels {

inline void check_search(bool holds, const char* rule, int64_t value) {
  if (holds) return;
  std::ostringstream message;
  message << "search: " << rule << ", not " << value;
  throw std::logic_error(message.str());
}

inline void check_search(const SearchParams& params) {
  const int64_t num_blocks = num_sequence_blocks(params);
  check_search(params.query_begin % kQueryTile == 0, "query_begin must be a multiple of the query tile",
               params.query_begin);
  check_search(params.num_picks >= 1 && params.num_picks <= kMaxPicks, "num_picks must be 1 to 64", params.num_picks);
  check_search(params.num_index_heads >= 1, "num_index_heads must be at least 1", params.num_index_heads);
  check_search(params.top_nodes >= 1, "top_nodes must be at least 1", params.top_nodes);
  // A kept node has 16 children as candidates. With a smaller beam a token could end with fewer than num_picks blocks.
  check_search(params.beam >= 1 && params.beam >= (params.num_picks + kTreeFanout - 1) / kTreeFanout,
               "beam must be at least 1 and a sixteenth of num_picks", params.beam);
  check_search(params.index_query_begin % kQueryTile == 0 && params.index_query_begin <= params.query_begin,
               "index_query_begin must be a multiple of the query tile and at most query_begin",
               params.index_query_begin);
  check_search(params.query_element != ElementType::kFloat8E4m3 &&
                   (params.key_element == params.query_element || params.key_element == ElementType::kFloat8E4m3),
               "index queries must be float32 or bfloat16, and keys of the same type or float8",
               static_cast<int64_t>(params.key_element));
  check_search(num_blocks < int64_t{1} << (32 - kFirstRowBits), "the sequence must have fewer than 2^26 blocks",
               num_blocks);
}

}  // namespace hiptrain::kernels
