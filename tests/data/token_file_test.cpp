#include "data/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/data/token_fixtures.h"

namespace hiptrain {
namespace {

using ::testing::AllOf;
using testing::Documents;
using ::testing::HasSubstr;
using testing::Index;
using testing::read_bytes;
using testing::TemporaryFolder;
using testing::write_bytes;
using testing::write_pair;

std::vector<int64_t> read_document(const TokenFile& file, int64_t document) {
  std::vector<int32_t> tokens(static_cast<size_t>(file.document_tokens(document)));
  file.read(document, 0, tokens);
  return {tokens.begin(), tokens.end()};
}

Documents read_all(const TokenFile& file) {
  Documents documents;
  for (int64_t i = 0; i < file.num_documents(); ++i) documents.push_back(read_document(file, i));
  return documents;
}

// Opens the pair and returns the error message, or "" if it opens.
std::string error_of_opening(const std::filesystem::path& prefix) {
  try {
    TokenFile file(prefix);
    return "";
  } catch (const DataError& error) {
    return error.what();
  }
}

class TokenFileTest : public ::testing::Test {
 protected:
  const Documents documents_{{5, 6, 7}, {}, {255}, {1, 2, 3, 4, 5, 6, 7, 8}};
  TemporaryFolder folder_;
  std::filesystem::path prefix_ = folder_ / "text.v1";

  // Writes the pair with a damaged index and returns the error message.
  template <typename Spoil>
  std::string error_with_index(Spoil spoil) {
    Index index = write_pair<uint16_t>(prefix_, documents_, 8);
    spoil(index);
    write_bytes(prefix_.string() + ".idx", index.bytes());
    return error_of_opening(prefix_);
  }
};

TEST_F(TokenFileTest, ReadsEveryDtype) {
  write_pair<uint8_t>(prefix_, documents_, 1);
  EXPECT_EQ(read_all(TokenFile(prefix_)), documents_);
  write_pair<uint16_t>(prefix_, {{65535, 0}}, 8);
  EXPECT_EQ(read_all(TokenFile(prefix_)), (Documents{{65535, 0}}));
  write_pair<int32_t>(prefix_, {{2147483647, 0}}, 4);
  EXPECT_EQ(read_all(TokenFile(prefix_)), (Documents{{2147483647, 0}}));
  write_pair<int64_t>(prefix_, {{2147483647, 0}}, 5);
  EXPECT_EQ(read_all(TokenFile(prefix_)), (Documents{{2147483647, 0}}));
}

TEST_F(TokenFileTest, CountsAndRanges) {
  write_pair<uint16_t>(prefix_, documents_, 8);
  const TokenFile file(prefix_);
  EXPECT_EQ(file.num_documents(), 4);
  EXPECT_EQ(file.num_tokens(), 12);
  std::vector<int32_t> middle(3);
  file.read(3, 4, middle);
  EXPECT_EQ(middle, (std::vector<int32_t>{5, 6, 7}));
  EXPECT_THROW(file.read(3, 6, middle), std::logic_error);
  EXPECT_THROW(file.document_tokens(4), std::logic_error);
}

TEST_F(TokenFileTest, AcceptsEitherSuffix) {
  write_pair<uint16_t>(prefix_, documents_, 8);
  EXPECT_EQ(read_all(TokenFile(prefix_.string() + ".bin")), documents_);
  EXPECT_EQ(read_all(TokenFile(prefix_.string() + ".idx")), documents_);
}

TEST_F(TokenFileTest, DocumentsOfSeveralSequencesAndModes) {
  const std::string error = error_with_index([](Index& index) {
    index.documents = {0, 1, 4};
    index.modes = {0, 0, 1, 0};
  });
  ASSERT_EQ(error, "");
  EXPECT_EQ(read_all(TokenFile(prefix_)), (Documents{{5, 6, 7}, {255, 1, 2, 3, 4, 5, 6, 7, 8}}));
}

TEST_F(TokenFileTest, AcceptsAPairWithoutDocuments) {
  write_pair<uint16_t>(prefix_, {}, 8);
  EXPECT_EQ(TokenFile(prefix_).num_documents(), 0);
  EXPECT_EQ(TokenFile(prefix_).num_tokens(), 0);
}

TEST_F(TokenFileTest, MissingFilesAreNamed) {
  EXPECT_THAT(error_of_opening(prefix_), HasSubstr("cannot open " + prefix_.string() + ".idx"));
  write_pair<uint16_t>(prefix_, documents_, 8);
  std::filesystem::remove(prefix_.string() + ".bin");
  EXPECT_THAT(error_of_opening(prefix_), HasSubstr("cannot open " + prefix_.string() + ".bin"));
}

TEST_F(TokenFileTest, RefusesOtherFormats) {
  EXPECT_THAT(error_with_index([](Index& index) { index.magic = "PK\3\4 foreign"; }),
              AllOf(HasSubstr("text.v1.idx"), HasSubstr("not a Megatron index")));
  EXPECT_THAT(error_with_index([](Index& index) { index.version = 2; }),
              AllOf(HasSubstr("version 2"), HasSubstr("expected version 1")));
  for (const int64_t code : {0, 2, 3, 6, 7, 9, 255})
    EXPECT_THAT(error_with_index([=](Index& index) { index.dtype = code; }),
                HasSubstr("dtype code " + std::to_string(code)));
}

TEST_F(TokenFileTest, RefusesSequencesThatDoNotFitTheTokens) {
  EXPECT_THAT(error_with_index([](Index& index) { index.lengths[2] = -1; }), HasSubstr("sequence 2 a length of -1"));
  EXPECT_THAT(error_with_index([](Index& index) { index.pointers[3] = 1 << 20; }),
              HasSubstr("sequence 3 start at byte 1048576; expected 8"));
  EXPECT_THAT(error_with_index([](Index& index) { index.pointers[3] = -2; }), HasSubstr("start at byte -2"));
  EXPECT_THAT(error_with_index([](Index& index) { index.lengths[3] = 2147483647; }),
              AllOf(HasSubstr("text.v1.bin"), HasSubstr("has 24 bytes")));
  EXPECT_THAT(error_with_index([](Index& index) { index.lengths[3] = 7; }), HasSubstr("has 24 bytes; expected 22"));
  EXPECT_THAT(error_with_index([](Index& index) { index.dtype = 4; }), HasSubstr("expected 12"));
}

TEST_F(TokenFileTest, DocumentIndexMustCoverTheSequences) {
  EXPECT_THAT(error_with_index([](Index& index) {
                index.documents = {0, 3, 2, 4};
              }),
              HasSubstr("does not ascend: entry 2 is 2 after 3"));
  EXPECT_THAT(error_with_index([](Index& index) {
                index.documents = {1, 4};
              }),
              HasSubstr("first document start at sequence 1"));
  EXPECT_THAT(error_with_index([](Index& index) {
                index.documents = {0, 3};
              }),
              HasSubstr("ends at sequence 3; expected 4"));
  EXPECT_THAT(error_with_index([](Index& index) { index.documents = {}; }), HasSubstr("no document index"));
}

TEST_F(TokenFileTest, EveryTruncationIsAnError) {
  write_pair<uint16_t>(prefix_, documents_, 8);
  for (const char* suffix : {".idx", ".bin"}) {
    const std::string path = prefix_.string() + suffix;
    const std::string whole = read_bytes(path);
    for (size_t size = 0; size < whole.size(); ++size) {
      write_bytes(path, whole.substr(0, size));
      EXPECT_NE(error_of_opening(prefix_), "") << path << " cut to " << size << " bytes";
    }
    write_bytes(path, whole);
  }
  EXPECT_EQ(error_of_opening(prefix_), "");
}

TEST_F(TokenFileTest, DetectsAChangeOfAnyByteOfTheIndex) {
  write_pair<uint16_t>(prefix_, documents_, 8);
  const std::string path = prefix_.string() + ".idx";
  const std::string whole = read_bytes(path);
  const unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  // Changing a middle document's begin can give another valid index, so the middle entries are skipped.
  const size_t middle_entries = whole.size() - 8 * (documents_.size());
  for (size_t offset = 0; offset < middle_entries; ++offset) {
    std::string spoilt = whole;
    spoilt[offset] = static_cast<char>(spoilt[offset] + 1 + random() % 255);
    write_bytes(path, spoilt);
    EXPECT_NE(error_of_opening(prefix_), "") << "byte " << offset << " changed";
  }
}

TEST_F(TokenFileTest, RandomDamageNeverCrashes) {
  write_pair<uint16_t>(prefix_, documents_, 8);
  const std::string path = prefix_.string() + ".idx";
  const std::string whole = read_bytes(path);
  const unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  for (int trial = 0; trial < 3000; ++trial) {
    std::string spoilt = whole.substr(0, random() % (whole.size() + 1));
    spoilt.resize(spoilt.size() + random() % 20, static_cast<char>(random()));
    for (int change = 0; change < 3 && !spoilt.empty(); ++change)
      spoilt[random() % spoilt.size()] = static_cast<char>(random());
    write_bytes(path, spoilt);
    if (error_of_opening(prefix_).empty()) read_all(TokenFile(prefix_));
  }
}

TEST_F(TokenFileTest, ReadingAnInvalidIdIsAnError) {
  write_pair<int32_t>(prefix_, {{1, 2}, {3, -4, 5}}, 4);
  const TokenFile negative(prefix_);
  EXPECT_EQ(read_document(negative, 0), (std::vector<int64_t>{1, 2}));
  EXPECT_THROW(read_document(negative, 1), DataError);
  write_pair<int64_t>(prefix_, {{1, int64_t{1} << 32}}, 5);
  EXPECT_THROW(read_document(TokenFile(prefix_), 0), DataError);
}

}  // namespace
}  // namespace hiptrain
