#include "trainer/sharding/unit_buffers.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace hiptrain {
namespace {

enum Kind : int { kTable, kLayer, kNorm };

}  // namespace

UnitBuffers::UnitBuffers(const ShardedParameters& parameters, at::ScalarType whole_type, at::ScalarType part_type)
    : num_units_(static_cast<int>(parameters.shards().size())),
      tied_head_(parameters.layout().units().back().parameters.size() == 1) {
  int64_t largest[3] = {};  // shard of each kind
  for (int unit = 0; unit < num_units_; ++unit)
    largest[kind_of(unit)] = std::max(largest[kind_of(unit)], parameters.shard_size(unit));
  const at::TensorOptions options(parameters.device());
  for (const int kind : {kTable, kLayer, kLayer, kNorm}) {
    if (largest[kind] == 0) continue;
    Buffer buffer;
    buffer.whole = at::empty({largest[kind] * parameters.world().size()}, options.dtype(whole_type));
    if (parameters.world().size() > 1) buffer.part = at::empty({largest[kind]}, options.dtype(part_type));
    kinds_.push_back(kind);
    buffers_.push_back(std::move(buffer));
  }
}

int UnitBuffers::kind_of(int unit) const {
  if (unit == 0) return kTable;
  if (unit < num_units_ - 1) return kLayer;
  return tied_head_ ? kNorm : kTable;
}

UnitBuffers::Buffer* UnitBuffers::find(int unit) {
  for (Buffer& buffer : buffers_)
    if (buffer.unit == unit) return &buffer;
  return nullptr;
}

UnitBuffers::Buffer& UnitBuffers::take(int unit) {
  Buffer* oldest = nullptr;
  for (size_t i = 0; i < buffers_.size(); ++i)
    if (kinds_[i] == kind_of(unit) && (!oldest || buffers_[i].last_use < oldest->last_use)) oldest = &buffers_[i];
  oldest->unit = unit;
  return *oldest;
}

void UnitBuffers::forget() {
  for (Buffer& buffer : buffers_) buffer.unit = -1;
}

int64_t UnitBuffers::bytes() const {
  int64_t total = 0;
  for (const Buffer& buffer : buffers_)
    total += static_cast<int64_t>(buffer.whole.nbytes() + (buffer.part.defined() ? buffer.part.nbytes() : 0));
  return total;
}

}  // namespace hiptrain
