#include "trainer/provenance/other_program.h"

#include "trainer/provenance/build_version.h"

namespace hiptrain {

std::string other_program_text(const Provenance& written) {
  if (written.version == build_version() && written.commit == build_commit()) return "";
  return "hiptrain " + version_text(written.version, written.commit) + "; this is " +
         version_text(build_version(), build_commit());
}

}  // namespace hiptrain
