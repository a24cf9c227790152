// The one door from tensors to kernels: shapes, types and devices are checked here, kernels see plain Params. Its
// functions are in trainer/ops/pointwise_ops.h, trainer/ops/selection_ops.h and trainer/ops/attention_ops.h; this is
// what they share: checks of tensors, and the choice of the device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAStream.h>

#include <sstream>
#include <stdexcept>
#include <type_traits>

#include "kernels/element.h"

namespace hiptrain {

inline void require(bool condition, const char* expression, const at::Tensor& tensor) {
  if (condition) return;
  std::ostringstream message;
  message << "ops: " << expression << " does not hold for a tensor of " << tensor.scalar_type() << " " << tensor.sizes()
          << " on " << tensor.device();
  throw std::logic_error(message.str());
}
#define REQUIRE_OF(tensor, condition) ::hiptrain::require((condition), #condition, (tensor))

inline kernels::ElementType element_of(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kFloat8_e4m3fn) return kernels::ElementType::kFloat8E4m3;
  REQUIRE_OF(tensor, tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16);
  return tensor.scalar_type() == at::kFloat ? kernels::ElementType::kFloat32 : kernels::ElementType::kBfloat16;
}

// The data of a contiguous tensor of this type, on the same device as `beside`.
template <typename T>
const T* data_of(const at::Tensor& tensor, const at::Tensor& beside) {
  REQUIRE_OF(tensor, tensor.is_contiguous() && tensor.device() == beside.device());
  return tensor.const_data_ptr<T>();
}
template <typename T>
T* mutable_data_of(const at::Tensor& tensor, const at::Tensor& beside) {
  REQUIRE_OF(tensor, tensor.is_contiguous() && tensor.device() == beside.device());
  return tensor.mutable_data_ptr<T>();
}

// The data of a contiguous tensor of the same type and on the same device as `like`.
inline const void* values_of(const at::Tensor& tensor, const at::Tensor& like) {
  REQUIRE_OF(tensor, tensor.is_contiguous());
  REQUIRE_OF(tensor, tensor.device() == like.device() && tensor.scalar_type() == like.scalar_type());
  return tensor.const_data_ptr();
}
// The data of (heads, tokens, dim) values of any type, on the same device as `beside`, each head contiguous.
inline const void* head_rows_beside(const at::Tensor& tensor, const at::Tensor& beside) {
  REQUIRE_OF(tensor, tensor.dim() == 3 && tensor.stride(2) == 1 && tensor.stride(1) == tensor.size(2));
  REQUIRE_OF(tensor, tensor.device() == beside.device());
  return tensor.const_data_ptr();
}
// The same of values of the same type as `like`.
inline const void* head_rows_of(const at::Tensor& tensor, const at::Tensor& like) {
  REQUIRE_OF(tensor, tensor.scalar_type() == like.scalar_type());
  return head_rows_beside(tensor, like);
}
inline void* mutable_values_of(const at::Tensor& tensor, const at::Tensor& like) {
  return const_cast<void*>(values_of(tensor, like));
}

inline at::Tensor empty_beside(const at::Tensor& tensor, at::IntArrayRef shape, at::ScalarType type) {
  return at::empty(shape, tensor.options().dtype(type));
}

template <typename Params>
using CpuKernel = void (*)(const std::type_identity_t<Params>&);
template <typename Params>
using GpuKernel = void (*)(const std::type_identity_t<Params>&, kernels::Stream);

// Calls the kernel's form for the device where `tensor` lies.
template <typename Params>
void run(const at::Tensor& tensor, const Params& params, CpuKernel<Params> on_cpu, GpuKernel<Params> on_gpu) {
  if (tensor.is_cuda())
    on_gpu(params, c10::cuda::getCurrentCUDAStream(tensor.get_device()).stream());
  else
    on_cpu(params);
}

// The same for a kernel that needs scratch memory on the GPU. The memory is freed at once, because only later work of
// the same stream can reuse it.
template <typename Params>
void run(const at::Tensor& tensor, Params params, CpuKernel<Params> on_cpu, GpuKernel<Params> on_gpu,
         int64_t (*workspace_bytes)(const std::type_identity_t<Params>&)) {
  at::Tensor workspace;
  if (tensor.is_cuda()) {
    workspace = empty_beside(tensor, {workspace_bytes(params)}, at::kByte);
    params.workspace = workspace.mutable_data_ptr();
  }
  run(tensor, params, on_cpu, on_gpu);
}

}  // namespace hiptrain
