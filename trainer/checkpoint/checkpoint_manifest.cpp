#include "trainer/checkpoint/checkpoint_manifest.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

namespace hiptrain {
namespace {

constexpr int kManifestVersion = 3;
constexpr int kOldestVersion = 2;  // no run set fields of its model's config.json

nlohmann::json json_of(const TrainingState& state) {
  return {{"step", state.step},
          {"optimizer_steps", state.optimizer_steps},
          {"skipped_in_a_row", state.skipped_in_a_row},
          {"tokens", state.tokens},
          {"stream", {{"seed", state.stream.seed}, {"epoch", state.stream.epoch}, {"index", state.stream.index}}}};
}

TrainingState state_of(const nlohmann::json& json) {
  const nlohmann::json& stream = json.at("stream");
  return {.step = json.at("step"),
          .optimizer_steps = json.at("optimizer_steps"),
          .skipped_in_a_row = json.at("skipped_in_a_row"),
          .tokens = json.at("tokens"),
          .stream = {.seed = stream.at("seed"), .epoch = stream.at("epoch"), .index = stream.at("index")}};
}

nlohmann::ordered_json settings_json(const ModelSection& model) {
  auto json = nlohmann::ordered_json::object();
  if (model.rope_theta != kAuto) json["rope_theta"] = model.rope_theta;
  if (model.rope_scaling != kModelsScaling) json["rope_scaling"] = model.rope_scaling;
  if (model.max_position_embeddings != kAuto) json["max_position_embeddings"] = model.max_position_embeddings;
  return json;
}

ModelSection model_of(const nlohmann::json& json) {
  ModelSection model{.path = json.at("model_path")};
  if (!json.contains("model_settings")) return model;
  const nlohmann::json& settings = json.at("model_settings");
  model.rope_theta = settings.value("rope_theta", model.rope_theta);
  model.rope_scaling = settings.value("rope_scaling", model.rope_scaling);
  model.max_position_embeddings = settings.value("max_position_embeddings", model.max_position_embeddings);
  return model;
}

CheckpointManifest manifest_of(const nlohmann::json& json) {
  CheckpointManifest manifest{
      .state = state_of(json.at("state")), .model = model_of(json), .provenance = {}, .files = {}, .tensors = {}};
  if (json.contains("provenance")) manifest.provenance = read_provenance(json.at("provenance"));
  for (const auto& [name, file] : json.at("files").items())
    manifest.files[name] = {.bytes = file.at("bytes"),
                            .checksum = std::stoull(file.at("xxh3").get<std::string>(), nullptr, 16)};
  for (const auto& [name, tensor] : json.at("tensors").items()) {
    TensorRecord& record = manifest.tensors[name];
    record.shape = tensor.at("shape").get<std::vector<int64_t>>();
    for (const nlohmann::json& piece : tensor.at("pieces"))
      record.pieces.push_back({.file = piece.at("file"), .begin = piece.at("begin"), .end = piece.at("end")});
  }
  return manifest;
}

// Names come from a file: they may not lead out of the folder.
void check_pieces(const std::filesystem::path& path, const CheckpointManifest& manifest) {
  for (const auto& [name, record] : manifest.files)
    if (name.empty() || name.find('/') != std::string::npos || name.starts_with('.'))
      throw CheckpointError(path.string() + ": '" + name + "' is no name for a file of a checkpoint");
  for (const auto& [name, tensor] : manifest.tensors)
    for (const TensorPiece& piece : tensor.pieces)
      if (!manifest.files.contains(piece.file))
        throw CheckpointError(path.string() + ": tensor '" + name + "' is in '" + piece.file +
                              "', which is not among the checkpoint's files");
}

std::string hexadecimal(uint64_t value) {
  std::ostringstream text;
  text << std::hex << value;
  return text.str();
}

// The checksum of the values, whatever the white space between them.
std::string checksum_of(const nlohmann::ordered_json& json) {
  const std::string text = json.dump();
  return hexadecimal(XXH3_64bits(text.data(), text.size()));
}

// A manifest's last field is the checksum of all before it.
void verify_own_checksum(const std::filesystem::path& path, nlohmann::ordered_json json) {
  const std::string expected = json.at("xxh3");
  json.erase("xxh3");
  if (checksum_of(json) != expected)
    throw CheckpointError(path.string() + ": checksum " + checksum_of(json) + ", its last field says " + expected +
                          "; the file was changed or damaged");
}

}  // namespace

std::string rank_file_name(int rank) {
  std::ostringstream name;
  name << "rank_";
  name.width(5);
  name.fill('0');
  name << rank << ".safetensors";
  return name.str();
}

std::string to_json(const CheckpointManifest& manifest) {
  nlohmann::ordered_json json{{"format", "hiptrain checkpoint"}, {"version", kManifestVersion}};
  if (manifest.provenance) json["provenance"] = json_of(*manifest.provenance);
  json["state"] = json_of(manifest.state);
  json["model_path"] = manifest.model.path;
  json["model_settings"] = settings_json(manifest.model);
  json["files"] = nlohmann::json::object();
  for (const auto& [name, record] : manifest.files)
    json["files"][name] = {{"bytes", record.bytes}, {"xxh3", hexadecimal(record.checksum)}};
  json["tensors"] = nlohmann::json::object();
  for (const auto& [name, tensor] : manifest.tensors) {
    nlohmann::json pieces = nlohmann::json::array();
    for (const TensorPiece& piece : tensor.pieces)
      pieces.push_back({{"file", piece.file}, {"begin", piece.begin}, {"end", piece.end}});
    json["tensors"][name] = {{"shape", tensor.shape}, {"pieces", pieces}};
  }
  json["xxh3"] = checksum_of(json);
  return json.dump(1) + "\n";
}

CheckpointManifest read_manifest(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / kManifestName;
  std::ifstream file(path);
  if (!file) throw CheckpointError(path.string() + ": cannot be opened; a checkpoint is a folder with a manifest.json");
  try {
    const nlohmann::ordered_json json = nlohmann::ordered_json::parse(file);
    const nlohmann::ordered_json& version = json.at("version");
    if (version < kOldestVersion || version > kManifestVersion)
      throw CheckpointError(path.string() + ": version " + version.dump() + ", this program reads versions " +
                            std::to_string(kOldestVersion) + " to " + std::to_string(kManifestVersion));
    verify_own_checksum(path, json);
    const CheckpointManifest manifest = manifest_of(json);
    check_pieces(path, manifest);
    return manifest;
  } catch (const CheckpointError&) {
    throw;
  } catch (const std::exception& error) {
    throw CheckpointError(path.string() + ": not a manifest of a checkpoint: " + error.what());
  }
}

FileRecord record_of_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw CheckpointError(path.string() + ": cannot be opened");
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  XXH3_64bits_reset(state.get());
  std::vector<char> buffer(size_t{1} << 20);
  FileRecord record;
  while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), file.gcount() > 0) {
    XXH3_64bits_update(state.get(), buffer.data(), static_cast<size_t>(file.gcount()));
    record.bytes += file.gcount();
  }
  if (!file.eof()) throw CheckpointError(path.string() + ": cannot be read to its end");
  record.checksum = XXH3_64bits_digest(state.get());
  return record;
}

void verify_size(const std::filesystem::path& path, const FileRecord& expected) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  if (error) throw CheckpointError(path.string() + ": " + error.message());
  if (static_cast<int64_t>(bytes) != expected.bytes)
    throw CheckpointError(path.string() + ": " + std::to_string(bytes) + " bytes, the manifest says " +
                          std::to_string(expected.bytes));
}

void verify_checksum(const std::filesystem::path& path, const FileRecord& expected) {
  const uint64_t found = record_of_file(path).checksum;
  if (found != expected.checksum)
    throw CheckpointError(path.string() + ": checksum " + hexadecimal(found) + ", the manifest says " +
                          hexadecimal(expected.checksum) + "; the file was changed or damaged");
}

CheckpointReader::CheckpointReader(const std::filesystem::path& checkpoint, const CheckpointManifest& manifest)
    : manifest_(manifest) {
  for (const auto& [name, record] : manifest.files) files_.emplace(name, SafetensorsFile(checkpoint / name));
}

void CheckpointReader::read(const std::string& name, const std::string& suffix, const std::vector<int64_t>& shape,
                            int64_t begin, at::Tensor out) const {
  const auto record = manifest_.tensors.find(name);
  if (record == manifest_.tensors.end()) throw CheckpointError("the checkpoint has no tensor '" + name + "'");
  if (record->second.shape != shape) {
    std::ostringstream message;
    message << "tensor '" << name << "' has shape " << at::IntArrayRef(record->second.shape)
            << " in the checkpoint and " << at::IntArrayRef(shape) << " in the model";
    throw CheckpointError(message.str());
  }
  const int64_t end = begin + out.numel();
  int64_t copied = 0;
  for (const TensorPiece& piece : record->second.pieces) {
    const int64_t first = std::max(begin, piece.begin), last = std::min(end, piece.end);
    if (first >= last) continue;
    const at::Tensor stored = files_.at(piece.file).tensor(name + suffix);
    out.narrow(0, first - begin, last - first).copy_(stored.narrow(0, first - piece.begin, last - first));
    copied += last - first;
  }
  if (copied != out.numel())
    throw CheckpointError("tensor '" + name + suffix + "': the checkpoint's pieces do not cover it");
}

}  // namespace hiptrain
