#include "trainer/model/model_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/temporary_folder.h"
#include "trainer/config/config_reader.h"

namespace hiptrain {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ModelChecksTest : public ::testing::Test {
 protected:
  RunConfig read(const std::string& text) const {
    const std::filesystem::path path = folder_.path() / "run.yaml";
    write_file(path, text);
    return read_run_config({path}, {});
  }

  TemporaryFolder folder_;
};

TEST_F(ModelChecksTest, ChecksAgainstTheModel) {
  const RunConfig config = read(
      "attention:\n  index_dims: 66\n  layers: [{layers: 2-4, index_dims: [63, 64]}]\n"
      "parallel: {sequence: 4, exchange: alltoall}\n");
  ModelConfig model{};
  model.num_layers = 4;
  model.head_dim = 64;
  model.num_kv_heads = 6;
  EXPECT_THAT(
      check_against_model(config, model, /*num_ranks=*/6),
      ElementsAre("error: attention.layers: there is no layer 4; the model has layers 0 to 3",
                  "error: attention.layers: layers 2, 3, 4: index_dims: there is no dim 64; the model's head_dim is "
                  "64: valid are 0 to 63",
                  "error: parallel.sequence: 4 does not divide the number of ranks, 6; valid: 0 (all), 1, 2, 3, 6",
                  "error: parallel.exchange: alltoall, but the 4 ranks of a sequence do not divide the model's 6 KV "
                  "heads; valid: auto, allgather"));
  model.num_layers = 5;
  model.head_dim = 128;
  model.num_kv_heads = 8;
  EXPECT_THAT(check_against_model(config, model, 8), IsEmpty());
}

// The beam counts where the tree is climbed, as far as there are nodes.
TEST_F(ModelChecksTest, ChecksAgainstTheGpu) {
  const auto errors_on_gpu = [](const RunConfig& config) {
    try {
      require_gpu_fits(config);
    } catch (const ConfigError& error) {
      return error.messages();
    }
    return std::vector<std::string>{};
  };
  const std::string attention = "attention:\n  beam: 17\n  layers: [{layers: 1, beam: 16}, {layers: 2, beam: 40}]\n";
  EXPECT_THAT(errors_on_gpu(read(attention + "data: {sequence_length: 4194304}\n")),
              ElementsAre("error: attention.beam: 17 is not valid on a GPU; valid: 1 to 16",
                          "error: attention.layers: layer 2: beam: 40 is not valid on a GPU; valid: 1 to 16"));
  EXPECT_THAT(errors_on_gpu(read(attention + "data: {sequence_length: 65536}\n")), IsEmpty());
  EXPECT_THAT(errors_on_gpu(read("attention: {beam: 17, scan_tokens: 0}\ndata: {sequence_length: 16384}\n")),
              IsEmpty());
}

}  // namespace
}  // namespace hiptrain
