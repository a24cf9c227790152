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
};

struct EvaluateCommand {
  std::vector<std::filesystem::path> configs;
  std::vector<std::string> overrides;
  std::filesystem::path model;   // instead of model.path; weights are read from it
  std::filesystem::path data;    // prefix of a token file, or a retrieval file (.safetensors)
  std::filesystem::path logits;  // where to write the first sequence's logits; empty: nowhere
  int64_t sequences = 0;         // 0: all
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

struct DoctorCommand {};

struct ConfigCommand {
  std::vector<std::filesystem::path> configs;
  std::vector<std::string> overrides;
  bool help_fields = false, markdown = false;
};

using Command =
    std::variant<TrainCommand, EvaluateCommand, ExportCommand, AttentionCommand, DoctorCommand, ConfigCommand>;

// What the command line asks for, or, when it is wrong or asks for help, the text to print and the exit code.
struct CommandLine {
  Command command;
  bool ready = false;  // command is to be run; otherwise message is to be printed
  std::string message;
  int exit_code = kSuccess;
};
CommandLine read_command_line(int argc, const char* const* argv);

}  // namespace hiptrain
