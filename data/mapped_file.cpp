#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "data/token_file.h"

namespace hiptrain {
namespace {

// Closes the file descriptor on every path. The mapping stays valid without it.
struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

DataError system_error(const std::filesystem::path& path, const char* action) {
  return DataError("cannot " + std::string(action) + " " + path.string() + ": " + std::strerror(errno) + ".");
}

}  // namespace

MappedFile::MappedFile(std::filesystem::path path) : path_(std::move(path)) {
  const Descriptor file{::open(path_.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.value < 0) throw system_error(path_, "open");
  struct stat status {};
  if (::fstat(file.value, &status) != 0) throw system_error(path_, "examine");
  if (!S_ISREG(status.st_mode))
    throw DataError(path_.string() + " is not a regular file; token files are mapped into memory.");
  size_ = status.st_size;
  if (size_ == 0) return;  // an empty range cannot be mapped
  void* address = ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_SHARED, file.value, 0);
  if (address == MAP_FAILED) throw system_error(path_, "map");
  bytes_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (bytes_ != nullptr) ::munmap(const_cast<std::byte*>(bytes_), static_cast<size_t>(size_));
}

}  // namespace hiptrain
