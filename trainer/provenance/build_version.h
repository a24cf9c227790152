// Which program this is. The source is written at build time (write_build_version.cmake).
#pragma once

namespace hiptrain {

// "0.1.0", the version in CMakeLists.txt
const char* build_version();

// "e1b9216fa37b"; "e1b9216fa37b+changes" if tracked files differed from that commit; "unknown" outside a repository.
const char* build_commit();

}  // namespace hiptrain
