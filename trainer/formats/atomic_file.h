// Files that are whole or not there: written under a temporary name, synced to disk, renamed.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>

namespace hiptrain {

// Destroyed without commit(), it leaves nothing behind and any earlier file of that name as it was.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* bytes, size_t num_bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();

 private:
  std::filesystem::path path_, temporary_path_;
  int descriptor_;
};

// Makes the names in a folder (new files, renames) survive a power cut.
void sync_folder(const std::filesystem::path& folder);

}  // namespace hiptrain
