// The threads of the CPU kernels.
#pragma once

#include <cstdint>
#include <functional>

namespace hiptrain::kernels {

// The number of threads that the CPU kernels of this process use. It is the number of hardware threads unless set.
void set_reference_threads(int num_threads);
int reference_threads();

// Calls body(i) once for every i in [0, count) on reference_threads() threads. A thread that has finished takes the
// next i. Returns when all are done. The first exception of a body is rethrown here.
void parallel_for(int64_t count, const std::function<void(int64_t)>& body);

}  // namespace hiptrain::kernels
