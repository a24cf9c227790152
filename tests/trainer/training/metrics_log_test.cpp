#include "trainer/training/metrics_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "trainer/formats/report_text.h"

#include "tests/support/temporary_folder.h"

namespace hiptrain {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const Provenance kProvenance{.version = "1.2.3",
                             .commit = "0123456789ab",
                             .date = "2026-12-01T12:20:57Z",
                             .gpu = "",
                             .driver = "",
                             .command = "hiptrain train run.yaml"};

class MetricsLogTest : public ::testing::Test {
 protected:
  std::filesystem::path path() const { return folder_.path() / "run" / "metrics.jsonl"; }
  MetricsLog open(bool writes = true) const { return MetricsLog(folder_.path() / "run", writes); }

  std::vector<json> records() const {
    std::istringstream lines(read_file(path()));
    std::vector<json> records;
    for (std::string line; std::getline(lines, line);) records.push_back(json::parse(line));
    return records;
  }

  TemporaryFolder folder_;
};

StepMetrics metrics(int64_t step) {
  StepMetrics result;
  result.step = step;
  result.last_step = 100;
  result.tokens = 1000 * step;
  result.loss = 2.5;
  result.gradient_norm = 0.5;
  result.learning_rate = 1e-3;
  result.step_seconds = 2;
  result.tokens_per_second = 4096;
  result.memory_peak_bytes = int64_t{3} << 30;
  return result;
}

TEST_F(MetricsLogTest, EveryLineIsThereAtOnce) {
  MetricsLog log = open();
  log.start(0, 100, kProvenance, "");
  EXPECT_EQ(records().size(), 1u);
  log.train(metrics(1));
  ASSERT_EQ(records().size(), 2u);
  const json record = records()[1];
  EXPECT_EQ(record["event"], "train");
  EXPECT_EQ(record["step"], 1);
  EXPECT_EQ(record["loss"], 2.5);
  EXPECT_EQ(record["grad_norm"], 0.5);
  EXPECT_EQ(record["lr"], 1e-3);
  EXPECT_EQ(record["tokens_per_s"], 4096);
  EXPECT_EQ(record["memory_peak_bytes"], int64_t{3} << 30);
  EXPECT_FALSE(record["skipped"].get<bool>());
  EXPECT_FALSE(record.contains("nonfinite"));
}

TEST_F(MetricsLogTest, NumbersThatAreNotFiniteAreNullAndNamed) {
  MetricsLog log = open();
  StepMetrics step = metrics(1);
  step.loss = std::numeric_limits<double>::quiet_NaN();
  step.gradient_norm = std::numeric_limits<double>::infinity();
  step.skipped = true;
  log.train(step);
  const json record = records().at(0);
  EXPECT_TRUE(record["loss"].is_null());
  EXPECT_TRUE(record["grad_norm"].is_null());
  EXPECT_THAT(record["nonfinite"], ElementsAre("loss", "grad_norm"));
  EXPECT_TRUE(record["skipped"].get<bool>());
}

TEST_F(MetricsLogTest, EventsOfARun) {
  MetricsLog log = open();
  log.start(3, 100, kProvenance, "checkpoints/step_00000003", {{"gpu_bytes", 7}});
  log.evaluation(4,
                 {.loss_sum = 12,
                  .num_targets = 4,
                  .buckets = {{.begin = 0, .end = 1024, .loss_sum = 10, .num_targets = 2},
                              {.begin = 1024, .end = 2048, .loss_sum = 2, .num_targets = 2}}},
                 1.5);
  log.checkpoint(4, "checkpoints/step_00000004", 0.5);
  log.stop(4, "finished");
  const std::vector<json> all = records();
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all[0]["event"], "start");
  EXPECT_EQ(all[0]["step"], 3);
  EXPECT_EQ(all[0]["resumed_from"], "checkpoints/step_00000003");
  EXPECT_EQ(all[0]["provenance"]["commit"], "0123456789ab");
  EXPECT_EQ(all[0]["plan"]["gpu_bytes"], 7);
  EXPECT_EQ(all[1]["event"], "eval");
  EXPECT_EQ(all[1]["loss"], 3.0);
  EXPECT_EQ(all[1]["buckets"][0]["loss"], 5.0);
  EXPECT_EQ(all[1]["buckets"][1]["begin"], 1024);
  EXPECT_EQ(all[2]["event"], "checkpoint");
  EXPECT_EQ(all[2]["path"], "checkpoints/step_00000004");
  EXPECT_EQ(all[3]["event"], "stop");
}

TEST_F(MetricsLogTest, AResumedRunAppends) {
  open().start(0, 100, kProvenance, "");
  open().start(1, 100, kProvenance, "x");
  ASSERT_EQ(records().size(), 2u);
  EXPECT_FALSE(records()[0].contains("resumed_from") || records()[0].contains("plan"));
}

// A killed run may leave half a line; what follows must not be glued to it.
TEST_F(MetricsLogTest, HalfALineIsCutOff) {
  for (const std::string& half : {std::string("{\"event\": \"tr"), std::string("{\"step\": 7}")}) {
    std::filesystem::create_directories(path().parent_path());
    write_file(path(), "{\"step\": 1}\n{\"step\": 2}\n" + half);
    open().start(2, 100, kProvenance, "x");
    const std::vector<json> all = records();
    ASSERT_EQ(all.size(), 3u) << half;
    EXPECT_EQ(all[1]["step"], 2);
    EXPECT_EQ(all[2]["event"], "start");
  }
  write_file(path(), "{\"never ended");
  open().start(2, 100, kProvenance, "x");
  EXPECT_EQ(records().size(), 1u);
}

TEST_F(MetricsLogTest, OtherRanksWriteNothing) {
  ::testing::internal::CaptureStdout();
  MetricsLog log = open(/*writes=*/false);
  log.start(0, 100, kProvenance, "");
  log.train(metrics(1));
  log.stop(1, "finished");
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  EXPECT_FALSE(std::filesystem::exists(path()));
}

TEST_F(MetricsLogTest, OneLineAStep) {
  MetricsLog log = open();
  ::testing::internal::CaptureStdout();
  log.train(metrics(70));
  const std::string line = ::testing::internal::GetCapturedStdout();
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  for (const char* part :
       {"70/100", "loss 2.5000", "grad 0.500", "lr 1.00e-03", "4096 tokens/s", "3.0 GiB", "eta 1m00s"})
    EXPECT_THAT(line, HasSubstr(part));
}

TEST_F(MetricsLogTest, RecallWhereItWasMeasured) {
  MetricsLog log = open();
  StepMetrics measured = metrics(1);
  measured.recall.layers = {layer_recall(0, {{.rows = 10, .beyond = 5, .covered = 5}}, 1),
                            layer_recall(3, {{.rows = 10, .beyond = 5, .covered = 4}}, 1)};
  ::testing::internal::CaptureStdout();
  log.train(measured);
  log.train(metrics(2));
  const std::string lines = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(lines.substr(0, lines.find('\n')), HasSubstr("recall 0.900 worst 0.800 (layer 3)"));
  EXPECT_EQ(lines.find("recall", lines.find('\n')), std::string::npos);
  EXPECT_EQ(records().at(0)["recall"]["worst_layer"], 3);
  EXPECT_DOUBLE_EQ(records().at(0)["recall"]["layers"][1]["missed"].get<double>(), 0.1);
  EXPECT_FALSE(records().at(1).contains("recall"));
}

TEST_F(MetricsLogTest, AFolderThatCannotBeMade) {
  write_file(folder_.path() / "run", "a file");
  EXPECT_THAT(message_of<std::invalid_argument>([&] { open(); }),
              AllOf(HasSubstr("output_dir: "), HasSubstr("run cannot be written")));
}

TEST(DurationText, PicksItsUnits) {
  EXPECT_EQ(duration_text(0.25), "0.2s");
  EXPECT_EQ(duration_text(42), "42s");
  EXPECT_EQ(duration_text(125), "2m05s");
  EXPECT_EQ(duration_text(7500), "2h05m");
}

}  // namespace
}  // namespace hiptrain
