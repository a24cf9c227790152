#include "trainer/provenance/provenance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "trainer/device/device.h"
#include "trainer/provenance/build_version.h"
#include "trainer/provenance/driver_version.h"
#include "trainer/provenance/other_program.h"

namespace hiptrain {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

TEST(Provenance, OfThisProcessOnTheCpu) {
  const Provenance here = current_provenance(at::kCPU);
  EXPECT_EQ(here.version, HIPTRAIN_VERSION);
  EXPECT_THAT(here.commit, MatchesRegex("[0-9a-f]+(\\+changes)?|unknown"));
  EXPECT_THAT(here.date, MatchesRegex("20[0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z"));
  EXPECT_EQ(here.gpu, "");
  EXPECT_EQ(here.driver, "");
  EXPECT_THAT(here.command, HasSubstr("provenance_test"));
}

TEST(Provenance, OfAGpu) {
  if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
  const Provenance here = current_provenance(at::Device(at::kCUDA, 0));
  EXPECT_THAT(here.gpu, HasSubstr("NVIDIA"));
  EXPECT_THAT(here.driver, MatchesRegex("[0-9.]+"));
}

TEST(Provenance, JsonReadsBack) {
  const Provenance saved{.version = "1.2.3",
                         .commit = "0123456789ab",
                         .date = "2026-12-01T12:20:57Z",
                         .gpu = "",
                         .driver = "",
                         .command = "hiptrain train a.yaml"};
  const nlohmann::ordered_json json = json_of(saved);
  EXPECT_EQ(json.dump(),
            R"({"version":"1.2.3","commit":"0123456789ab","date":"2026-12-01T12:20:57Z","gpu":null,"driver":null,)"
            R"("command":"hiptrain train a.yaml"})");
  EXPECT_EQ(read_provenance(json), saved);
  EXPECT_THROW(read_provenance({{"version", "1.2.3"}}), nlohmann::json::exception);
  EXPECT_THROW(
      read_provenance(nlohmann::ordered_json(json).patch(R"([{"op": "replace", "path": "/gpu", "value": 7}])"_json)),
      nlohmann::json::exception);
}

TEST(Provenance, AShellReadsTheCommandBack) {
  EXPECT_EQ(shell_text({"hiptrain", "--set", "a.b=[1, 2]", "it's", "", "x/y.yaml"}),
            R"(hiptrain --set 'a.b=[1, 2]' 'it'\''s' '' x/y.yaml)");
}

TEST(Provenance, AnotherProgramIsNamed) {
  Provenance written = current_provenance(at::kCPU);
  EXPECT_EQ(other_program_text(written), "");
  written.date = "2020-01-01T00:00:00Z";
  EXPECT_EQ(other_program_text(written), "");
  written.commit = "0123456789ab";
  EXPECT_EQ(other_program_text(written), "hiptrain " + version_text(HIPTRAIN_VERSION, "0123456789ab") + "; this is " +
                                             version_text(HIPTRAIN_VERSION, build_commit()));
}

TEST(Provenance, VersionText) { EXPECT_EQ(version_text("1.2.3", "unknown"), "1.2.3 (commit unknown)"); }

// The variable names a folder with a library that answers in place of the driver's.
TEST(DriverVersion, IsWhatNvmlAnswers) {
  if (!std::getenv("HIPTRAIN_FAKE_NVML")) GTEST_SKIP() << "started without the stand-in for NVML";
  EXPECT_EQ(driver_version(), "580.12.34");
}

}  // namespace
}  // namespace hiptrain
