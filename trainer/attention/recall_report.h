// How well a selection did, in numbers: the recall of attention mass by layer and KV head. How it is measured:
// trainer/attention/selection_recall.h.
//
// The mass of a row of attention is 1. What lies on sinks and window is always attended; `beyond` is what lies on the
// searched range between them, and `covered` the part of that on the blocks that the row's tile has listed for it. The
// recall of a query head is covered / beyond, both summed over the sampled rows; that of a KV head is the worst of its
// group's; that of a layer is its worst KV head's. What is missed, beyond - covered, is what the loss follows: a recall
// of a half costs little where a head looks beyond its window with a hundredth of its mass.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace hiptrain {

// The mass of one query head, summed over the sampled rows.
struct HeadMass {
  double rows = 0, beyond = 0, covered = 0;

  double of_row(double mass) const { return rows > 0 ? mass / rows : 0; }
  double missed() const { return of_row(beyond - covered); }
  // 1 where the head looks beyond its window with less than kNegligibleMass of a row: of nothing, nothing is missed.
  double recall() const;
};
inline constexpr double kNegligibleMass = 1e-3;

struct KvHeadRecall {
  double recall = 1;              // of its worst query head
  int64_t query_head = 0;         // which that is, counted in the layer
  double beyond = 0, missed = 0;  // mass of a row, mean over the query heads
};

// Lists of the tiles at some positions in their documents, all KV heads'.
struct PositionLength {
  double entries = 0, lists = 0;

  double mean() const { return entries / lists; }  // picked blocks a tile; not a number without lists
};
// Positions that lengths are told apart by: the i-th begins at i / kListPositions of the sequence's length.
inline constexpr int64_t kListPositions = 128;

// The recall of a layer that searched something.
struct LayerRecall {
  int64_t layer = 0;
  std::vector<KvHeadRecall> kv_heads;
  std::vector<PositionLength> list_lengths = {};

  int64_t worst_kv_head() const;
  double recall() const { return kv_heads[worst_kv_head()].recall; }
  double beyond() const;  // mass of a row, mean over the query heads
  double missed() const;  // mass of a row that its list does not cover, mean over the query heads
  // The share of their mass beyond sinks and window that the lists of all heads together cover.
  double recall_together() const { return missed() > 0 ? 1 - missed() / beyond() : 1; }
  double mean_list_entries() const;  // picked blocks a tile, over all tiles of the sequence
};

struct RecallReport {
  std::vector<LayerRecall> layers;  // ascending; none: nothing was searched

  bool empty() const { return layers.empty(); }
  double mean() const;  // over all KV heads of these layers
  const LayerRecall& worst() const;
  double missed() const;  // mass of a row, mean over the layers
};

// masses: of the layer's query heads.
LayerRecall layer_recall(int64_t layer, const std::vector<HeadMass>& masses, int64_t num_kv_heads);

// "recall 0.982 worst 0.914 (layer 12)"
std::string summary_text(const RecallReport& report);
// A row a layer: recall, what lies beyond and is missed, list length, recall of every KV head.
std::string by_layer_text(const RecallReport& report);
nlohmann::ordered_json json_of(const RecallReport& report);

// A layer whose heads together cover less than kLowRecall of their mass beyond sinks and window, and miss more than
// kHighMiss of a row, is named to the user. The worst head alone says too little: where a head looks beyond its window
// once in a hundred rows, its recall is low at no loss. And what a head spreads evenly over thousands of tokens is
// missed at no loss too: SmolLM2 135M at 32,768 tokens, whose loss with the default selection is not above dense
// attention's, covers 0.16 in its lowest layer; searched with its groups' mean queries (a fifth of the facts) 0.11.
inline constexpr double kLowRecall = 0.15, kHighMiss = 0.1;

// One sentence that names the layers for which that holds and that `named` does not have yet, with what to change; they
// are added to `named`. Empty: there are none.
std::string low_recall_warning(const RecallReport& report, std::set<int64_t>& named);

}  // namespace hiptrain
