#include "trainer/attention/selection_recall.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <limits>
#include <ranges>
#include <utility>

#include "kernels/attention_geometry.h"
#include "kernels/list_entry.h"

namespace hiptrain {
namespace {

using kernels::AttentionGeometry;
using kernels::kQueryTile;
using kernels::TileRanges;

// Bytes of the scores that exist at a time: large enough for a GPU, and small beside what a layer holds.
constexpr int64_t kPieceBytes = int64_t{64} << 20;

constexpr int64_t kBlockBits = (int64_t{1} << (32 - kernels::kFirstRowBits)) - 1;
constexpr int64_t kFirstRows = (int64_t{1} << kernels::kFirstRowBits) - 1;

// The tiles of a document that search something are its last ones.
struct TileRun {
  int64_t begin, end;
};

std::vector<TileRun> searching_tiles(const AttentionGeometry& geometry) {
  std::vector<TileRun> runs;
  for (int64_t document = 0; document < geometry.num_documents; ++document) {
    const int64_t end = kernels::num_tiles(kernels::document_end(geometry, document));
    const auto tiles = std::views::iota(geometry.document_starts[document] / kQueryTile, end);
    const auto first = std::ranges::partition_point(
        tiles, [&](int64_t tile) { return kernels::tile_ranges(geometry, tile).num_searched() <= 0; });
    if (first != tiles.end()) runs.push_back({*first, end});
  }
  return runs;
}

// How many of `items` of so many bytes each fit in a piece; at least one.
int64_t fitting(int64_t items, int64_t bytes) { return std::clamp<int64_t>(kPieceBytes / bytes, 1, items); }

// Exact scores of (heads, rows, head_dim) with keys [begin, end) of (heads, tokens, head_dim), float32.
at::Tensor scores(const at::Tensor& query, const at::Tensor& key, int64_t begin, int64_t end) {
  return at::bmm(query, key.narrow(1, begin, end - begin).to(at::kFloat).transpose(1, 2));
}

// The log-sum-exp of every row's scores over each of `count` blocks from first_block on, none of which is masked:
// (heads, rows, count).
at::Tensor block_log_sums(const at::Tensor& query, const at::Tensor& key, int64_t first_block, int64_t count,
                          int64_t block_size) {
  at::Tensor sums = at::empty({query.size(0), query.size(1), count}, query.options());
  const int64_t piece = fitting(count, query.size(0) * query.size(1) * block_size * 4);
  for (int64_t done = 0; done < count; done += piece) {
    const int64_t blocks = std::min(piece, count - done), begin = (first_block + done) * block_size;
    const at::Tensor by_block =
        scores(query, key, begin, begin + blocks * block_size).unflatten(2, {blocks, block_size});
    sums.narrow(2, done, blocks).copy_(at::logsumexp(by_block, 3));
  }
  return sums;
}

// The log-sum-exp of the last scores of a tile's rows (members x rows of the tile, row by row), from key `begin` on,
// with the causal mask: (heads, rows).
at::Tensor last_log_sums(const at::Tensor& query, const at::Tensor& key, int64_t begin, const TileRanges& ranges) {
  const int64_t rows = ranges.end - ranges.begin;
  const auto positions = query.options().dtype(at::kLong);
  const at::Tensor hidden = at::arange(begin, ranges.end, positions).unsqueeze(0) >
                            at::arange(ranges.begin, ranges.end, positions).unsqueeze(1);  // (rows, keys)
  at::Tensor last = scores(query, key, begin, ranges.end).unflatten(1, {-1, rows});
  last.masked_fill_(hidden, -std::numeric_limits<float>::infinity());
  return at::logsumexp(last, 3).flatten(1, 2);
}

// The share of every row's mass on each searched block: (heads, members x rows, searched blocks). All blocks before the
// tile are seen by all of its rows.
at::Tensor searched_mass(const at::Tensor& query, const at::Tensor& key, const TileRanges& ranges, int64_t block_size) {
  const int64_t whole_end = ranges.begin / block_size;
  const at::Tensor sums = block_log_sums(query, key, ranges.sink_begin, whole_end - ranges.sink_begin, block_size);
  const at::Tensor total =
      at::logaddexp(at::logsumexp(sums, 2), last_log_sums(query, key, whole_end * block_size, ranges));
  return sums.narrow(2, ranges.sink_end - ranges.sink_begin, ranges.num_searched()).sub_(total.unsqueeze(2)).exp_();
}

// (tile rows, KV heads x members, head_dim) -> (KV heads, members x tile rows, head_dim) float32, scaled.
at::Tensor rows_by_kv_head(const at::Tensor& query, int64_t kv_heads, float scale) {
  return query.unflatten(1, {kv_heads, -1}).permute({1, 2, 0, 3}).flatten(1, 2).to(at::kFloat).mul(scale);
}

at::Tensor offsets_of(const BlockLists& lists) {
  return lists.offsets_on_host.defined() ? lists.offsets_on_host : lists.offsets.cpu();
}

// (KV heads, searched blocks) int32: the first row of the tile that sees the block by the tile's list; kQueryTile:
// none. offsets: of these KV heads, on the host.
at::Tensor first_rows_of(const BlockLists& lists, const at::Tensor& offsets, int64_t list, const TileRanges& ranges) {
  const auto offset = offsets.accessor<int64_t, 2>();
  at::Tensor first_rows = at::full({offsets.size(0), ranges.num_searched()}, kQueryTile, lists.entries.options());
  for (int64_t head = 0; head < offsets.size(0); ++head) {
    const int64_t begin = offset[head][list];
    const at::Tensor entries = lists.entries.narrow(0, begin, offset[head][list + 1] - begin).to(at::kLong);
    const at::Tensor blocks = entries.bitwise_right_shift(kernels::kFirstRowBits).bitwise_and(kBlockBits);
    first_rows[head].scatter_(0, blocks.sub(ranges.sink_end), entries.bitwise_and(kFirstRows).to(at::kInt));
  }
  return first_rows;
}

// lengths (positions, 2): entries and lists.
std::vector<PositionLength> lengths_of(const at::Tensor& lengths) {
  const auto length = lengths.accessor<double, 2>();
  std::vector<PositionLength> result;
  for (int64_t place = 0; place < lengths.size(0); ++place)
    result.push_back({.entries = length[place][0], .lists = length[place][1]});
  return result;
}

// Adds to (KV heads, members, 3), what mass (KV heads, members, rows, searched blocks) makes with first_rows (KV heads,
// searched blocks). Overwrites mass.
void add_mass(at::Tensor masses, at::Tensor& mass, const at::Tensor& first_rows) {
  const int64_t rows = mass.size(2);
  const at::Tensor beyond = mass.sum({2, 3}, /*keepdim=*/false, at::kDouble);
  const at::Tensor row = at::arange(rows, first_rows.options()).view({1, 1, rows, 1});
  mass.masked_fill_(first_rows.unsqueeze(1).unsqueeze(1) > row, 0);
  const at::Tensor covered = mass.sum({2, 3}, /*keepdim=*/false, at::kDouble);
  masses.add_(at::stack({at::full_like(beyond, rows), beyond, covered}, 2));
}

}  // namespace

std::vector<int64_t> sampled_tiles(const AttentionGeometry& geometry, int64_t count) {
  const std::vector<TileRun> runs = searching_tiles(geometry);
  int64_t total = 0;
  for (const TileRun& run : runs) total += run.end - run.begin;
  count = std::min(count, total);
  std::vector<int64_t> tiles;
  int64_t before = 0;  // tiles of earlier runs
  for (const TileRun& run : runs) {
    // The i-th lies in the middle of the i-th of `count` equal parts.
    for (int64_t i = static_cast<int64_t>(tiles.size()); i < count; ++i) {
      const int64_t place = (2 * i + 1) * total / (2 * count) - before;
      if (place >= run.end - run.begin) break;
      tiles.push_back(run.begin + place);
    }
    before += run.end - run.begin;
  }
  return tiles;
}

int64_t recall_workspace_bytes(int64_t num_tokens, int64_t held_heads, int64_t group_size, int64_t head_dim,
                               int64_t block_size) {
  const int64_t rows = group_size * kQueryTile, blocks = std::max<int64_t>(num_tokens / block_size, 1);
  const int64_t heads = fitting(held_heads, rows * blocks * 4);
  const int64_t piece = fitting(blocks, heads * rows * block_size * 4) * block_size;  // keys
  // The blocks count twice, and of a piece its scores twice and its keys: as a log-sum-exp is taken.
  return heads * 4 * (2 * rows * blocks + 2 * rows * piece + head_dim * piece);
}

SelectionRecall::SelectionRecall(int64_t num_layers, int64_t num_kv_heads, int64_t group_size, int64_t tiles,
                                 at::Device device)
    : group_size_(group_size),
      tiles_(tiles),
      masses_(at::zeros({num_layers, num_kv_heads, group_size, 3}, at::TensorOptions(at::kDouble).device(device))),
      lengths_(at::zeros({num_layers, kListPositions, 2}, at::kDouble)) {}

void SelectionRecall::add(int64_t layer, const AttentionGeometry& geometry, const AttendedRows& rows) {
  if (!rows.lists.offsets.defined()) return;
  count_lists(layer, geometry, rows);
  const int64_t begin = rows.begin / kQueryTile, end = begin + kernels::num_tiles(rows.query.size(0));
  for (const int64_t tile : sampled_tiles(geometry, tiles_))
    if (begin <= tile && tile < end) measure(layer, geometry, rows, tile);
}

// Once for a KV head: with the first members of its group.
void SelectionRecall::count_lists(int64_t layer, const AttentionGeometry& geometry, const AttendedRows& rows) {
  if (rows.heads.members.begin > 0) return;
  const at::Tensor offsets = offsets_of(rows.lists);
  const auto offset = offsets.accessor<int64_t, 2>();
  auto length = lengths_.accessor<double, 3>()[layer];
  const int64_t first = rows.begin / kQueryTile;
  for (int64_t tile = first; tile < first + kernels::num_tiles(rows.query.size(0)); ++tile) {
    const TileRanges ranges = kernels::tile_ranges(geometry, tile);
    const int64_t place = (ranges.begin - ranges.document_begin) * kListPositions / geometry.num_tokens;
    const int64_t list = tile - rows.lists_begin / kQueryTile;
    for (int64_t head = 0; head < offsets.size(0); ++head)
      length[place][0] += static_cast<double>(offset[head][list + 1] - offset[head][list]);
    length[place][1] += static_cast<double>(offsets.size(0));
  }
}

// As many KV heads at a time as fit.
void SelectionRecall::measure(int64_t layer, const AttentionGeometry& geometry, const AttendedRows& rows,
                              int64_t tile) {
  const TileRanges ranges = kernels::tile_ranges(geometry, tile);
  const int64_t held = rows.key.size(0), members = rows.heads.members.count, size = ranges.end - ranges.begin;
  const at::Tensor offsets = offsets_of(rows.lists);
  const at::Tensor first_rows = first_rows_of(rows.lists, offsets, tile - rows.lists_begin / kQueryTile, ranges);
  const at::Tensor query = rows_by_kv_head(rows.query.narrow(0, ranges.begin - rows.begin, size), held, rows.scale);
  const int64_t blocks = ranges.window_begin - ranges.sink_begin;
  const int64_t step = fitting(held, members * size * std::max(blocks, geometry.block_size) * 4);
  for (int64_t head = 0; head < held; head += step) {
    const int64_t count = std::min(step, held - head);
    at::Tensor mass =
        searched_mass(query.narrow(0, head, count), rows.key.narrow(0, head, count), ranges, geometry.block_size)
            .unflatten(1, {members, size});
    const HeldHeads heads{.first = rows.heads.first + head * rows.heads.stride,
                          .stride = rows.heads.stride,
                          .members = rows.heads.members};
    const at::Tensor firsts = first_rows.narrow(0, head, count);
    if (watched_ && watched_->layer == layer) keep_watched(ranges, geometry, heads, mass, firsts);
    const at::Tensor masses =
        masses_[layer].slice(0, heads.first, heads.first + (count - 1) * heads.stride + 1, heads.stride);
    add_mass(masses.narrow(1, heads.members.begin, members), mass, firsts);
  }
}

// mass (KV heads, members, rows, searched blocks), first_rows (KV heads, searched blocks).
void SelectionRecall::keep_watched(const TileRanges& ranges, const AttentionGeometry& geometry, const HeldHeads& heads,
                                   const at::Tensor& mass, const at::Tensor& first_rows) {
  const int64_t from_first = watched_->query_head / group_size_ - heads.first;
  const int64_t head = from_first / heads.stride, member = watched_->query_head % group_size_ - heads.members.begin;
  if (from_first < 0 || from_first % heads.stride != 0 || head >= mass.size(0)) return;
  if (member < 0 || member >= heads.members.count || ranges.begin < watched_->begin) return;
  watched_->begin = ranges.begin;
  watched_->block_size = geometry.block_size;
  watched_->first_block = ranges.sink_end;
  watched_->mass = mass[head][member].to(at::kCPU, /*non_blocking=*/false, /*copy=*/true);
  watched_->first_rows = first_rows[head].to(at::kCPU, /*non_blocking=*/false, /*copy=*/true);
}

RecallReport SelectionRecall::take(Communicator& ranks) {
  at::Tensor masses = masses_.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true), lengths = lengths_.clone();
  masses_.zero_();
  lengths_.zero_();
  ranks.all_reduce_sum(masses);
  ranks.all_reduce_sum(lengths);
  const auto mass = masses.accessor<double, 4>();
  RecallReport report;
  for (int64_t layer = 0; layer < masses.size(0); ++layer) {
    std::vector<HeadMass> heads;
    for (int64_t head = 0; head < masses.size(1); ++head)
      for (int64_t member = 0; member < group_size_; ++member) {
        const auto sums = mass[layer][head][member];
        heads.push_back({.rows = sums[0], .beyond = sums[1], .covered = sums[2]});
      }
    if (heads.front().rows == 0) continue;
    LayerRecall found = layer_recall(layer, heads, masses.size(1));
    found.list_lengths = lengths_of(lengths[layer]);
    report.layers.push_back(std::move(found));
  }
  return report;
}

void SelectionRecall::watch(int64_t layer, int64_t query_head) {
  watched_ = TileAttention{.layer = layer, .query_head = query_head};
}

// The rank of the last tile hands on its numbers, then its rows; the others add nothing.
TileAttention SelectionRecall::take_watched(Communicator& ranks) {
  TileAttention kept = std::exchange(watched_, std::nullopt).value_or(TileAttention{});
  at::Tensor last = at::full({1}, kept.mass.defined() ? kept.begin : -1, at::kLong);
  ranks.all_reduce_max(last);
  const bool has = kept.mass.defined() && kept.begin == last.item<int64_t>();
  at::Tensor numbers = at::full({5}, -1, at::kLong);
  if (has) {
    const std::array<int64_t, 5> mine{kept.begin, kept.block_size, kept.first_block, kept.mass.size(0),
                                      kept.mass.size(1)};
    std::copy(mine.begin(), mine.end(), numbers.mutable_data_ptr<int64_t>());
  }
  ranks.all_reduce_max(numbers);
  const int64_t* number = numbers.const_data_ptr<int64_t>();
  if (number[0] < 0) return {};
  kept.begin = number[0];
  kept.block_size = number[1];
  kept.first_block = number[2];
  kept.mass = has ? kept.mass.contiguous() : at::zeros({number[3], number[4]}, at::kFloat);
  kept.first_rows = has ? kept.first_rows.contiguous() : at::zeros({number[4]}, at::kInt);
  ranks.all_reduce_sum(kept.mass);
  ranks.all_reduce_sum(kept.first_rows);
  return kept;
}

}  // namespace hiptrain
