#include "trainer/checkpoint/model_export.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <vector>

#include "trainer/formats/atomic_file.h"
#include "trainer/formats/format_error.h"
#include "trainer/formats/json_file.h"
#include "trainer/formats/safetensors_folder.h"
#include "trainer/formats/safetensors_writer.h"
#include "trainer/model/model_config.h"
#include "trainer/model/model_settings.h"

namespace hiptrain {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 9> kKeptFiles{"generation_config.json",
                                                     "tokenizer.json",
                                                     "tokenizer_config.json",
                                                     "special_tokens_map.json",
                                                     "added_tokens.json",
                                                     "vocab.json",
                                                     "merges.txt",
                                                     "tokenizer.model",
                                                     "tekken.json"};
constexpr std::array<std::string_view, 6> kKeptBeginnings{"chat_template.", "LICENSE", "LICENCE",
                                                          "USE_POLICY",     "NOTICE",  "README"};

bool is_kept(const std::string& name) {
  return std::find(kKeptFiles.begin(), kKeptFiles.end(), name) != kKeptFiles.end() ||
         std::any_of(kKeptBeginnings.begin(), kKeptBeginnings.end(),
                     [&](std::string_view beginning) { return name.starts_with(beginning); });
}

void copy_durably(const fs::path& from, const fs::path& to) {
  AtomicFile file(to);
  file.write(read_text_file(from));
  file.commit();
}

// Byte for byte: whatever a tokenizer file holds, the copy holds.
void copy_kept_files(const fs::path& source, const fs::path& output) {
  for (const fs::directory_entry& entry : fs::directory_iterator(source))
    if (entry.is_regular_file() && is_kept(entry.path().filename().string()))
      copy_durably(entry.path(), output / entry.path().filename());
  const fs::path templates = "additional_chat_templates";  // a folder of them, in some models
  if (!fs::is_directory(source / templates)) return;
  fs::create_directory(output / templates);
  for (const fs::directory_entry& entry : fs::directory_iterator(source / templates))
    if (entry.is_regular_file()) copy_durably(entry.path(), output / templates / entry.path().filename());
}

// The source's fields in their order, only the type of the weights changed, and what the run set.
void write_config(const ModelSection& model, const fs::path& output, at::ScalarType type) {
  nlohmann::ordered_json config = model_json(model);
  const char* name = type == at::kFloat ? "float32" : "bfloat16";
  if (config.contains("dtype") || !config.contains("torch_dtype")) config["dtype"] = name;
  if (config.contains("torch_dtype")) config["torch_dtype"] = name;
  AtomicFile file(output / "config.json");
  file.write(config.dump(2) + "\n");
  file.commit();
}

bool has_weights(const fs::path& folder) {
  return fs::exists(folder / "model.safetensors.index.json") || fs::exists(folder / "model.safetensors");
}

bool drops_tied_head(const ModelSection& model) {
  if (!read_model_config(model).tied_embeddings) return false;
  const fs::path source = model.path;
  return !has_weights(source) || !SafetensorsFolder(source).contains("lm_head.weight");
}

// A folder beside its final place, removed unless it was renamed into it.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const fs::path& final_path)
      : path_(final_path.string() + ".partial" + std::to_string(::getpid())) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void write_weights(const ExportSettings& settings, const fs::path& folder,
                   const std::function<void(const TensorSink&)>& write_tensors) {
  const bool drop_head = drops_tied_head(settings.model);
  SafetensorsFolderWriter writer(folder, settings.max_shard_bytes);
  write_tensors([&](const std::string& name, const at::Tensor& tensor) {
    if (drop_head && name == "lm_head.weight") return;
    // A copy always: the caller may use its buffer again before the shard is written.
    writer.add(name, tensor.to(settings.type, /*non_blocking=*/false, /*copy=*/true).contiguous());
  });
  writer.finish();
}

// Relative paths with a trailing slash or dots, made plain: names beside the output are built from
// it.
fs::path plain_path(const fs::path& path) {
  const fs::path plain = fs::absolute(path).lexically_normal();
  return plain.has_filename() ? plain : plain.parent_path();
}

}  // namespace

void refuse_occupied_output(const std::filesystem::path& output) {
  if (!fs::exists(output)) return;
  if (!fs::is_directory(output))
    throw FormatError(output.string() + " is there already and is no folder: name a new folder to export to");
  if (!fs::is_empty(output))
    throw FormatError("The folder " + output.string() + " is not empty: name a new folder to export to");
}

void export_model(const ExportSettings& settings, const std::function<void(const TensorSink&)>& write_tensors) {
  if (settings.type != at::kBFloat16 && settings.type != at::kFloat)
    throw std::logic_error(std::string("export_model: type ") + c10::toString(settings.type));
  refuse_occupied_output(settings.output);
  const fs::path output = plain_path(settings.output);
  const TemporaryFolder folder(output);
  copy_kept_files(settings.model.path, folder.path());
  write_config(settings.model, folder.path(), settings.type);
  write_weights(settings, folder.path(), write_tensors);
  fs::rename(folder.path(), output);  // replaces an empty folder, and no other
  sync_folder(output.parent_path());
}

}  // namespace hiptrain
