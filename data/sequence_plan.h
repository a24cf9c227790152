// What the two kinds of sequence plans share: options, report and placed pieces.
#pragma once

#include <cstdint>

namespace hiptrain {

// kDocuments: isolated documents, kept whole where they fit. kStream: all documents concatenated into one stream.
enum class Packing { kDocuments, kStream };

struct StreamOptions {
  int64_t sequence_length = 0;
  Packing packing = Packing::kDocuments;
  bool shuffle = true;
  uint64_t seed = 0;
  int64_t document_alignment = 64;  // documents start at a multiple of this (not in a stream)
  int64_t vocabulary_size = 0;      // reading an id at or above it is a DataError; 0 disables the check
};

// The effect of packing on the documents in one epoch. It is the same for all epochs.
struct PackingReport {
  int64_t documents = 0, tokens = 0, sequences = 0;
  int64_t cut_documents = 0;  // documents longer than a sequence; each of their pieces is its own document
  int64_t padding_tokens = 0;
  int64_t dropped_tokens = 0;  // for example a document of one token, which has no target
};

// A range of one document's tokens and its position in a sequence.
struct PlacedPiece {
  int64_t document = 0;
  int64_t begin = 0;  // in the document
  int64_t tokens = 0;
  int64_t start = 0;  // in the sequence
};

}  // namespace hiptrain
