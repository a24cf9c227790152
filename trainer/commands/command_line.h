// The program's command line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <variant>
#include <vector>

namespace hiptrain {

enum ExitCode : int {
  kSuccess = 0,
  kInternalError = 1,  // a mistake of ours, or of a library
  kUserMistake = 2,    // command line, config, model folder
  kDataError = 3,      // token files, checkpoints
  kOutOfMemory = 4,
  kDiverged = 5,          // too many steps in a row that were not finite
  kCommunication = 6,     // a collective failed or did not complete in time
  kStoppedBySignal = 130  // after saving
};

struct TrainCommand {
  std::vector<std::filesystem::path> configs;
  std::vector<std::string> overrides;  // section.key=value
  bool check = false;                  // read and check everything, print the resolved config, stop
  std::filesystem::path profile;       // where to write a trace of one step; empty: nowhere
};

struct EvaluateCommand {
  std::vector<std::filesystem::path> configs;
  std::vector<std::string> overrides;
  std::filesystem::path model;      // instead of model.path; weights are read from it
  std::filesystem::path data;       // prefix of a token file, or a retrieval file (.safetensors)
  std::filesystem::path logits;     // where to write the first sequence's logits; empty: nowhere
  bool by_layer = false;            // print the selection's recall by layer
  std::filesystem::path selection;  // where to write it, and one head's attention; empty: nowhere
  std::vector<int64_t> head;        // whose attention: layer and query head; empty: the worst
  int64_t sequences = 0;            // 0: all
};

struct ExportCommand {
  std::filesystem::path checkpoint, output;
  std::filesystem::path model;  // the folder whose config and tokenizer are kept; empty: the one that was trained
  std::string dtype = "bfloat16";
  int64_t max_shard_bytes = int64_t{5} * 1000 * 1000 * 1000;
};

struct AttentionCommand {
  std::filesystem::path input, output;
  std::vector<std::string> overrides;
  std::string backend = "reference";
};

// A training step on random weights and tokens.
struct BenchTrainCommand {
  std::filesystem::path model_config;  // a config.json
  int64_t tokens = 131072;             // of a sequence
  std::vector<std::string> overrides;
  int64_t steps = 3, warm_up = 2;
  std::filesystem::path rates;          // of `bench rates`, for the prediction; empty: those of one H200
  std::filesystem::path json, profile;  // where to write the figures, and a trace; empty: nowhere
};

// One layer's attention on random tensors.
struct BenchAttentionCommand {
  std::vector<int64_t> tokens{65536, 262144, 1048576};
  int64_t query_heads = 32, kv_heads = 8, head_dim = 128;
  int64_t list_blocks = 64;  // of a tile's fixed list
  std::vector<std::string> overrides;
  int64_t repeats = 5;
  double dense_seconds = 60;   // dense attention is timed up to the length where it would take longer than that
  std::filesystem::path json;  // where to write the figures; empty: nowhere
};

// Every kernel outside attention on random values.
struct BenchKernelsCommand {
  std::vector<std::string> groups;  // of kernels; empty: all
  std::vector<std::string> overrides;
  int64_t repeats = 11;
  std::filesystem::path json;  // where to write the figures; empty: nowhere
};

// How fast this machine does what a training step is made of.
struct BenchRatesCommand {
  std::vector<int64_t> tokens;  // of the sequences that attention and search are measured at; empty: the device's
  std::vector<std::string> overrides;
  std::filesystem::path rates;  // where to write them; empty: nowhere
};

// The command that predicts the memory and the time of a run.
struct PlanCommand {
  std::vector<std::filesystem::path> configs;
  std::vector<std::string> overrides;
  std::filesystem::path model_config;  // a config.json instead of model.path; empty: model.path
  std::filesystem::path rates;         // of `bench rates`; empty: those of one H200
  int64_t gpus = 1, nodes = 1;
  int64_t gpu_memory = 0, host_memory = 0;  // bytes of a GPU and of a host; 0: those of the rates
  int64_t tokens = 0;                       // of a sequence; 0: data.sequence_length
  bool max_tokens = false;                  // the most that fit
  double list_entries = 0;                  // picked blocks a tile; 0: what trained models have
  double link = 0, node_link = 0;           // bytes/s; 0: those of the rates
  std::filesystem::path json;               // where to write the figures; empty: nowhere
};

// The collectives between the ranks.
struct BenchCommunicationCommand {
  std::vector<int64_t> bytes{int64_t{1} << 20, int64_t{16} << 20, int64_t{256} << 20};  // of the whole
  std::vector<std::string> overrides;
  int64_t repeats = 10;
  std::filesystem::path json;  // where to write the figures; empty: nowhere
};

struct DoctorCommand {};

struct ConfigCommand {
  std::vector<std::filesystem::path> configs;
  std::vector<std::string> overrides;
  bool help_fields = false, markdown = false;
};

using Command = std::variant<TrainCommand, EvaluateCommand, ExportCommand, AttentionCommand, BenchTrainCommand,
                             BenchAttentionCommand, BenchCommunicationCommand, BenchKernelsCommand, BenchRatesCommand,
                             PlanCommand, DoctorCommand, ConfigCommand>;

// The command that the command line asks for. If it is wrong or asks for help: the text to print and the exit code.
struct CommandLine {
  Command command;
  bool ready = false;  // command is to be run; otherwise message is to be printed
  std::string message;
  int exit_code = kSuccess;
};
CommandLine read_command_line(int argc, const char* const* argv);

}  // namespace hiptrain
