#include "trainer/commands/command_line.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <optional>
#include <sstream>

#include "trainer/commands/software_versions.h"
#include "trainer/formats/byte_size.h"

namespace hiptrain {
namespace {

constexpr const char* kFooter =
    "examples:\n"
    "  hiptrain train configs/quickstart.yaml --set train.max_steps=10\n"
    "  mpirun -np 2 --bind-to none hiptrain train run.yaml\n"
    "  hiptrain evaluate --model DIR --data tokens/held_out --set attention.window=512\n"
    "  hiptrain export runs/x/checkpoints/step_00000100 OUT\n"
    "  hiptrain plan run.yaml --gpus 8 --max-tokens\n"
    "  hiptrain bench train --model-config configs/models/llama-3.2-1b.json --tokens 131072\n"
    "  hiptrain config --help-fields\n"
    "exit codes: 0 success, 2 a mistake in the command, config or model folder, 3 data or checkpoint, 4 memory,\n"
    "  5 diverged, 6 communication, 130 stopped by a signal after saving";

// 139.5GiB becomes a number of bytes, above 0.
CLI::Validator byte_size() {
  return {[](std::string& text) -> std::string {
            const std::optional<double> bytes = parse_byte_size(text);
            if (!bytes || *bytes < 1 || *bytes > kMostBytes)
              return "expected bytes, as 500MB or 139.5GiB, found '" + text + "'";
            text = std::to_string(std::llround(*bytes));
            return "";
          },
          ""};
}

void add_overrides(CLI::App& app, std::vector<std::string>& overrides) {
  app.add_option("--set", overrides, "override one field of the config, as section.key=value; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);  // one value each: what follows is a config file
}

void add_train(CLI::App& program, TrainCommand& command) {
  CLI::App* app = program.add_subcommand("train", "train as a config file says; resumes by itself");
  app->add_option("config", command.configs, "YAML files; later ones win")->required()->type_name("FILE");
  add_overrides(*app, command.overrides);
  app->add_flag("--check", command.check, "read and check everything, print the resolved config, stop");
  app->add_option("--profile", command.profile, "write a trace of the run's third step here (chrome://tracing)")
      ->type_name("FILE");
}

void add_evaluate(CLI::App& program, EvaluateCommand& command) {
  CLI::App* app = program.add_subcommand("evaluate", "loss, perplexity, loss by position; retrieval; logits");
  app->add_option("config", command.configs, "YAML files, for attention and data settings")->type_name("FILE");
  add_overrides(*app, command.overrides);
  app->add_option("--model", command.model, "Hugging Face folder, instead of model.path")->type_name("DIR");
  app->add_option("--data", command.data, "prefix of a .bin/.idx pair, or a retrieval file (.safetensors)")
      ->required()
      ->type_name("PATH");
  app->add_option("--logits", command.logits,
                  "write the first sequence's logits (tokens, vocabulary) here; short inputs")
      ->type_name("FILE");
  app->add_flag("--by-layer", command.by_layer, "print how much attention the picked blocks cover in every layer");
  CLI::Option* selection =
      app->add_option("--selection", command.selection,
                      "write that, list lengths, and one head's attention beside its picked blocks here, for "
                      "launch/plot_selection.py (.safetensors)")
          ->type_name("FILE");
  app->add_option("--head", command.head, "layer and query head whose attention is written, instead of the worst")
      ->expected(2)
      ->check(CLI::NonNegativeNumber)
      ->needs(selection)
      ->type_name("LAYER HEAD");
  app->add_option("--sequences", command.sequences, "how many sequences; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N");
}

void add_export(CLI::App& program, ExportCommand& command) {
  CLI::App* app = program.add_subcommand("export", "turn a checkpoint into a Hugging Face folder");
  app->add_option("checkpoint", command.checkpoint, "folder of a checkpoint")->required()->type_name("DIR");
  app->add_option("output", command.output, "folder to write; must not exist, or be empty")
      ->required()
      ->type_name("DIR");
  app->add_option("--model", command.model, "folder whose config and tokenizer are kept, if it was moved since")
      ->type_name("DIR");
  app->add_option("--dtype", command.dtype, "bfloat16 or float32")
      ->check(CLI::IsMember({"bfloat16", "float32"}))
      ->type_name("TYPE");
  app->add_option("--max-shard-size", command.max_shard_bytes, "largest file, such as 500MB or 5GB")
      ->transform(byte_size())
      ->default_str("5GB")
      ->type_name("SIZE");
}

void add_attention(CLI::App& program, AttentionCommand& command) {
  CLI::App* app = program.add_subcommand(
      "attention", "selection and attention on q, k, v (and do) of a safetensors file; compare with your own code");
  app->add_option("input", command.input,
                  "q (tokens, query heads, head_dim), k and v (tokens, KV heads, head_dim), float32 or bfloat16; "
                  "optional do (as q) and document_starts (int64)")
      ->required()
      ->type_name("IN");
  app->add_option("output", command.output,
                  "o, lse, list_offsets, list_block, list_first_row, picks; with do also dq, dk, dv")
      ->required()
      ->type_name("OUT");
  add_overrides(*app, command.overrides);
  app->add_option("--backend", command.backend, "reference (CPU) or cuda")
      ->check(CLI::IsMember({"reference", "cuda"}))
      ->type_name("NAME");
}

void add_bench_train(CLI::App& bench, BenchTrainCommand& command) {
  CLI::App* app = bench.add_subcommand("train", "a training step on random weights and tokens, part by part");
  app->add_option("--model-config", command.model_config, "a config.json, such as configs/models/llama-3.2-1b.json")
      ->required()
      ->type_name("FILE");
  app->add_option("--tokens", command.tokens, "of a sequence")->check(CLI::Range(2, 1 << 30))->type_name("N");
  add_overrides(*app, command.overrides);
  app->add_option("--steps", command.steps, "that are timed")->check(CLI::PositiveNumber)->type_name("N");
  app->add_option("--warm-up", command.warm_up, "steps before")->check(CLI::NonNegativeNumber)->type_name("N");
  app->add_option("--rates", command.rates, "a file of `hiptrain bench rates` to predict by, instead of one H200's")
      ->type_name("FILE");
  app->add_option("--json", command.json, "write the figures here")->type_name("FILE");
  app->add_option("--profile", command.profile, "write a trace of the median step here (chrome://tracing)")
      ->type_name("FILE");
}

void add_bench_attention(CLI::App& bench, BenchAttentionCommand& command) {
  CLI::App* app = bench.add_subcommand(
      "attention", "one layer's search and attention on random tensors, beside dense cuDNN attention; GPU only");
  app->add_option("--tokens", command.tokens, "one or more lengths")->check(CLI::Range(64, 1 << 30))->type_name("N");
  app->add_option("--query-heads", command.query_heads)->check(CLI::PositiveNumber)->type_name("N");
  app->add_option("--kv-heads", command.kv_heads)->check(CLI::PositiveNumber)->type_name("N");
  app->add_option("--head-dim", command.head_dim)->check(CLI::PositiveNumber)->type_name("N");
  app->add_option("--list-blocks", command.list_blocks, "of a tile's fixed list")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  add_overrides(*app, command.overrides);
  app->add_option("--repeats", command.repeats, "of which the median counts")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_option("--dense-seconds", command.dense_seconds,
                  "longest time for dense attention; beyond, its rate at the length before is extrapolated; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->type_name("S");
  app->add_option("--json", command.json, "write the figures here")->type_name("FILE");
}

void add_bench_kernels(CLI::App& bench, BenchKernelsCommand& command) {
  CLI::App* app = bench.add_subcommand(
      "kernels", "every kernel outside attention at models' shapes, beside a copy; the loss beside its products");
  app->add_option(
         "group", command.groups,
         "norm, rope, swiglu, embedding, cross-entropy, loss, adamw, sum-of-squares, index, lists; all without")
      ->type_name("NAME");
  add_overrides(*app, command.overrides);
  app->add_option("--repeats", command.repeats, "of which the median counts")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_option("--json", command.json, "write the figures here")->type_name("FILE");
}

void add_bench_communication(CLI::App& bench, BenchCommunicationCommand& command) {
  CLI::App* app = bench.add_subcommand(
      "communication", "all-gather, reduce-scatter, all-to-all, all-reduce between the ranks it is started on");
  app->add_option("--size", command.bytes, "bytes of the whole, over all ranks, such as 1MiB 256MiB")
      ->transform(byte_size())
      ->default_str("1MiB 16MiB 256MiB")
      ->type_name("SIZE...");
  add_overrides(*app, command.overrides);
  app->add_option("--repeats", command.repeats, "of which the median counts")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_option("--json", command.json, "write the figures here")->type_name("FILE");
}

void add_bench_rates(CLI::App& bench, BenchRatesCommand& command) {
  CLI::App* app = bench.add_subcommand(
      "rates", "how fast this machine does what a training step is made of, for hiptrain plan --rates");
  app->add_option("--tokens", command.tokens, "lengths that attention and search are measured at, ascending")
      ->check(CLI::Range(2048, 1 << 30))
      ->type_name("N");
  add_overrides(*app, command.overrides);
  app->add_option("--save-rates", command.rates, "write them here as JSON")->type_name("FILE");
}

void add_plan(CLI::App& program, PlanCommand& command) {
  CLI::App* app = program.add_subcommand(
      "plan", "what a run would take of memory and time, part by part; needs neither a GPU nor weights");
  app->add_option("config", command.configs, "YAML files; later ones win")->type_name("FILE");
  add_overrides(*app, command.overrides);
  app->add_option("--model-config", command.model_config, "a config.json, instead of model.path")->type_name("FILE");
  app->add_option("--gpus", command.gpus, "ranks, one a GPU")->check(CLI::Range(1, 1 << 20))->type_name("N");
  app->add_option("--nodes", command.nodes, "hosts that these are on")->check(CLI::Range(1, 1 << 20))->type_name("N");
  const auto add_size = [&](const char* name, int64_t& bytes, const char* help) {
    app->add_option(name, bytes, help)->transform(byte_size())->type_name("SIZE");
  };
  add_size("--gpu-memory", command.gpu_memory, "of a GPU, such as 80GB or 139.5GiB, instead of that of the rates");
  add_size("--host-memory", command.host_memory, "of a host, which its ranks share, instead of that of the rates");
  CLI::Option* tokens = app->add_option("--tokens", command.tokens, "of a sequence, instead of data.sequence_length")
                            ->check(CLI::Range(int64_t{2}, int64_t{1} << 31))
                            ->type_name("N");
  app->add_flag("--max-tokens", command.max_tokens, "find the longest sequence that fits")->excludes(tokens);
  app->add_option("--rates", command.rates, "a file of `hiptrain bench rates`, instead of one H200's")
      ->type_name("FILE");
  const auto add_rate = [&](const char* name, double& rate, const char* help) {
    app->add_option(name, rate, help)->check(CLI::PositiveNumber)->type_name("BYTES/S");
  };
  add_rate("--link", command.link, "what a rank sends in collectives inside a host, instead of that of the rates");
  add_rate("--node-link", command.node_link, "the same between hosts, of one rank");
  app->add_option("--list-entries", command.list_entries, "picked blocks a tile, instead of a trained model's")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_option("--json", command.json, "write the plan here")->type_name("FILE");
}

void add_config(CLI::App& program, ConfigCommand& command) {
  CLI::App* app = program.add_subcommand("config", "print a resolved config, or help on its fields");
  app->add_option("config", command.configs, "YAML files; later ones win")->type_name("FILE");
  add_overrides(*app, command.overrides);
  CLI::Option* help = app->add_flag("--help-fields", command.help_fields, "every field: type, default, meaning");
  app->add_flag("--markdown", command.markdown, "the help on fields as a Markdown page")->needs(help);
}

// A sentence about a first word that is no command; "" if it is one, or none was given.
std::string unknown_command(const CLI::App& program, int argc, const char* const* argv) {
  if (argc < 2 || argv[1][0] == '-') return "";
  std::string names;
  for (const CLI::App* command : program.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == argv[1]) return "";
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  return "'" + std::string(argv[1]) + "' is no command; valid: " + names + "\n";
}

}  // namespace

CommandLine read_command_line(int argc, const char* const* argv) {
  CLI::App program("hiptrain: fine-tunes Hugging Face language models on documents of up to millions of tokens",
                   "hiptrain");
  program.require_subcommand(1);
  program.footer(kFooter);
  program.set_version_flag("--version", program_version_text, "print version, commit and what it was built with; exit");
  TrainCommand train;
  EvaluateCommand evaluate;
  ExportCommand exporting;
  AttentionCommand attention;
  BenchTrainCommand bench_train;
  BenchAttentionCommand bench_attention;
  BenchKernelsCommand bench_kernels;
  BenchRatesCommand bench_rates;
  PlanCommand plan;
  BenchCommunicationCommand bench_communication;
  ConfigCommand config;
  add_train(program, train);
  add_evaluate(program, evaluate);
  add_export(program, exporting);
  add_attention(program, attention);
  CLI::App* bench =
      program.add_subcommand("bench", "speed on random data: train, attention, communication, kernels, rates");
  bench->require_subcommand(1);
  add_bench_train(*bench, bench_train);
  add_bench_attention(*bench, bench_attention);
  add_bench_communication(*bench, bench_communication);
  add_bench_kernels(*bench, bench_kernels);
  add_bench_rates(*bench, bench_rates);
  add_plan(program, plan);
  program.add_subcommand("doctor", "versions, devices, ranks, disk; a product and an all-reduce; what is missing");
  add_config(program, config);
  CommandLine line;
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream out, err;
    line.exit_code = program.exit(error, out, err) == 0 ? kSuccess : kUserMistake;
    line.message = unknown_command(program, argc, argv) + out.str() + err.str();
    return line;
  }
  const std::string name = program.get_subcommands().front()->get_name();
  if (name == "train") line.command = train;
  if (name == "evaluate") line.command = evaluate;
  if (name == "export") line.command = exporting;
  if (name == "attention") line.command = attention;
  const std::string kind = name == "bench" ? bench->get_subcommands().front()->get_name() : "";
  if (kind == "train") line.command = bench_train;
  if (kind == "attention") line.command = bench_attention;
  if (kind == "communication") line.command = bench_communication;
  if (kind == "kernels") line.command = bench_kernels;
  if (kind == "rates") line.command = bench_rates;
  if (name == "plan") line.command = plan;
  if (name == "doctor") line.command = DoctorCommand{};
  if (name == "config") line.command = config;
  line.ready = true;
  return line;
}

}  // namespace hiptrain
