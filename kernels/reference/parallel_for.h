// Threads of the CPU reference kernels.
#pragma once

#include <cstdint>
#include <functional>

namespace hiptrain::kernels {

// Threads that the reference kernels of this process use; the hardware's number unless set.
void set_reference_threads(int num_threads);
int reference_threads();

// Calls body(i) once for every i in [0, count), on reference_threads() threads that take the next i when they are done
// with one. Returns when all are done; the first exception of a body is thrown again here.
void parallel_for(int64_t count, const std::function<void(int64_t)>& body);

}  // namespace hiptrain::kernels
