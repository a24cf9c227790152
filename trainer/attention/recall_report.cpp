#include "trainer/attention/recall_report.h"

#include <algorithm>
#include <functional>
#include <span>

#include "trainer/formats/report_text.h"

namespace hiptrain {
namespace {

using Json = nlohmann::ordered_json;

// "0-3, 7"
std::string ranges_text(const std::vector<int64_t>& layers) {
  std::string text;
  for (size_t i = 0; i < layers.size();) {
    size_t last = i;
    while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
    text += (text.empty() ? "" : ", ") + std::to_string(layers[i]);
    if (last > i) text += "-" + std::to_string(layers[last]);
    i = last + 1;
  }
  return text;
}

// The mean of a member, or of what a member function gives.
template <typename Items, typename Number>
double mean_over(const Items& items, Number number) {
  double sum = 0;
  for (const auto& item : items) sum += std::invoke(number, item);
  return sum / static_cast<double>(items.size());
}

}  // namespace

double HeadMass::recall() const { return beyond < kNegligibleMass * rows ? 1 : covered / beyond; }

int64_t LayerRecall::worst_kv_head() const {
  const auto worst = std::min_element(kv_heads.begin(), kv_heads.end(),
                                      [](const KvHeadRecall& a, const KvHeadRecall& b) { return a.recall < b.recall; });
  return worst - kv_heads.begin();
}

double LayerRecall::beyond() const { return mean_over(kv_heads, &KvHeadRecall::beyond); }

double LayerRecall::missed() const { return mean_over(kv_heads, &KvHeadRecall::missed); }

double LayerRecall::mean_list_entries() const {
  PositionLength sum;
  for (const PositionLength& length : list_lengths) {
    sum.entries += length.entries;
    sum.lists += length.lists;
  }
  return sum.mean();
}

double RecallReport::mean() const {
  return mean_over(layers, [](const LayerRecall& layer) { return mean_over(layer.kv_heads, &KvHeadRecall::recall); });
}

const LayerRecall& RecallReport::worst() const {
  return *std::min_element(layers.begin(), layers.end(),
                           [](const LayerRecall& a, const LayerRecall& b) { return a.recall() < b.recall(); });
}

double RecallReport::missed() const { return mean_over(layers, &LayerRecall::missed); }

LayerRecall layer_recall(int64_t layer, const std::vector<HeadMass>& masses, int64_t num_kv_heads) {
  const int64_t group_size = static_cast<int64_t>(masses.size()) / num_kv_heads;
  LayerRecall result{.layer = layer, .kv_heads = {}};
  for (int64_t first = 0; first < num_kv_heads * group_size; first += group_size) {
    const auto group = masses.begin() + first;
    const auto worst = std::min_element(group, group + group_size,
                                        [](const HeadMass& a, const HeadMass& b) { return a.recall() < b.recall(); });
    const std::span members(group, group + group_size);
    result.kv_heads.push_back(
        {.recall = worst->recall(),
         .query_head = worst - masses.begin(),
         .beyond = mean_over(members, [](const HeadMass& head) { return head.of_row(head.beyond); }),
         .missed = mean_over(members, &HeadMass::missed)});
  }
  return result;
}

std::string summary_text(const RecallReport& report) {
  const LayerRecall& worst = report.worst();
  return "recall " + decimal(report.mean(), 3) + " worst " + decimal(worst.recall(), 3) + " (layer " +
         std::to_string(worst.layer) + ")";
}

std::string by_layer_text(const RecallReport& report) {
  std::vector<std::vector<std::string>> rows{
      {"layer", "recall", "beyond", "missed", "blocks a tile", "recall by KV head"}};
  for (const LayerRecall& layer : report.layers) {
    std::string heads;
    for (const KvHeadRecall& head : layer.kv_heads) heads += (heads.empty() ? "" : " ") + decimal(head.recall, 3);
    rows.push_back({std::to_string(layer.layer), decimal(layer.recall(), 3), decimal(layer.beyond(), 4),
                    decimal(layer.missed(), 4), decimal(layer.mean_list_entries(), 1), heads});
  }
  return table_text(rows);
}

Json json_of(const RecallReport& report) {
  Json object{{"mean", report.mean()},
              {"worst", report.worst().recall()},
              {"worst_layer", report.worst().layer},
              {"missed", report.missed()}};
  for (const LayerRecall& layer : report.layers) {
    Json recalls = Json::array(), missed = Json::array();
    for (const KvHeadRecall& head : layer.kv_heads) {
      recalls.push_back(head.recall);
      missed.push_back(head.missed);
    }
    object["layers"].push_back({{"layer", layer.layer},
                                {"recall", layer.recall()},
                                {"beyond", layer.beyond()},
                                {"missed", layer.missed()},
                                {"list_entries", layer.mean_list_entries()},
                                {"kv_head_recall", recalls},
                                {"kv_head_missed", missed}});
  }
  return object;
}

std::string low_recall_warning(const RecallReport& report, std::set<int64_t>& named) {
  std::vector<int64_t> layers;
  double worst = 1;
  for (const LayerRecall& layer : report.layers) {
    const bool low = layer.recall_together() < kLowRecall && layer.missed() > kHighMiss;
    if (!low || !named.insert(layer.layer).second) continue;
    layers.push_back(layer.layer);
    worst = std::min(worst, layer.recall_together());
  }
  if (layers.empty()) return "";
  const bool one = layers.size() == 1;
  const std::string text = ranges_text(layers);
  return (one ? "layer " : "layers ") + text + (one ? " covers " : " cover as little as ") + decimal(worst, 2) +
         " of the attention beyond sinks and window, below " + decimal(kLowRecall, 2) +
         ": set larger attention.picks, attention.index_dims or attention.window, for " + (one ? "it" : "them") +
         " alone with attention.layers: [{layers: \"" + text + "\", picks: ...}]";
}

}  // namespace hiptrain
