#include "kernels/cuda/search/node_rows.cuh"

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/search/element_access.cuh"
#include "kernels/cuda/search/search.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 256;

int64_t level_bytes(const SearchParams& params, int level) {
  const int64_t nodes = params.num_kv_heads * num_whole_nodes(num_sequence_blocks(params), level);
  const int64_t bytes = nodes * node_elements(level, params.num_index_dims) * element_bytes(params.key_element);
  return (bytes + 255) / 256 * 256;
}

// Returns the ranges of the last tile of the document that holds a block. This tile searches most.
__device__ TileRanges last_tile_of_document(const AttentionGeometry& geometry, int64_t block) {
  const int64_t position = block * geometry.block_size;
  int64_t first = 0, last = geometry.num_documents;  // the first document after the block is in [first, last]
  while (first < last) {
    const int64_t middle = first + (last - first) / 2;
    if (geometry.document_starts[middle] <= position) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  const int64_t end = first < geometry.num_documents ? geometry.document_starts[first] : geometry.num_tokens;
  return tile_ranges(geometry, (end - 1) / kQueryTile);
}

// The node at a place, if there is one.
struct Node {
  int64_t first_block;  // where its document's nodes begin
  int64_t number;       // number of the node in its document
  bool exists;

  __device__ Node(const SearchParams& params, int level, int64_t place) {
    const int64_t blocks = int64_t{1} << (4 * level);
    // This block always belongs to a node that begins in [place, place + 1) * blocks.
    const TileRanges ranges = last_tile_of_document(params.geometry, (place + 1) * blocks - 1);
    first_block = ranges.sink_end;
    number = place - (first_block >> (4 * level));
    exists = uses_tree(params, ranges.num_searched()) && number >= 0 &&
             number < num_whole_nodes(ranges.num_searched(), level);
  }
};

// The row and dim of one thread. `row` is counted within the node.
struct RowDim {
  int dim, row, head;
  int64_t place;

  __device__ RowDim(const SearchParams& params, const NodeRows& nodes, int level, int64_t i) {
    dim = static_cast<int>(i % params.num_index_dims);
    i /= params.num_index_dims;
    row = static_cast<int>(i % rows_per_node(level));
    i /= rows_per_node(level);
    place = i % nodes.num_nodes[level];
    head = static_cast<int>(i / nodes.num_nodes[level]);
  }
  // Returns the index of the row among all rows of the level.
  __device__ int64_t number(const NodeRows& nodes, int level) const {
    return (head * nodes.num_nodes[level] + place) * rows_per_node(level) + row;
  }
};

// The keys that a row of a node of level 0 or 1 stands for, as one dim of them.
struct RowKeys {
  const SearchParams& params;
  int64_t first, count;
  int64_t element;  // of the first key
  float finite;

  __device__ RowKeys(const SearchParams& search, const Node& node, const RowDim& at, int level)
      : params(search),
        count((search.geometry.block_size << (4 * level)) / rows_per_node(level)),
        finite(largest_finite(search.key_element)) {
    first = node.first_block * params.geometry.block_size + (node.number * rows_per_node(level) + at.row) * count;
    element = at.head * params.index_key_head_stride + first * params.num_index_dims + at.dim;
  }
  // Returns a key's value, which may be NaN and is otherwise clamped to a finite one.
  __device__ float operator[](int64_t key) const {
    const float value = load_element(params.index_key, params.key_element, element + key * params.num_index_dims);
    return isnan(value) ? value : fmaxf(fminf(value, finite), -finite);
  }
};

// Level 0. Values are scaled before they are added, so that the sum stays finite; the scale is a power of two. A NaN
// counts as 0.
__global__ void __launch_bounds__(kThreads)
    average_keys(const SearchParams params, const NodeRows nodes, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const RowDim at(params, nodes, 0, i);
  const Node node(params, 0, at.place);
  if (!node.exists) return;
  const RowKeys keys(params, node, at, 0);
  const float scale = 1.0f / static_cast<float>(keys.count);
  float mean = 0;
  for (int64_t key = 0; key < keys.count; ++key) {
    const float value = keys[key];
    mean = __fadd_rn(mean, isnan(value) ? 0.0f : __fmul_rn(value, scale));
  }
  store_element(nodes.rows[0], params.key_element, at.number(nodes, 0) * params.num_index_dims + at.dim, mean);
}

struct Bounds {
  float largest, smallest;

  // The bounds of no value, which are below and above every other.
  __device__ explicit Bounds(float finite) : largest(-finite), smallest(finite) {}

  __device__ void widen(float high, float low) {
    if (high > largest) largest = high;  // false for a NaN
    if (low < smallest) smallest = low;
  }
};

__device__ void store_bounds(const SearchParams& params, const NodeRows& nodes, int level, const RowDim& at,
                             const Bounds& bounds) {
  const int64_t element = (at.number(nodes, level) * params.num_index_dims + at.dim) * 2;
  store_element(nodes.rows[level], params.key_element, element, bounds.largest);
  store_element(nodes.rows[level], params.key_element, element + 1, bounds.smallest);
}

// Level 1.
__global__ void __launch_bounds__(kThreads) box_keys(const SearchParams params, const NodeRows nodes, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const RowDim at(params, nodes, 1, i);
  const Node node(params, 1, at.place);
  if (!node.exists) return;
  const RowKeys keys(params, node, at, 1);
  Bounds bounds(keys.finite);
  for (int64_t key = 0; key < keys.count; ++key) {
    const float value = keys[key];
    bounds.widen(value, value);
  }
  store_bounds(params, nodes, 1, at, bounds);
}

// The levels above.
__global__ void __launch_bounds__(kThreads)
    box_boxes(const SearchParams params, const NodeRows nodes, int level, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const RowDim at(params, nodes, level, i);
  const Node node(params, level, at.place);
  if (!node.exists) return;
  const int64_t num_parts = kTreeFanout * rows_per_node(level - 1) / rows_per_node(level);
  const int64_t first_part = (node.number * rows_per_node(level) + at.row) * num_parts;  // box of the level below
  const int64_t document = nodes.first_element(level - 1, at.head, node.first_block, params.num_index_dims);
  Bounds bounds(largest_finite(params.key_element));
  for (int64_t part = first_part; part < first_part + num_parts; ++part) {
    const int64_t element = document + (part * params.num_index_dims + at.dim) * 2;
    bounds.widen(load_element(nodes.rows[level - 1], params.key_element, element),
                 load_element(nodes.rows[level - 1], params.key_element, element + 1));
  }
  store_bounds(params, nodes, level, at, bounds);
}

}  // namespace

NodeRows node_rows(const SearchParams& params) {
  NodeRows nodes{};
  auto* memory = static_cast<char*>(params.workspace);
  const int64_t num_blocks = num_sequence_blocks(params);
  const int top = tree_top_level(num_blocks, params.top_nodes);
  nodes.lowest_level = chooses_blocks(params) ? 0 : 1;
  nodes.num_levels = top + 1;
  for (int level = nodes.lowest_level; level < nodes.num_levels; ++level) {
    nodes.num_nodes[level] = num_whole_nodes(num_blocks, level);
    nodes.rows[level] = memory;
    memory += level_bytes(params, level);
  }
  return nodes;
}

int64_t search_tree_workspace_bytes(const SearchParams& params) {
  const int top = tree_top_level(num_sequence_blocks(params), params.top_nodes);
  int64_t bytes = 0;
  for (int level = chooses_blocks(params) ? 0 : 1; level <= top; ++level) bytes += level_bytes(params, level);
  return bytes;
}

void build_node_rows(const SearchParams& params, const NodeRows& nodes, Stream stream) {
  for (int level = nodes.lowest_level; level < nodes.num_levels; ++level) {
    const int64_t count = params.num_kv_heads * nodes.num_nodes[level] * rows_per_node(level) * params.num_index_dims;
    const auto blocks = static_cast<unsigned>((count + kThreads - 1) / kThreads);
    if (blocks == 0) continue;
    if (level == 0) {
      average_keys<<<blocks, kThreads, 0, stream>>>(params, nodes, count);
    } else if (level == 1) {
      box_keys<<<blocks, kThreads, 0, stream>>>(params, nodes, count);
    } else {
      box_boxes<<<blocks, kThreads, 0, stream>>>(params, nodes, level, count);
    }
    check_launch("search");
  }
}

}  // namespace hiptrain::kernels
