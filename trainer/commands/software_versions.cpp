#include "trainer/commands/software_versions.h"

#include <ATen/Version.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <link.h>
#include <mpi.h>
#include <nccl.h>
#include <torch/version.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>

#include "distributed/cuda_check.h"
#include "distributed/mpi_check.h"
#include "trainer/provenance/build_version.h"
#include "trainer/provenance/provenance.h"

namespace hiptrain {
namespace {

#ifdef __clang__
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "g++ " __VERSION__;
#endif

std::string dotted(int64_t major, int64_t minor) { return std::to_string(major) + "." + std::to_string(minor); }
std::string dotted(int64_t major, int64_t minor, int64_t patch) {
  return dotted(major, minor) + "." + std::to_string(patch);
}

// CUDA counts 13000 for 13.0, NCCL 22809 for 2.28.9, cuDNN 91701 for 9.17.1.
std::string cuda_version(int code) { return dotted(code / 1000, code % 1000 / 10); }
std::string nccl_version(int code) { return dotted(code / 10000, code / 100 % 100, code % 100); }
std::string cudnn_version(size_t code) {
  const auto number = static_cast<int64_t>(code);
  return dotted(number / 10000, number / 100 % 100, number % 100);
}

std::string running_cuda() {
  int runtime = 0, driver = 0;
  HIPTRAIN_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  HIPTRAIN_CUDA_CHECK(cudaDriverGetVersion(&driver));
  return cuda_version(runtime) + (driver == 0 ? ", no driver" : ", driver for up to " + cuda_version(driver));
}

std::string running_nccl() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) throw std::runtime_error("ncclGetVersion failed");
  return nccl_version(version);
}

std::string compiled_mpi() {
#ifdef OMPI_MAJOR_VERSION
  return "Open MPI " + dotted(OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION, OMPI_RELEASE_VERSION);
#else
  return "MPI " + dotted(MPI_VERSION, MPI_SUBVERSION);
#endif
}

std::string running_mpi() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  HIPTRAIN_MPI_CHECK(MPI_Get_library_version(text, &length));
  std::string line(text, static_cast<size_t>(length));
  line = line.substr(0, line.find('\n'));
  return line.substr(0, line.find(','));
}

// LibTorch has no function for its version; its list of build settings names it.
std::string running_torch() {
  const std::string settings = at::show_config(), key = "TORCH_VERSION=";
  const size_t begin = settings.find(key);
  if (begin == std::string::npos) return "unknown";
  const size_t value = begin + key.size();
  return settings.substr(value, settings.find_first_of(",; \n", value) - value);
}

// The path of the first library in this process whose file name begins with one of these names; empty if there is none.
std::string loaded_path(const std::vector<std::string>& names) {
  struct Search {
    const std::vector<std::string>& names;
    std::string path;
  } search{names, ""};
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void* data) {
        auto& wanted = *static_cast<Search*>(data);
        const std::string file = std::filesystem::path(library->dlpi_name).filename();
        const auto begins = [&](const std::string& name) { return file.starts_with(name); };
        if (!std::any_of(wanted.names.begin(), wanted.names.end(), begins)) return 0;
        wanted.path = library->dlpi_name;
        return 1;  // ends the search
      },
      &search);
  return search.path;
}

}  // namespace

std::vector<SoftwareVersion> software_versions() {
  return {
      {"CUDA", cuda_version(CUDART_VERSION), running_cuda(), loaded_path({"libcudart.so"}), false},
      {"NCCL", nccl_version(NCCL_VERSION_CODE), running_nccl(), loaded_path({"libnccl.so"}), true},
      {"cuDNN", cudnn_version(CUDNN_VERSION), cudnn_version(cudnnGetVersion()), loaded_path({"libcudnn.so"}), true},
      {"MPI", compiled_mpi(), running_mpi(), loaded_path({"libmpi.so", "libmpich.so"}), false},
      {"LibTorch", dotted(TORCH_VERSION_MAJOR, TORCH_VERSION_MINOR, TORCH_VERSION_PATCH), running_torch(),
       loaded_path({"libtorch_cpu.so"}), true},
  };
}

bool same_minor_version(const std::string& left, const std::string& right) {
  const auto minor = [](const std::string& version) {
    const size_t first_dot = version.find('.');
    return version.substr(0, version.find('.', std::min(first_dot, version.size() - 1) + 1));
  };
  return minor(left) == minor(right);
}

std::string program_version_text() {
  std::string text = "hiptrain " + version_text(build_version(), build_commit()) + "\nbuilt with " + kCompiler;
  for (const SoftwareVersion& version : software_versions())
    text += ", " + (version.name == "MPI" ? "" : version.name + " ") + version.compiled;
  return text;
}

std::string mismatch_text(const SoftwareVersion& version) {
  if (!version.must_match || same_minor_version(version.compiled, version.running)) return "";
  return version.name + ": compiled with " + version.compiled + ", but " + version.running +
         " was loaded; look for another copy in LD_LIBRARY_PATH, or build again";
}

}  // namespace hiptrain
