// Whether a file was written by this program or by another version of it.
#pragma once

#include <string>

#include "trainer/provenance/provenance.h"

namespace hiptrain {

// "hiptrain 0.0.9 (commit 0123456789ab); this is 0.1.0 (commit e1b9216fa37b)"; empty if this program wrote the file.
std::string other_program_text(const Provenance& written);

}  // namespace hiptrain
