// What plans of the sequences of an epoch have in common: options, report and placed pieces.
#pragma once

#include <cstdint>

namespace hiptrain {

// kDocuments: isolated documents, whole wherever they fit. kStream: all documents one after the
// other, as one.
enum class Packing { kDocuments, kStream };

struct StreamOptions {
  int64_t sequence_length = 0;
  Packing packing = Packing::kDocuments;
  bool shuffle = true;
  uint64_t seed = 0;
  int64_t document_alignment = 64;  // documents start on a multiple of this (not in a stream)
  int64_t vocabulary_size = 0;      // ids at or above it are a DataError when they are read; 0: unchecked
};

// What packing did to the documents, over one epoch; every epoch is the same in this.
struct PackingReport {
  int64_t documents = 0, tokens = 0, sequences = 0;
  int64_t cut_documents = 0;  // longer than a sequence: continued in another one (each piece is its own document)
  int64_t padding_tokens = 0;
  int64_t dropped_tokens = 0;  // e.g. a document of one token, which has no target
};

// A run of one document's tokens and where it stands in its sequence.
struct PlacedPiece {
  int64_t document = 0;
  int64_t begin = 0;  // in the document
  int64_t tokens = 0;
  int64_t start = 0;  // in the sequence
};

}  // namespace hiptrain
