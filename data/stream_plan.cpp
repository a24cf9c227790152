#include "data/stream_plan.h"

#include <algorithm>

#include "data/shuffle.h"

namespace hiptrain {
namespace {

// What a permutation is used for. It is part of the key, so that the permutations of one epoch are independent.
enum class Purpose : uint64_t { kDocuments = 1, kSequences = 2 };

Permutation permutation_for(const StreamOptions& options, int64_t epoch, Purpose purpose, int64_t size) {
  return Permutation(size, mix_key({options.seed, static_cast<uint64_t>(epoch), static_cast<uint64_t>(purpose)}));
}

bool has_target(const TokenFiles& files) {
  for (int64_t document = 0; document < files.num_documents(); ++document)
    if (files.document_tokens(document) > 1) return true;
  return false;
}

}  // namespace

StreamPlan::StreamPlan(const TokenFiles& files, const StreamOptions& options)
    : files_(files), options_(options), num_tokens_(files.num_tokens()) {
  report_.documents = files.num_documents();
  report_.tokens = num_tokens_;
  if (!has_target(files)) num_tokens_ = 0;
  // The last token of the stream has no target, so a sequence with only this token is dropped.
  if (num_tokens_ % options_.sequence_length == 1 && options_.sequence_length > 1) --num_tokens_;
  report_.dropped_tokens = report_.tokens - num_tokens_;
  report_.sequences = (num_tokens_ + options_.sequence_length - 1) / options_.sequence_length;
  report_.padding_tokens = report_.sequences * options_.sequence_length - num_tokens_;
}

int64_t StreamPlan::document_at(int64_t epoch, int64_t place) const {
  if (!options_.shuffle) return place;
  return permutation_for(options_, epoch, Purpose::kDocuments, report_.documents)(place);
}

std::shared_ptr<const StreamPlan::Order> StreamPlan::order_of(int64_t epoch) const {
  if (!options_.shuffle) epoch = 0;  // all epochs are equal
  const std::lock_guard lock(mutex_);
  for (const auto& order : orders_)
    if (order->epoch == epoch) return order;
  auto order = std::make_shared<Order>(Order{epoch, {0}});
  order->begins.reserve(static_cast<size_t>(report_.documents) + 1);
  for (int64_t place = 0; place < report_.documents; ++place)
    order->begins.push_back(order->begins.back() + files_.document_tokens(document_at(epoch, place)));
  if (orders_.size() == 2) orders_.erase(orders_.begin());
  orders_.push_back(order);
  return order;
}

std::vector<PlacedPiece> StreamPlan::sequence(int64_t epoch, int64_t index) const {
  const std::shared_ptr<const Order> order = order_of(epoch);
  if (options_.shuffle) index = permutation_for(options_, epoch, Purpose::kSequences, report_.sequences)(index);
  const int64_t sequence_begin = index * options_.sequence_length;
  const int64_t sequence_end = std::min(sequence_begin + options_.sequence_length, num_tokens_);

  const std::vector<int64_t>& begins = order->begins;
  int64_t place = std::upper_bound(begins.begin(), begins.end(), sequence_begin) - begins.begin() - 1;
  std::vector<PlacedPiece> pieces;
  for (int64_t token = sequence_begin; token < sequence_end; ++place) {
    const int64_t end = std::min(begins[place + 1], sequence_end);
    if (end == token) continue;  // an empty document
    pieces.push_back({document_at(epoch, place), token - begins[place], end - token, token - sequence_begin});
    token = end;
  }
  return pieces;
}

}  // namespace hiptrain
