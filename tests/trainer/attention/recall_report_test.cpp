#include "trainer/attention/recall_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace hiptrain {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A layer of one KV head with these recalls of its query heads, each with half of its mass beyond the window.
LayerRecall layer_of(int64_t layer, const std::vector<double>& recalls) {
  std::vector<HeadMass> masses;
  for (const double recall : recalls) masses.push_back({.rows = 100, .beyond = 50, .covered = 50 * recall});
  return layer_recall(layer, masses, 1);
}

TEST(RecallReport, TheWorstHeadOfAGroupCounts) {
  const std::vector<HeadMass> masses{{.rows = 10, .beyond = 4, .covered = 3},
                                     {.rows = 10, .beyond = 2, .covered = 1},
                                     {.rows = 10, .beyond = 5, .covered = 5},
                                     {.rows = 10, .beyond = 8, .covered = 6}};
  const LayerRecall layer = layer_recall(7, masses, 2);
  ASSERT_EQ(layer.kv_heads.size(), 2u);
  EXPECT_DOUBLE_EQ(layer.kv_heads[0].recall, 0.5);
  EXPECT_EQ(layer.kv_heads[0].query_head, 1);
  EXPECT_DOUBLE_EQ(layer.kv_heads[0].beyond, 0.3);
  EXPECT_DOUBLE_EQ(layer.kv_heads[0].missed, 0.1);
  EXPECT_DOUBLE_EQ(layer.kv_heads[1].recall, 0.75);
  EXPECT_EQ(layer.kv_heads[1].query_head, 3);
  EXPECT_EQ(layer.worst_kv_head(), 0);
  EXPECT_DOUBLE_EQ(layer.recall(), 0.5);
  EXPECT_DOUBLE_EQ(layer.missed(), 0.1);
  EXPECT_DOUBLE_EQ(layer.recall_together(), 15.0 / 19);
}

TEST(RecallReport, AHeadThatLooksNowhereElseMissesNothing) {
  EXPECT_EQ((HeadMass{.rows = 10000, .beyond = 9, .covered = 1}.recall()), 1);
  EXPECT_EQ((HeadMass{.rows = 10000, .beyond = 20, .covered = 5}.recall()), 0.25);
  EXPECT_EQ(HeadMass{}.missed(), 0);
}

TEST(RecallReport, InWords) {
  RecallReport report{.layers = {layer_of(2, {1, 0.95}), layer_of(12, {0.91, 1})}};
  report.layers[0].list_lengths = {{.entries = 30, .lists = 2}, {.entries = 0, .lists = 1}, {}};
  EXPECT_EQ(summary_text(report), "recall 0.930 worst 0.910 (layer 12)");
  EXPECT_THAT(by_layer_text(report), AllOf(HasSubstr("0.950"), HasSubstr("0.0125"), HasSubstr("10.0")));
  const nlohmann::ordered_json object = json_of(report);
  EXPECT_EQ(object["worst_layer"], 12);
  EXPECT_DOUBLE_EQ(object["mean"].get<double>(), 0.93);
  EXPECT_EQ(object["layers"].size(), 2u);
  EXPECT_EQ(object["layers"][0]["list_entries"], 10.0);
  EXPECT_THAT(object["layers"][1]["kv_head_recall"], ElementsAre(0.91));
}

TEST(RecallReport, ALowLayerIsNamedOnce) {
  std::set<int64_t> named;
  const RecallReport first{
      .layers = {layer_of(0, {0.12}), layer_of(1, {0.14}), layer_of(2, {0.99}), layer_of(7, {0.10})}};
  EXPECT_THAT(low_recall_warning(first, named),
              AllOf(HasSubstr("layers 0-1, 7 cover as little as 0.10"), HasSubstr("attention.picks"),
                    HasSubstr("attention.layers: [{layers: \"0-1, 7\"")));
  EXPECT_EQ(low_recall_warning(first, named), "");
  const RecallReport second{.layers = {layer_of(0, {0.1}), layer_of(2, {0.13})}};
  EXPECT_THAT(low_recall_warning(second, named), HasSubstr("layer 2 covers 0.13"));
}

// One head of many that looks beyond its window now and then, and finds nothing.
TEST(RecallReport, AHeadAloneIsNoWarning) {
  std::vector<HeadMass> masses(8, {.rows = 100, .beyond = 50, .covered = 45});
  masses[3] = {.rows = 100, .beyond = 2, .covered = 0};
  std::set<int64_t> named;
  EXPECT_EQ(low_recall_warning({.layers = {layer_recall(0, masses, 2)}}, named), "");
  EXPECT_EQ(layer_recall(0, masses, 2).recall(), 0);
}

}  // namespace
}  // namespace hiptrain
