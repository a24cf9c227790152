// Threads of one rank.
#pragma once

namespace hiptrain {

// Gives this rank its share of the cores it may run on (ranks that are bound to cores of their own keep those): for
// ATen and for the reference kernels.
void share_threads(int local_ranks);

}  // namespace hiptrain
