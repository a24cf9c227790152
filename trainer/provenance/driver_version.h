// The version of the NVIDIA driver of this host.
#pragma once

#include <string>

namespace hiptrain {

// "580.95.05"; empty if there is no driver. NVML, the driver's library, is asked, because CUDA knows only the newest
// CUDA version that the driver supports.
std::string driver_version();

}  // namespace hiptrain
