// Stands in for NVML, the library of NVIDIA's driver, on machines without a driver. It answers only between start and
// shutdown, as NVML does.
#include <cstring>

namespace {
bool started = false;
}

extern "C" {

int nvmlInit_v2() {
  started = true;
  return 0;
}

int nvmlShutdown() {
  started = false;
  return 0;
}

int nvmlSystemGetDriverVersion(char* version, unsigned int length) {
  constexpr const char kVersion[] = "580.12.34";
  if (!started || length < sizeof(kVersion)) return 1;
  std::memcpy(version, kVersion, sizeof(kVersion));
  return 0;
}

}  // extern "C"
