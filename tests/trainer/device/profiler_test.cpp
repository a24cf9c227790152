#include "trainer/device/profiler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/support/temporary_folder.h"

namespace hiptrain {
namespace {

using ::testing::ElementsAre;

void spend(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

// step [ spend 20, loss [ spend 30, search [ spend 10 ] ], search [ spend 10 ] ]
std::vector<RangeTime> nested_ranges() {
  Profile profile(at::kCPU);
  {
    const ProfiledRange step("step");
    spend(20);
    {
      const ProfiledRange loss(part::kLoss);
      spend(30);
      const ProfiledRange search(part::kSearch);
      spend(10);
    }
    const ProfiledRange search(part::kSearch);
    spend(10);
  }
  return profile.finish();
}

TEST(Profile, RangesAreInTheOrderTheyBegan) {
  std::vector<std::string> names;
  std::vector<int> depths;
  for (const RangeTime& range : nested_ranges()) {
    names.push_back(range.name);
    depths.push_back(range.depth);
  }
  EXPECT_THAT(names, ElementsAre("step", "loss", "search", "search"));
  EXPECT_THAT(depths, ElementsAre(0, 1, 2, 1));
}

TEST(Profile, PartsAddUpToTheWhole) {
  const std::vector<RangeTime> ranges = nested_ranges();
  const std::map<std::string, double> seconds = seconds_by_name(ranges);
  double sum = 0;
  for (const auto& [name, value] : seconds) sum += value;
  EXPECT_NEAR(sum, ranges.front().seconds, 1e-9);
  EXPECT_GE(ranges.front().seconds, 0.07);
  EXPECT_GE(seconds.at("step"), 0.02);
  EXPECT_GE(seconds.at("loss"), 0.03);
  EXPECT_GE(seconds.at("search"), 0.02);
  EXPECT_LT(seconds.at("loss"), ranges[1].seconds);  // without the search in it
}

TEST(Profile, RangesOutsideAreNotKept) {
  { const ProfiledRange before("before"); }
  Profile profile(at::kCPU);
  { const ProfiledRange during("during"); }
  const std::vector<RangeTime> ranges = profile.finish();
  ASSERT_EQ(ranges.size(), 1u);
  EXPECT_EQ(ranges.front().name, "during");
}

TEST(Profile, OneAtATime) {
  const Profile profile(at::kCPU);
  EXPECT_THROW(Profile second(at::kCPU), std::logic_error);
}

TEST(Profile, TraceHasEveryRange) {
  const TemporaryFolder folder;
  const std::vector<RangeTime> ranges = nested_ranges();
  write_chrome_trace(folder.path() / "trace.json", ranges, {{"version", "1.2.3"}});
  const nlohmann::json trace = nlohmann::json::parse(read_file(folder.path() / "trace.json"));
  ASSERT_EQ(trace.at("traceEvents").size(), 4u);
  EXPECT_EQ(trace.at("otherData").at("version"), "1.2.3");
  const nlohmann::json& inner = trace["traceEvents"][2];
  EXPECT_EQ(inner.at("name"), "search");
  EXPECT_EQ(inner.at("ph"), "X");
  EXPECT_NEAR(inner.at("ts").get<double>(), 1e6 * ranges[2].begin_seconds, 1);
  EXPECT_NEAR(inner.at("dur").get<double>(), 1e6 * ranges[2].seconds, 1);
}

}  // namespace
}  // namespace hiptrain
