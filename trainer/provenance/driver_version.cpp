#include "trainer/provenance/driver_version.h"

#include <dlfcn.h>

#include <memory>

namespace hiptrain {
namespace {

// The functions of NVML, whose header is not part of every CUDA toolkit. Zero means success.
using PlainFunction = int();
using VersionFunction = int(char* version, unsigned int length);
constexpr unsigned int kVersionBytes = 80;  // the buffer that NVML asks for

template <typename Function>
Function* function_of(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

std::string version_from(void* library) {
  auto* const start = function_of<PlainFunction>(library, "nvmlInit_v2");
  auto* const ask = function_of<VersionFunction>(library, "nvmlSystemGetDriverVersion");
  auto* const stop = function_of<PlainFunction>(library, "nvmlShutdown");
  if (!start || !ask || !stop || start() != 0) return "";
  char version[kVersionBytes] = "";
  const bool answered = ask(version, kVersionBytes) == 0;
  stop();
  return answered ? version : "";
}

}  // namespace

std::string driver_version() {
  const auto close = [](void* library) { dlclose(library); };
  // Hosts without a driver do not have the library, so the program cannot be linked to it.
  const std::unique_ptr<void, decltype(close)> library(dlopen("libnvidia-ml.so.1", RTLD_NOW), close);
  return library ? version_from(library.get()) : "";
}

}  // namespace hiptrain
