#include "trainer/formats/safetensors_reader.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "trainer/formats/format_error.h"
#include "trainer/formats/json_file.h"
#include "trainer/formats/safetensors_types.h"

namespace hiptrain {
namespace {

using Json = nlohmann::json;
constexpr int64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

// A non-negative JSON integer. nlohmann turns -1 into 2^64 - 1 and 2^64 into a float if asked
// plainly.
int64_t read_count(const Json& value, const std::string& what) {
  constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kMax)
    throw FormatError(what + " is " + value.dump() + ", expected a non-negative integer");
  return value.get<int64_t>();
}

const Json& member(const Json& object, const char* key, const std::string& what) {
  const auto found = object.find(key);
  if (found == object.end()) throw FormatError(what + " has no '" + key + "'");
  return *found;
}

at::ScalarType read_type(const Json& tensor, const std::string& what) {
  const Json& name = member(tensor, "dtype", what);
  if (!name.is_string()) throw FormatError(what + " has the dtype " + name.dump() + ", expected a string");
  const auto type = scalar_type_of_safetensors(name.get_ref<const std::string&>());
  if (!type)
    throw FormatError(what + " has the dtype " + name.dump() +
                      ", which is none of those read here: " + safetensors_type_names());
  return *type;
}

int64_t checked_num_bytes(const TensorInfo& info, const std::string& what) {
  auto bytes = static_cast<int64_t>(c10::elementSize(info.type));
  for (const int64_t size : info.shape)
    if (__builtin_mul_overflow(bytes, size, &bytes)) throw FormatError(what + " has a shape too large to exist");
  return bytes;
}

TensorInfo read_tensor_info(const Json& tensor, const std::string& what) {
  if (!tensor.is_object()) throw FormatError(what + " is described by " + tensor.dump() + ", expected an object");
  TensorInfo info{.type = read_type(tensor, what), .shape = {}, .begin = 0, .end = 0};
  const Json& shape = member(tensor, "shape", what);
  const Json& offsets = member(tensor, "data_offsets", what);
  if (!shape.is_array()) throw FormatError(what + " has the shape " + shape.dump() + ", expected an array");
  for (const Json& size : shape) info.shape.push_back(read_count(size, what + ": a size in its shape"));
  if (!offsets.is_array() || offsets.size() != 2)
    throw FormatError(what + " has data_offsets " + offsets.dump() + ", expected [begin, end]");
  info.begin = read_count(offsets[0], what + ": the begin of data_offsets");
  info.end = read_count(offsets[1], what + ": the end of data_offsets");
  const int64_t num_bytes = checked_num_bytes(info, what);
  if (info.end < info.begin || info.end - info.begin != num_bytes)
    throw FormatError(what + " has data_offsets " + offsets.dump() + ", but its shape and dtype need " +
                      std::to_string(num_bytes) + " bytes");
  return info;
}

std::map<std::string, std::string> read_metadata(const Json& object, const std::string& what) {
  if (!object.is_object()) throw FormatError(what + " is " + object.dump() + ", expected an object of strings");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : object.items()) {
    if (!value.is_string())
      throw FormatError(what + " has the value " + value.dump() + " for '" + key + "', expected a string");
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

// The tensors, in order of their offsets, must cover the data exactly.
void check_layout(const std::map<std::string, TensorInfo>& tensors, int64_t data_bytes, const std::string& file) {
  std::vector<std::pair<const TensorInfo*, const std::string*>> in_order;
  for (const auto& [name, info] : tensors) in_order.emplace_back(&info, &name);
  std::sort(in_order.begin(), in_order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first->begin, a.first->end) < std::pair(b.first->begin, b.first->end);
  });
  int64_t expected_begin = 0;
  for (const auto& [info, name] : in_order) {
    if (info->begin != expected_begin)
      throw FormatError(file + ": tensor '" + *name + "' begins at byte " + std::to_string(info->begin) +
                        (info->begin < expected_begin ? ", inside the tensor before it, which ends at "
                                                      : ", after a hole that begins at ") +
                        std::to_string(expected_begin));
    expected_begin = info->end;
  }
  if (expected_begin != data_bytes)
    throw FormatError(file + ": its tensors need " + std::to_string(expected_begin) + " bytes after the header, but " +
                      std::to_string(data_bytes) + " are there: the file is truncated or has something appended");
}

// A whole file in memory, read only.
class MappedBytes {
 public:
  explicit MappedBytes(const std::filesystem::path& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw FormatError(path.string() + " cannot be opened: " + std::strerror(errno));
    struct stat status {};
    const bool regular = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    size_ = regular ? status.st_size : 0;
    void* mapped = MAP_FAILED;
    if (size_ > 0) mapped = ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int error = errno;
    ::close(descriptor);
    if (size_ == 0) throw FormatError(path.string() + (regular ? " is empty" : " is not a file"));
    if (mapped == MAP_FAILED) throw FormatError(path.string() + " cannot be mapped: " + std::strerror(error));
    bytes_ = static_cast<const char*>(mapped);
  }
  ~MappedBytes() { ::munmap(const_cast<char*>(bytes_), static_cast<size_t>(size_)); }
  MappedBytes(const MappedBytes&) = delete;
  MappedBytes& operator=(const MappedBytes&) = delete;

  const char* data() const { return bytes_; }
  int64_t size() const { return size_; }

 private:
  const char* bytes_ = nullptr;
  int64_t size_ = 0;
};

// The header's text. Its length is checked against the limit and the file before anything is read
// by it.
std::string_view header_text(const MappedBytes& bytes, const std::string& file) {
  if (bytes.size() < kLengthBytes)
    throw FormatError(file + " has " + std::to_string(bytes.size()) + " bytes, a safetensors file has at least 8");
  uint64_t length = 0;
  for (int64_t i = kLengthBytes - 1; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(bytes.data()[i]);
  if (length > kMaxHeaderBytes)
    throw FormatError(file + " says that its header has " + std::to_string(length) + " bytes; the format allows " +
                      std::to_string(kMaxHeaderBytes) + ": not a safetensors file, or a damaged one");
  if (static_cast<int64_t>(length) > bytes.size() - kLengthBytes)
    throw FormatError(file + " has " + std::to_string(bytes.size()) + " bytes, but its header alone would need " +
                      std::to_string(length) + " after the first 8: the file is truncated");
  const std::string_view text(bytes.data() + kLengthBytes, length);
  if (text.empty() || text.front() != '{') throw FormatError(file + " has a header that does not begin with '{'");
  return text;
}

}  // namespace

struct SafetensorsFile::Mapping {
  explicit Mapping(const std::filesystem::path& file) : path(file), bytes(file) {
    const std::string name = path.string();
    const std::string_view text = header_text(bytes, name);
    data = text.data() + text.size();
    const Json header = parse_json(text, "the header of " + name);
    for (const auto& [key, value] : header.items()) {
      if (key == "__metadata__")
        metadata = read_metadata(value, name + ": __metadata__");
      else
        tensors.emplace(key, read_tensor_info(value, name + ": tensor '" + key + "'"));
    }
    check_layout(tensors, bytes.data() + bytes.size() - data, name);
  }

  std::filesystem::path path;
  MappedBytes bytes;
  const char* data;  // the first byte after the header
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : mapping_(std::make_shared<Mapping>(path)) {}

const std::filesystem::path& SafetensorsFile::path() const { return mapping_->path; }
const std::map<std::string, TensorInfo>& SafetensorsFile::tensors() const { return mapping_->tensors; }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const { return mapping_->metadata; }

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const auto found = mapping_->tensors.find(name);
  if (found == mapping_->tensors.end()) throw FormatError(path().string() + " has no tensor '" + name + "'");
  const TensorInfo& info = found->second;
  const auto options = at::TensorOptions().dtype(info.type);
  char* bytes = const_cast<char*>(mapping_->data + info.begin);
  if (reinterpret_cast<uintptr_t>(bytes) % c10::elementSize(info.type) != 0) {
    at::Tensor copy = at::empty(info.shape, options);
    std::memcpy(copy.mutable_data_ptr(), bytes, static_cast<size_t>(info.end - info.begin));
    return copy;
  }
  return at::from_blob(
      bytes, info.shape, [mapping = mapping_](void*) {}, options);
}

}  // namespace hiptrain
