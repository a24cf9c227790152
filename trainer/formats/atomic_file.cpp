#include "trainer/formats/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

namespace hiptrain {
namespace {

[[noreturn]] void throw_errno(const char* what, const std::filesystem::path& path) {
  throw std::system_error(errno, std::generic_category(), std::string(what) + " " + path.string() + " failed");
}

// A name of this process's own in the same folder, so that the rename stays on one file system.
std::filesystem::path temporary_name(const std::filesystem::path& path) {
  return path.string() + ".tmp" + std::to_string(::getpid());
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)), temporary_path_(temporary_name(path_)) {
  descriptor_ = ::open(temporary_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) throw_errno("creating", temporary_path_);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_path_.c_str());
}

void AtomicFile::write(const void* bytes, size_t num_bytes) {
  constexpr size_t kLargestWrite = size_t{1} << 30;  // Linux writes at most 2 GiB at a time
  const char* next = static_cast<const char*>(bytes);
  while (num_bytes > 0) {
    const ssize_t written = ::write(descriptor_, next, std::min(num_bytes, kLargestWrite));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_errno("writing", temporary_path_);
    next += written;
    num_bytes -= static_cast<size_t>(written);
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) throw_errno("syncing", temporary_path_);
  if (::rename(temporary_path_.c_str(), path_.c_str()) != 0) throw_errno("renaming", temporary_path_);
  const int descriptor = std::exchange(descriptor_, -1);
  if (::close(descriptor) != 0) throw_errno("closing", path_);
  sync_folder(path_.has_parent_path() ? path_.parent_path() : ".");
}

void sync_folder(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw_errno("opening", folder);
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  errno = error;
  if (result != 0 && error != EINVAL) throw_errno("syncing", folder);  // EINVAL: a file system that cannot
}

}  // namespace hiptrain
