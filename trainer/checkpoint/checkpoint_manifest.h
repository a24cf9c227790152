// The contents of a checkpoint folder, and how they are checked and read.
//
//   manifest.json                state of the run; which program wrote it; every file's size and XXH3-64 checksum;
//   every tensor's shape and
//                                pieces; last the checksum of all these values
//   rank_00000.safetensors ...   1-D pieces: "NAME", the master weights or the only ones, NAME as in the Hugging Face
//                                folder; "NAME:exp_avg", "NAME:exp_avg_sq" of optimizer.state_dtype
//   config.resolved.yaml         the run's config
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/batch_stream.h"
#include "data/token_file.h"
#include "trainer/config/run_config.h"
#include "trainer/formats/safetensors_reader.h"
#include "trainer/provenance/provenance.h"

namespace hiptrain {

// A checkpoint that cannot be written or read; the message names the file and what is wrong with it.
class CheckpointError : public DataError {
 public:
  using DataError::DataError;
};

// Everything besides the tensors that a run continues from.
struct TrainingState {
  int64_t step = 0;              // steps done, skipped ones included
  int64_t optimizer_steps = 0;   // updates made
  int64_t skipped_in_a_row = 0;  // non-finite steps since the last update
  int64_t tokens = 0;            // seen
  StreamState stream;
};

struct FileRecord {
  int64_t bytes = 0;
  uint64_t checksum = 0;  // XXH3-64
};

// Elements [begin, end) of a tensor, counted row-major, are the 1-D tensor of the same name in this file.
struct TensorPiece {
  std::string file;
  int64_t begin, end;
};

struct TensorRecord {
  std::vector<int64_t> shape;
  std::vector<TensorPiece> pieces;
};

struct CheckpointManifest {
  TrainingState state;
  ModelSection model;  // the folder whose config.json and tokenizer the run used, and its settings in that config.json
  std::optional<Provenance> provenance;  // missing in checkpoints of earlier programs
  std::map<std::string, FileRecord> files;
  std::map<std::string, TensorRecord> tensors;
};

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kFirstMomentSuffix = ":exp_avg";
inline constexpr const char* kSecondMomentSuffix = ":exp_avg_sq";
std::string rank_file_name(int rank);

std::string to_json(const CheckpointManifest& manifest);
// Throws CheckpointError for a missing, foreign or contradictory manifest.
CheckpointManifest read_manifest(const std::filesystem::path& checkpoint);

FileRecord record_of_file(const std::filesystem::path& path);
void verify_size(const std::filesystem::path& path, const FileRecord& expected);
void verify_checksum(const std::filesystem::path& path, const FileRecord& expected);

// Reads tensors of a checkpoint whose files were verified.
class CheckpointReader {
 public:
  CheckpointReader(const std::filesystem::path& checkpoint, const CheckpointManifest& manifest);

  // Copies elements [begin, begin + out.numel()) of NAME + suffix into out (1-D float32). Throws CheckpointError if the
  // tensor is missing or has another shape.
  void read(const std::string& name, const std::string& suffix, const std::vector<int64_t>& shape, int64_t begin,
            at::Tensor out) const;

 private:
  const CheckpointManifest& manifest_;
  std::map<std::string, SafetensorsFile> files_;
};

}  // namespace hiptrain
