#include "trainer/formats/format_error.h"
#include "trainer/formats/safetensors_folder.h"
#include "trainer/formats/safetensors_reader.h"
#include "trainer/formats/safetensors_writer.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/support/temporary_folder.h"
#include "trainer/formats/safetensors_types.h"

namespace hiptrain {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string length_bytes(uint64_t length) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i) & 0xff);
  return bytes;
}

std::string file_bytes(const std::string& header, size_t data_bytes) {
  return length_bytes(header.size()) + header + std::string(data_bytes, '\x01');
}

class Safetensors : public ::testing::Test {
 protected:
  // The message with which a file of these bytes is refused; "" if it is read.
  std::string refusal(const std::string& bytes) {
    write_file(path_, bytes);
    return message_of<FormatError>([&] { SafetensorsFile file(path_); });
  }
  std::string refusal(const std::string& header, size_t data_bytes) { return refusal(file_bytes(header, data_bytes)); }

  const TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_.path() / "file.safetensors";
};

at::Tensor values_of(at::ScalarType type, at::IntArrayRef shape) {
  return at::arange(at::empty(shape).numel(), at::kFloat).reshape(shape).to(type);
}

TEST_F(Safetensors, EveryTypeComesBackAsWritten) {
  const at::ScalarType types[] = {at::kDouble, at::kFloat,        at::kHalf,          at::kBFloat16,
                                  at::kLong,   at::kInt,          at::kShort,         at::kChar,
                                  at::kByte,   at::kBool,         at::kUInt16,        at::kUInt32,
                                  at::kUInt64, at::kComplexFloat, at::kFloat8_e4m3fn, at::kFloat8_e5m2};
  std::map<std::string, at::Tensor> tensors;
  for (const at::ScalarType type : types) tensors[c10::toString(type)] = values_of(type, {3, 5});
  write_safetensors(path_, tensors, {{"step", "7"}});
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.tensors().size(), std::size(types));
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor read = file.tensor(name);
    EXPECT_EQ(read.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(read.sizes(), tensor.sizes()) << name;
    EXPECT_EQ(std::memcmp(read.const_data_ptr(), tensor.const_data_ptr(), tensor.nbytes()), 0) << name;
  }
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"step", "7"}}));
}

TEST_F(Safetensors, ScalarsEmptyTensorsAndStridesComeBack) {
  const at::Tensor matrix = at::arange(12, at::kFloat).reshape({3, 4});
  write_safetensors(path_, {{"scalar", at::scalar_tensor(2.5, at::kDouble)},
                            {"empty", at::empty({0, 7}, at::kHalf)},
                            {"transposed", matrix.t()},
                            {"part", matrix.narrow(1, 1, 2)}});
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.tensor("scalar").dim(), 0);
  EXPECT_EQ(file.tensor("scalar").item<double>(), 2.5);
  EXPECT_EQ(file.tensor("empty").sizes(), at::IntArrayRef({0, 7}));
  EXPECT_TRUE(at::equal(file.tensor("transposed"), matrix.t()));
  EXPECT_TRUE(at::equal(file.tensor("part"), matrix.narrow(1, 1, 2)));
}

TEST_F(Safetensors, HeaderIsPaddedAndDataAligned) {
  write_safetensors(path_, {{"bytes", values_of(at::kByte, {3})}, {"longs", values_of(at::kLong, {2})}});
  const std::string bytes = read_file(path_);
  EXPECT_EQ(static_cast<unsigned char>(bytes[0]) % 8, 0);
  EXPECT_EQ(bytes[8], '{');
  EXPECT_EQ(SafetensorsFile(path_).tensors().at("longs").begin, 0);
}

TEST_F(Safetensors, TensorsOutliveTheirFile) {
  write_safetensors(path_, {{"x", values_of(at::kFloat, {1000})}});
  at::Tensor tensor = SafetensorsFile(path_).tensor("x");
  std::filesystem::remove(path_);
  EXPECT_EQ(tensor.sum().item<float>(), 499500);
}

TEST_F(Safetensors, UnalignedDataIsReadAsWell) {
  std::string header = R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  while (header.size() % 4 != 1) header += ' ';
  write_file(path_, length_bytes(header.size()) + header + std::string("\x00\x00\x20\x41", 4));
  EXPECT_EQ(SafetensorsFile(path_).tensor("x").item<float>(), 10);
}

TEST_F(Safetensors, MissingTensorIsNamed) {
  write_safetensors(path_, {{"x", values_of(at::kFloat, {1})}});
  const SafetensorsFile file(path_);
  EXPECT_THAT(message_of<FormatError>([&] { file.tensor("y"); }), HasSubstr("no tensor 'y'"));
}

TEST_F(Safetensors, NoHeaderAtAll) {
  EXPECT_THAT(message_of<FormatError>([&] { SafetensorsFile file(path_); }), HasSubstr("cannot be opened"));
  EXPECT_THAT(message_of<FormatError>([&] { SafetensorsFile file(folder_.path()); }), HasSubstr("is not a file"));
  EXPECT_THAT(refusal(""), HasSubstr("is empty"));
  EXPECT_THAT(refusal("1234567"), HasSubstr("has 7 bytes"));
  EXPECT_THAT(refusal(length_bytes(0)), HasSubstr("does not begin with '{'"));
}

TEST_F(Safetensors, HeaderLengthIsCheckedBeforeUse) {
  EXPECT_THAT(refusal(length_bytes(100'000'001) + "{}"), HasSubstr("allows 100000000"));
  EXPECT_THAT(refusal(length_bytes(~uint64_t{0}) + "{}"), HasSubstr("allows 100000000"));
  EXPECT_THAT(refusal(length_bytes(uint64_t{1} << 63) + "{}"), HasSubstr("allows 100000000"));
  EXPECT_THAT(refusal(length_bytes(3) + "{}"), HasSubstr("truncated"));
}

TEST_F(Safetensors, HeaderMustBeOneJsonObject) {
  EXPECT_EQ(refusal("{}", 0), "");
  EXPECT_EQ(refusal("{}   ", 0), "");
  EXPECT_THAT(refusal(" {}", 0), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(refusal("[]", 0), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(refusal("{", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("{}{}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(std::string("{}\0", 3), 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("{\"__metadata__\":{\"a\":\"\xff\"}}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("{\"x\":" + std::string(100'000, '[') + "}", 0), HasSubstr("not valid JSON"));
}

TEST_F(Safetensors, KeysGivenTwice) {
  const std::string tensor = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_THAT(refusal("{\"x\":" + tensor + ",\"x\":" + tensor + "}", 1), HasSubstr("'x' twice"));
  EXPECT_THAT(refusal(R"({"x":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
              HasSubstr("'dtype' twice"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"a":"1","a":"2"}})", 0), HasSubstr("'a' twice"));
}

TEST_F(Safetensors, MetadataIsStringsOnly) {
  EXPECT_EQ(refusal(R"({"__metadata__":{}})", 0), "");
  EXPECT_THAT(refusal(R"({"__metadata__":{"a":1}})", 0), HasSubstr("expected a string"));
  EXPECT_THAT(refusal(R"({"__metadata__":"a"})", 0), HasSubstr("expected an object"));
  EXPECT_THAT(refusal(R"({"__metadata__":null})", 0), HasSubstr("expected an object"));
}

struct BadTensor {
  const char* description;
  const char* message;
};

TEST_F(Safetensors, TensorDescriptions) {
  const BadTensor cases[] = {
      {R"("U8")", "expected an object"},
      {R"({"shape":[1],"data_offsets":[0,1]})", "no 'dtype'"},
      {R"({"dtype":"U8","data_offsets":[0,1]})", "no 'shape'"},
      {R"({"dtype":"U8","shape":[1]})", "no 'data_offsets'"},
      {R"({"dtype":1,"shape":[1],"data_offsets":[0,1]})", "expected a string"},
      {R"({"dtype":"F4","shape":[2],"data_offsets":[0,1]})", "\"F4\", which is none of"},
      {R"({"dtype":"u8","shape":[1],"data_offsets":[0,1]})", "\"u8\", which is none of"},
      {R"({"dtype":"U8","shape":1,"data_offsets":[0,1]})", "expected an array"},
      {R"({"dtype":"U8","shape":[-1],"data_offsets":[0,1]})", "is -1, expected a non-negative integer"},
      {R"({"dtype":"U8","shape":[1.0],"data_offsets":[0,1]})", "is 1.0, expected a non-negative integer"},
      {R"({"dtype":"U8","shape":["1"],"data_offsets":[0,1]})", "expected a non-negative integer"},
      {R"({"dtype":"U8","shape":[18446744073709551617],"data_offsets":[0,1]})", "expected a non-negative integer"},
      {R"({"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]})", "expected a non-negative integer"},
      {R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,1]})", "too large"},
      {R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,1]})", "too large"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":[0]})", "expected [begin, end]"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":[0,1,2]})", "expected [begin, end]"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":{"begin":0,"end":1}})", "expected [begin, end]"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":[-1,0]})", "expected a non-negative integer"},
      {R"({"dtype":"U8","shape":[1],"data_offsets":[1,0]})", "need 1 bytes"},
      {R"({"dtype":"U8","shape":[2],"data_offsets":[0,1]})", "need 2 bytes"},
      {R"({"dtype":"F16","shape":[1],"data_offsets":[0,1]})", "need 2 bytes"},
      {R"({"dtype":"U8","shape":[],"data_offsets":[0,0]})", "need 1 bytes"},
  };
  for (const BadTensor& one : cases)
    EXPECT_THAT(refusal(std::string("{\"some.tensor\":") + one.description + "}", 1),
                AllOf(HasSubstr(one.message), HasSubstr("'some.tensor'")))
        << one.description;
}

std::string two_tensors(int begin, int end) {
  return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[)" +
         std::to_string(end - begin) + R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(end) +
         "]}}";
}

TEST_F(Safetensors, TensorsCoverTheDataExactly) {
  EXPECT_EQ(refusal(two_tensors(4, 8), 8), "");
  EXPECT_EQ(refusal(two_tensors(4, 4), 4), "");
  EXPECT_EQ(refusal(two_tensors(0, 0), 4), "");
  EXPECT_THAT(refusal(two_tensors(5, 8), 8), HasSubstr("'b' begins at byte 5, after a hole that begins at 4"));
  EXPECT_THAT(refusal(two_tensors(3, 8), 8), HasSubstr("'b' begins at byte 3, inside the tensor before it"));
  EXPECT_THAT(refusal(two_tensors(0, 4), 4), HasSubstr("inside the tensor before it"));
  EXPECT_THAT(refusal(two_tensors(2, 2), 4), HasSubstr("inside the tensor before it"));
  EXPECT_THAT(refusal(two_tensors(4, 8), 7), HasSubstr("need 8 bytes after the header, but 7"));
  EXPECT_THAT(refusal(two_tensors(4, 8), 9), HasSubstr("need 8 bytes after the header, but 9"));
  EXPECT_THAT(refusal("{}", 1), HasSubstr("need 0 bytes after the header, but 1"));
}

TEST_F(Safetensors, EveryTruncationIsRefused) {
  write_safetensors(path_, {{"a", values_of(at::kFloat, {2, 3})}, {"b", values_of(at::kBFloat16, {5})}});
  const std::string bytes = read_file(path_);
  for (size_t size = 0; size < bytes.size(); ++size) EXPECT_NE(refusal(bytes.substr(0, size)), "") << size << " bytes";
  EXPECT_EQ(refusal(bytes), "");
}

TEST_F(Safetensors, DamagedBytesAreRefusedOrReadWithinTheFile) {
  write_safetensors(path_, {{"a", values_of(at::kFloat, {2, 3})}, {"b", values_of(at::kBFloat16, {5})}});
  const std::string whole = read_file(path_);
  constexpr unsigned kSeed = 20240611;
  std::printf("seed %u\n", kSeed);
  std::mt19937 random(kSeed);
  int num_refused = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::string bytes = whole;
    for (int change = 0; change < 1 + trial % 3; ++change) bytes[random() % bytes.size()] = static_cast<char>(random());
    write_file(path_, bytes);
    try {
      const SafetensorsFile file(path_);
      for (const auto& [name, info] : file.tensors()) {
        const at::Tensor tensor = file.tensor(name);
        EXPECT_LE(static_cast<int64_t>(tensor.nbytes()), 34);
        tensor.view(-1).view(at::kByte).sum();  // reads every byte
      }
    } catch (const FormatError&) {
      ++num_refused;
    }
  }
  EXPECT_GT(num_refused, 1500);  // most of the file is header
}

TEST_F(Safetensors, FailedWriteLeavesTheEarlierFile) {
  write_safetensors(path_, {{"x", values_of(at::kFloat, {1})}});
  const std::string before = read_file(path_);
  EXPECT_THROW(write_safetensors(path_, {{"x", at::empty({1}, at::kComplexDouble)}}), std::logic_error);
  EXPECT_THROW(write_safetensors(path_, {{"__metadata__", at::empty({1})}}), std::logic_error);
  EXPECT_THROW(write_safetensors(folder_.path() / "none" / "x", {}), std::system_error);
  EXPECT_EQ(read_file(path_), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

class ModelFolder : public ::testing::Test {
 protected:
  std::string opening_refusal() {
    return message_of<FormatError>([&] { SafetensorsFolder folder(folder_.path()); });
  }
  void write_index(const std::string& weight_map) {
    write_file(folder_.path() / "model.safetensors.index.json", "{\"weight_map\":" + weight_map + "}");
  }
  int num_files() const {
    return static_cast<int>(std::distance(std::filesystem::directory_iterator(folder_.path()), {}));
  }

  const TemporaryFolder folder_;
};

TEST_F(ModelFolder, OneShardHasNoIndex) {
  SafetensorsFolderWriter writer(folder_.path(), 1000);
  writer.add("a", values_of(at::kFloat, {2, 3}));
  writer.add("b", values_of(at::kBFloat16, {4}));
  writer.finish();
  EXPECT_EQ(num_files(), 1);
  EXPECT_TRUE(std::filesystem::exists(folder_.path() / "model.safetensors"));
  const SafetensorsFolder folder(folder_.path());
  EXPECT_TRUE(at::equal(folder.tensor("a", {2, 3}), values_of(at::kFloat, {2, 3})));
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"a", "b"}));
}

TEST_F(ModelFolder, ShardsKeepToTheirSize) {
  SafetensorsFolderWriter writer(folder_.path(), 40);
  std::map<std::string, at::Tensor> tensors;
  for (int i = 0; i < 7; ++i) {
    const std::string name = "tensor." + std::to_string(i);
    tensors[name] = at::full({i == 3 ? 100 : 4}, i, at::kFloat);  // the fourth is larger than a shard
    writer.add(name, tensors[name]);
  }
  writer.finish();
  EXPECT_EQ(num_files(), 6);  // 2 + 1 | 1 alone | 2 + 1 tensors, and the index
  EXPECT_TRUE(std::filesystem::exists(folder_.path() / "model-00005-of-00005.safetensors"));
  const SafetensorsFolder folder(folder_.path());
  for (const auto& [name, tensor] : tensors)
    EXPECT_TRUE(at::equal(folder.tensor(name, tensor.sizes().vec()), tensor)) << name;
  EXPECT_THAT(read_file(folder_.path() / "model.safetensors.index.json"), HasSubstr("\"total_size\": 496"));
}

TEST_F(ModelFolder, UnfinishedWriterLeavesNothing) {
  {
    SafetensorsFolderWriter writer(folder_.path(), 8);
    for (const char* name : {"a", "b", "c"}) writer.add(name, at::zeros({2}));
    EXPECT_GT(num_files(), 0);
  }
  EXPECT_EQ(num_files(), 0);
}

TEST_F(ModelFolder, TensorAddedTwiceIsOurMistake) {
  SafetensorsFolderWriter writer(folder_.path(), 8);
  writer.add("a", at::zeros({2}));
  EXPECT_THROW(writer.add("a", at::zeros({2})), std::logic_error);
}

TEST_F(ModelFolder, IndexWinsOverLooseFile) {
  write_safetensors(folder_.path() / "model.safetensors", {{"x", at::zeros({1})}});
  write_safetensors(folder_.path() / "shard.safetensors", {{"x", at::ones({1})}});
  write_index(R"({"x":"shard.safetensors"})");
  EXPECT_EQ(SafetensorsFolder(folder_.path()).tensor("x", {1}).item<float>(), 1);
}

TEST_F(ModelFolder, ShardNamesStayInTheFolder) {
  for (const char* name : {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", ""}) {
    write_index("{\"x\":\"" + std::string(name) + "\"}");
    EXPECT_THAT(opening_refusal(), HasSubstr("without '/' and '..'")) << name;
  }
}

TEST_F(ModelFolder, BadIndexes) {
  EXPECT_THAT(opening_refusal(), HasSubstr("has neither"));
  write_index(R"({"x":1})");
  EXPECT_THAT(opening_refusal(), HasSubstr("expected a string"));
  write_index(R"(["x"])");
  EXPECT_THAT(opening_refusal(), HasSubstr("no object 'weight_map'"));
  write_index(R"({"x":"a.safetensors","x":"b.safetensors"})");
  EXPECT_THAT(opening_refusal(), HasSubstr("'x' twice"));
  write_file(folder_.path() / "model.safetensors.index.json", "{\"weight_map\":");
  EXPECT_THAT(opening_refusal(), HasSubstr("not valid JSON"));
  write_index(R"({"x":"missing.safetensors"})");
  EXPECT_THAT(opening_refusal(), AllOf(HasSubstr("'x'"), HasSubstr("no such file")));
}

TEST_F(ModelFolder, TensorInAnotherShard) {
  write_safetensors(folder_.path() / "a.safetensors", {{"x", at::zeros({1})}});
  write_safetensors(folder_.path() / "b.safetensors", {{"y", at::zeros({1})}});
  write_index(R"({"x":"a.safetensors","y":"a.safetensors","also":"b.safetensors"})");
  EXPECT_THAT(opening_refusal(),
              AllOf(HasSubstr("'also' into b.safetensors"), HasSubstr("no file of the index has it")));
  write_index(R"({"x":"a.safetensors","y":"a.safetensors","z":"b.safetensors"})");
  EXPECT_THAT(opening_refusal(), AllOf(HasSubstr("'y' into a.safetensors"), HasSubstr("it is in b.safetensors")));
}

TEST_F(ModelFolder, WrongTensorsAreNamedWithBothShapes) {
  write_safetensors(folder_.path() / "model.safetensors",
                    {{"weight", at::zeros({2, 3})}, {"packed", at::zeros({2}, at::kInt)}});
  const SafetensorsFolder folder(folder_.path());
  EXPECT_THAT(message_of<FormatError>([&] {
                folder.tensor("weight", {3, 2});
              }),
              AllOf(HasSubstr("'weight'"), HasSubstr("[2, 3]"), HasSubstr("[3, 2]")));
  EXPECT_THAT(message_of<FormatError>([&] { folder.tensor("bias", {3}); }),
              AllOf(HasSubstr("no tensor 'bias'"), HasSubstr("[3]")));
  EXPECT_THAT(message_of<FormatError>([&] { folder.tensor("packed", {2}); }),
              AllOf(HasSubstr("'packed'"), HasSubstr("I32")));
  EXPECT_TRUE(folder.contains("weight"));
  EXPECT_FALSE(folder.contains("bias"));
}

}  // namespace
}  // namespace hiptrain
