// The parts of search_cuda. Each writes the picks of its tiles, and of no others.
#pragma once

#include "kernels/search.h"

namespace hiptrain::kernels {

// Whether the tensor cores multiply the index and the copy engine can read it: bfloat16 or float8 keys of a
// multiple of 16 bytes.
bool fits_tensor_cores(const SearchParams& params);

// Tiles that scan.
void scan_on_tensor_cores(const SearchParams& params, Stream stream);

// The same for every index: float32 arithmetic in the reference's order, so the same bits.
void scan_in_float32(const SearchParams& params, Stream stream);

// Tiles that use the tree.
void search_tree_cuda(const SearchParams& params, Stream stream);
int64_t search_tree_workspace_bytes(const SearchParams& params);

struct NodeBoxes;
struct TreeLists;
// Whether the tensor cores' kernel holds a box of both its ends (64 index dims at most), and the lists and a head's
// queries beside the boxes.
bool tree_fits_tensor_cores(const SearchParams& params, const TreeLists& lists);
void search_tree_on_tensor_cores(const SearchParams& params, const NodeBoxes& boxes, const TreeLists& lists,
                                 Stream stream);
void search_tree_in_float32(const SearchParams& params, const NodeBoxes& boxes, const TreeLists& lists, Stream stream);

}  // namespace hiptrain::kernels
