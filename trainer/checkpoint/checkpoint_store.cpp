#include "trainer/checkpoint/checkpoint_store.h"

#include <algorithm>
#include <functional>
#include <sstream>

#include "trainer/formats/atomic_file.h"
#include "trainer/formats/safetensors_writer.h"

namespace hiptrain {
namespace {

constexpr const char* kTemporarySuffix = ".tmp";

void write_text(const std::filesystem::path& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

std::string step_folder_name(int64_t step) {
  std::ostringstream name;
  name << "step_";
  name.width(8);
  name.fill('0');
  name << step;
  return name.str();
}

// Runs `work` on every rank; when it throws on one, every rank throws.
void all_or_none(Communicator& world, const std::function<void()>& work) {
  std::string failure;
  try {
    work();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  at::Tensor failed = at::full({1}, failure.empty() ? 0 : 1, at::kInt);
  world.all_reduce_max(failed);
  if (!failure.empty()) throw CheckpointError(failure);
  if (failed.item<int>() != 0) throw CheckpointError("the checkpoint failed on another rank; its message says why");
}

// One number of every rank, on every rank.
std::vector<int64_t> gather_number(Communicator& world, int64_t number) {
  at::Tensor all = at::empty({world.size()}, at::kLong);
  world.all_gather(at::full({1}, number, at::kLong), all);
  return {all.const_data_ptr<int64_t>(), all.const_data_ptr<int64_t>() + all.numel()};
}

CheckpointManifest manifest_of(const ShardedParameters& parameters, int num_ranks) {
  CheckpointManifest manifest;
  const std::vector<ParameterUnit>& units = parameters.layout().units();
  for (size_t unit = 0; unit < units.size(); ++unit) {
    for (const Parameter& parameter : units[unit].parameters) manifest.tensors[parameter.name].shape = parameter.shape;
    for (int rank = 0; rank < num_ranks; ++rank)
      for (const ShardedParameters::Piece& piece : parameters.pieces(static_cast<int>(unit), rank))
        manifest.tensors[piece.parameter->name].pieces.push_back(
            {.file = rank_file_name(rank), .begin = piece.begin, .end = piece.begin + piece.count});
  }
  return manifest;
}

}  // namespace

CheckpointStore::CheckpointStore(std::filesystem::path folder, int64_t keep, Communicator& world)
    : folder_(std::move(folder)), keep_(keep), world_(world) {}

std::filesystem::path CheckpointStore::save(const ShardedParameters& parameters, const TrainingState& state,
                                            const ModelSection& model, const std::string& resolved_config) {
  const std::filesystem::path complete = folder_ / step_folder_name(state.step);
  const std::filesystem::path temporary = complete.string() + kTemporarySuffix;
  const bool first = world_.rank() == 0;
  parameters.finish_updates();
  try {
    all_or_none(world_, [&] {
      if (!first) return;
      std::filesystem::remove_all(temporary);
      std::filesystem::create_directories(temporary);
    });
    FileRecord mine;
    all_or_none(world_, [&] { mine = write_rank_file(temporary, parameters); });
    const std::vector<int64_t> sizes = gather_number(world_, mine.bytes);
    const std::vector<int64_t> checksums = gather_number(world_, static_cast<int64_t>(mine.checksum));
    all_or_none(world_, [&] {
      if (!first) return;
      CheckpointManifest manifest = manifest_of(parameters, world_.size());
      manifest.state = state;
      manifest.model = model;
      manifest.provenance = current_provenance(parameters.device());
      for (int rank = 0; rank < world_.size(); ++rank)
        manifest.files[rank_file_name(rank)] = {.bytes = sizes[rank],
                                                .checksum = static_cast<uint64_t>(checksums[rank])};
      write_text(temporary / "config.resolved.yaml", resolved_config);
      write_text(temporary / kManifestName, to_json(manifest));
      commit(temporary, complete);
    });
  } catch (const CheckpointError&) {
    std::error_code ignored;
    if (first) std::filesystem::remove_all(temporary, ignored);
    throw;
  }
  if (first) prune(complete);
  world_.barrier();
  return complete;
}

FileRecord CheckpointStore::write_rank_file(const std::filesystem::path& temporary,
                                            const ShardedParameters& parameters) const {
  std::map<std::string, at::Tensor> tensors;
  for (size_t unit = 0; unit < parameters.shards().size(); ++unit) {
    const ShardedParameters::Shard& shard = parameters.shards()[unit];
    for (const ShardedParameters::Piece& piece : parameters.pieces(static_cast<int>(unit))) {
      const std::string& name = piece.parameter->name;
      tensors[name] = shard.master.narrow(0, piece.offset, piece.count);
      tensors[name + kFirstMomentSuffix] = shard.first_moment.narrow(0, piece.offset, piece.count);
      tensors[name + kSecondMomentSuffix] = shard.second_moment.narrow(0, piece.offset, piece.count);
    }
  }
  const std::filesystem::path path = temporary / rank_file_name(world_.rank());
  write_safetensors(path, tensors);
  return record_of_file(path);
}

// From here on the checkpoint counts: the rename is the commit.
void CheckpointStore::commit(const std::filesystem::path& temporary, const std::filesystem::path& complete) const {
  sync_folder(temporary);
  const std::filesystem::path replaced = complete.string() + ".replaced" + kTemporarySuffix;
  if (std::filesystem::exists(complete)) std::filesystem::rename(complete, replaced);
  std::filesystem::rename(temporary, complete);
  sync_folder(folder_);
  std::filesystem::remove_all(replaced);
}

std::vector<std::filesystem::path> CheckpointStore::list() const {
  std::vector<std::filesystem::path> found;
  if (!std::filesystem::is_directory(folder_)) return found;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && name.starts_with("step_") && !name.ends_with(kTemporarySuffix))
      found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());  // the numbers are padded with zeros
  return found;
}

void CheckpointStore::prune(const std::filesystem::path& newest) const {
  if (keep_ <= 0) return;
  std::vector<std::filesystem::path> found = list();
  for (size_t i = 0; i + static_cast<size_t>(keep_) < found.size(); ++i) {
    std::error_code ignored;  // an old checkpoint that cannot be removed does not harm the run
    if (found[i] != newest) std::filesystem::remove_all(found[i], ignored);
  }
}

TrainingState CheckpointStore::load(const std::filesystem::path& checkpoint, ShardedParameters& parameters) const {
  TrainingState state;
  all_or_none(world_, [&] {
    const CheckpointManifest manifest = read_manifest(checkpoint);
    for (const auto& [file, record] : manifest.files) verify_size(checkpoint / file, record);
    int64_t number = 0;  // checksums are shared out: every file is read through by one rank
    for (const auto& [file, record] : manifest.files)
      if (number++ % world_.size() == world_.rank()) verify_checksum(checkpoint / file, record);
    const CheckpointReader reader(checkpoint, manifest);
    for (size_t unit = 0; unit < parameters.shards().size(); ++unit) {
      ShardedParameters::Shard& shard = parameters.shards()[unit];
      for (const ShardedParameters::Piece& piece : parameters.pieces(static_cast<int>(unit))) {
        const auto read = [&](const char* suffix, at::Tensor& into) {
          reader.read(piece.parameter->name, suffix, piece.parameter->shape, piece.begin,
                      into.narrow(0, piece.offset, piece.count));
        };
        read("", shard.master);
        read(kFirstMomentSuffix, shard.first_moment);
        read(kSecondMomentSuffix, shard.second_moment);
      }
    }
    parameters.round_masters();
    state = manifest.state;
  });
  return state;
}

std::optional<LoadedCheckpoint> CheckpointStore::load_newest(
    ShardedParameters& parameters, const std::function<void(const std::string&)>& warn) const {
  // Rank 0 decides which folders there are: a shared file system may show them at different times.
  const std::vector<std::filesystem::path> found = list();
  const int64_t count = gather_number(world_, static_cast<int64_t>(found.size()))[0];
  for (int64_t i = count - 1; i >= 0; --i) {
    try {
      all_or_none(world_, [&] {
        if (static_cast<int64_t>(found.size()) != count)
          throw CheckpointError(folder_.string() + ": the ranks see different checkpoints; is it on a shared disk?");
      });
      return LoadedCheckpoint{.path = found[i], .state = load(found[i], parameters)};
    } catch (const CheckpointError& error) {
      warn(std::string(error.what()) + (i > 0 ? "; trying the checkpoint before it" : "; no other checkpoint is left"));
    }
  }
  if (count > 0)
    throw CheckpointError(folder_.string() + ": none of its " + std::to_string(count) +
                          " checkpoints can be read; move them away or set checkpoint.resume: none");
  return std::nullopt;
}

}  // namespace hiptrain
