// The parts of search_cuda. Each of them writes the picks of its own tiles only.
#pragma once

#include "kernels/search.h"

namespace hiptrain::kernels {

// Whether the tensor cores can multiply the index and the TMA can read it: keys are bfloat16 or float8, and their rows
// a multiple of 16 bytes.
bool fits_tensor_cores(const SearchParams& params);

// Searches the tiles that scan.
void scan_on_tensor_cores(const SearchParams& params, Stream stream);

// The same for every index, with float32 arithmetic in the order of the CPU form, which gives the same bits.
void scan_in_float32(const SearchParams& params, Stream stream);

// Searches the tiles that use the tree.
void search_tree_cuda(const SearchParams& params, Stream stream);
int64_t search_tree_workspace_bytes(const SearchParams& params);

struct NodeRows;
struct TreeLists;
// Whether the keys are of this type and the kernel on tensor cores can be used (search_tree_tensor_cores.cuh).
bool tree_fits_bfloat16(const SearchParams& params, const TreeLists& lists);
bool tree_fits_float8(const SearchParams& params, const TreeLists& lists);
void search_tree_in_bfloat16(const SearchParams& params, const NodeRows& nodes, const TreeLists& lists, Stream stream);
void search_tree_in_float8(const SearchParams& params, const NodeRows& nodes, const TreeLists& lists, Stream stream);
void search_tree_in_float32(const SearchParams& params, const NodeRows& nodes, const TreeLists& lists, Stream stream);

}  // namespace hiptrain::kernels
