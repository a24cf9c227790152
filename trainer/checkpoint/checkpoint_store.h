// Checkpoints: a folder of safetensors shards with a manifest written last. A folder without the suffix .tmp is whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/sharding/sharded_parameters.h"

namespace hiptrain {

struct LoadedCheckpoint {
  std::filesystem::path path;
  TrainingState state;
};

// The checkpoints of one run. Layout of a checkpoint folder: trainer/checkpoint/checkpoint_manifest.h. Any number of
// ranks can load what any other number wrote. Methods that say so are collective over the world.
class CheckpointStore {
 public:
  // Keeps the newest `keep` checkpoints under folder (0: all).
  CheckpointStore(std::filesystem::path folder, int64_t keep, Communicator& world);

  // Collective. Writes step_00000010.tmp, syncs it, renames it; prunes old ones afterwards. Returns the folder. If a
  // rank fails every rank throws CheckpointError, and the checkpoints that were there stay.
  std::filesystem::path save(const ShardedParameters& parameters, const TrainingState& state, const ModelSection& model,
                             const std::string& resolved_config);

  // Complete checkpoints, oldest first.
  std::vector<std::filesystem::path> list() const;

  // Collective. Loads weights and optimizer state; verifies sizes and checksums. Throws CheckpointError on every rank.
  TrainingState load(const std::filesystem::path& checkpoint, ShardedParameters& parameters) const;

  // Collective. The newest checkpoint that loads; broken ones are reported to `warn`. Nothing if there is none; throws
  // CheckpointError if there are some and none loads.
  std::optional<LoadedCheckpoint> load_newest(ShardedParameters& parameters,
                                              const std::function<void(const std::string&)>& warn) const;

 private:
  FileRecord write_rank_file(const std::filesystem::path& temporary, const ShardedParameters& parameters) const;
  void commit(const std::filesystem::path& temporary, const std::filesystem::path& complete) const;
  void prune(const std::filesystem::path& newest) const;

  std::filesystem::path folder_;
  int64_t keep_;
  Communicator& world_;
};

}  // namespace hiptrain
