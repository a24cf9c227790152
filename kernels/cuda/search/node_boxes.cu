#include "kernels/cuda/search/node_boxes.cuh"

#include "kernels/cuda/hopper/launch_check.h"
#include "kernels/cuda/search/element_access.cuh"
#include "kernels/cuda/search/search.h"

namespace hiptrain::kernels {
namespace {

constexpr int kThreads = 256;

int64_t level_bytes(const SearchParams& params, int level) {
  const int64_t nodes = params.num_kv_heads * num_whole_nodes(num_sequence_blocks(params), level);
  const int64_t bytes =
      nodes * NodeBoxes::node_elements(level, params.num_index_dims) * element_bytes(params.key_element);
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

// The box and dim of one thread. `box` is counted within the node. The boxes of levels 0 and 1 are made from keys,
// those of other levels from the level below.
struct BoxDim {
  int dim, box, head;
  int64_t place;

  __device__ BoxDim(const SearchParams& params, const NodeBoxes& boxes, int level, int64_t i) {
    dim = static_cast<int>(i % params.num_index_dims);
    i /= params.num_index_dims;
    box = static_cast<int>(i % boxes_per_node(level));
    i /= boxes_per_node(level);
    place = i % boxes.num_nodes[level];
    head = static_cast<int>(i / boxes.num_nodes[level]);
  }
};

struct Bounds {
  float largest, smallest;

  // The bounds of no value, which are below and above every other.
  __device__ explicit Bounds(float finite) : largest(-finite), smallest(finite) {}

  __device__ void widen(float high, float low) {
    if (high > largest) largest = high;  // false for a NaN
    if (low < smallest) smallest = low;
  }
};

__device__ void store_bounds(const SearchParams& params, const NodeBoxes& boxes, int level, const BoxDim& at,
                             const Bounds& bounds) {
  const int64_t box = (at.head * boxes.num_nodes[level] + at.place) * boxes_per_node(level) + at.box;
  const int64_t element = (box * params.num_index_dims + at.dim) * 2;
  store_element(boxes.boxes[level], params.key_element, element, bounds.largest);
  store_element(boxes.boxes[level], params.key_element, element + 1, bounds.smallest);
}

__global__ void __launch_bounds__(kThreads)
    box_keys(const SearchParams params, const NodeBoxes boxes, int level, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const BoxDim at(params, boxes, level, i);
  const Node node(params, level, at.place);
  if (!node.exists) return;
  const float finite = largest_finite(params.key_element);
  const int64_t num_keys = (params.geometry.block_size << (4 * level)) / boxes_per_node(level);
  const int64_t first_key =
      node.first_block * params.geometry.block_size + (node.number * boxes_per_node(level) + at.box) * num_keys;
  Bounds bounds(finite);
  for (int64_t key = first_key; key < first_key + num_keys; ++key) {
    const int64_t element = at.head * params.index_key_head_stride + key * params.num_index_dims + at.dim;
    const float value = load_element(params.index_key, params.key_element, element);
    if (!isnan(value)) bounds.widen(fmaxf(fminf(value, finite), -finite), fmaxf(fminf(value, finite), -finite));
  }
  if (level == 0) narrow_box(&bounds.largest, &bounds.smallest);
  store_bounds(params, boxes, level, at, bounds);
}

__global__ void __launch_bounds__(kThreads)
    box_boxes(const SearchParams params, const NodeBoxes boxes, int level, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const BoxDim at(params, boxes, level, i);
  const Node node(params, level, at.place);
  if (!node.exists) return;
  const int64_t num_parts = kTreeFanout * boxes_per_node(level - 1) / boxes_per_node(level);
  const int64_t first_part = (node.number * boxes_per_node(level) + at.box) * num_parts;  // box of the level below
  const int64_t document = boxes.first_element(level - 1, at.head, node.first_block, params.num_index_dims);
  Bounds bounds(largest_finite(params.key_element));
  for (int64_t part = first_part; part < first_part + num_parts; ++part) {
    const int64_t element = document + (part * params.num_index_dims + at.dim) * 2;
    bounds.widen(load_element(boxes.boxes[level - 1], params.key_element, element),
                 load_element(boxes.boxes[level - 1], params.key_element, element + 1));
  }
  store_bounds(params, boxes, level, at, bounds);
}

}  // namespace

NodeBoxes node_boxes(const SearchParams& params) {
  NodeBoxes boxes{};
  auto* memory = static_cast<char*>(params.workspace);
  const int64_t num_blocks = num_sequence_blocks(params);
  const int top = tree_top_level(num_blocks, params.top_nodes);
  boxes.lowest_level = boxes_blocks(params) ? 0 : 1;
  boxes.num_levels = top + 1;
  for (int level = boxes.lowest_level; level < boxes.num_levels; ++level) {
    boxes.num_nodes[level] = num_whole_nodes(num_blocks, level);
    boxes.boxes[level] = memory;
    memory += level_bytes(params, level);
  }
  return boxes;
}

int64_t search_tree_workspace_bytes(const SearchParams& params) {
  const int top = tree_top_level(num_sequence_blocks(params), params.top_nodes);
  int64_t bytes = 0;
  for (int level = boxes_blocks(params) ? 0 : 1; level <= top; ++level) bytes += level_bytes(params, level);
  return bytes;
}

void build_node_boxes(const SearchParams& params, const NodeBoxes& boxes, Stream stream) {
  for (int level = boxes.lowest_level; level < boxes.num_levels; ++level) {
    const int64_t count = params.num_kv_heads * boxes.num_nodes[level] * boxes_per_node(level) * params.num_index_dims;
    const auto blocks = static_cast<unsigned>((count + kThreads - 1) / kThreads);
    if (blocks == 0) continue;
    if (level <= 1) {
      box_keys<<<blocks, kThreads, 0, stream>>>(params, boxes, level, count);
    } else {
      box_boxes<<<blocks, kThreads, 0, stream>>>(params, boxes, level, count);
    }
    check_launch("search");
  }
}

}  // namespace hiptrain::kernels
