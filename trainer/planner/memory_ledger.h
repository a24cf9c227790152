// Counts the bytes that a step holds, item by item, without holding any: a walk through the step's allocations finds
// the moment at which most is held, and what that is.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>

namespace hiptrain {

// The purposes of memory, in the order of tables.
enum class MemoryItem {
  kWeights,          // this rank's shards of master weights, or of the weights themselves
  kGradients,        // this rank's shards, float32
  kOptimizer,        // moments
  kLayerInputs,      // kept for the backward pass
  kHidden,           // the residual stream and its gradient
  kGatheredWeights,  // of whole units, in the type that is computed with
  kGradientBuffers,  // of whole units, float32
  kKeys,             // keys, values and their index
  kKeyGradients,     // float32
  kQueryTile,        // queries, attention outputs and their gradients
  kTokenTile,        // norm outputs and MLP activations
  kLossTile,         // logits
  kLists,            // block lists of all layers
  kSearch,           // picks, tree, inverted lists, scratch memory of kernels
  kExchange,         // copies that an exchange over ranks needs
  kStaging,          // optimizer state on its way from and to host memory
  kBatch,            // tokens, targets, positions, losses
  kProcess,          // libraries: code, CUDA's context, NCCL's channels
  kReserve           // left free
};
constexpr size_t kMemoryItems = static_cast<size_t>(MemoryItem::kReserve) + 1;
const char* name_of(MemoryItem item);

class MemoryLedger {
 public:
  using Bytes = std::array<int64_t, kMemoryItems>;  // by MemoryItem

  // rounds: sizes are those of blocks of the GPU's caching allocator.
  explicit MemoryLedger(bool rounds) : rounds_(rounds) {}
  MemoryLedger(const MemoryLedger&) = delete;
  MemoryLedger& operator=(const MemoryLedger&) = delete;

  // Bytes that are held as long as this lives, as a tensor's are.
  class Held {
   public:
    Held() = default;
    Held(Held&& other) noexcept { *this = std::move(other); }
    Held& operator=(Held&& other) noexcept {
      std::swap(ledger_, other.ledger_);
      std::swap(item_, other.item_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Held() {
      if (ledger_) ledger_->add(item_, -bytes_);
    }

   private:
    friend class MemoryLedger;
    Held(MemoryLedger& ledger, MemoryItem item, int64_t bytes) : ledger_(&ledger), item_(item), bytes_(bytes) {}

    MemoryLedger* ledger_ = nullptr;
    MemoryItem item_{};
    int64_t bytes_ = 0;
  };

  [[nodiscard]] Held hold(MemoryItem item, int64_t bytes);
  // Held until the ledger ends.
  void keep(MemoryItem item, int64_t bytes) { add(item, block_bytes(bytes)); }
  // A temporary.
  void touch(MemoryItem item, int64_t bytes) { const Held held = hold(item, bytes); }
  // Names what happens from here on; a literal.
  void enter(const char* phase) { phase_ = phase; }

  int64_t peak() const { return peak_; }
  const Bytes& at_peak() const { return at_peak_; }
  const char* peak_phase() const { return peak_phase_; }

 private:
  int64_t block_bytes(int64_t bytes) const;
  void add(MemoryItem item, int64_t bytes);

  bool rounds_;
  Bytes held_{}, at_peak_{};
  int64_t total_ = 0, peak_ = 0;
  const char *phase_ = "", *peak_phase_ = "";
};

}  // namespace hiptrain
