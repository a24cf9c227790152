#include "trainer/commands/commands.h"

#include <iostream>

#include "trainer/commands/attention_command.h"
#include "trainer/commands/bench_attention_command.h"
#include "trainer/commands/bench_communication_command.h"
#include "trainer/commands/bench_kernels_command.h"
#include "trainer/commands/bench_rates_command.h"
#include "trainer/commands/bench_train_command.h"
#include "trainer/commands/doctor.h"
#include "trainer/commands/evaluate_command.h"
#include "trainer/commands/export_command.h"
#include "trainer/commands/plan_command.h"
#include "trainer/commands/train_command.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/config_reader.h"
#include "trainer/config/config_text.h"

namespace hiptrain {
namespace {

int run_config(const ConfigCommand& command, MpiRuntime& mpi) {
  if (mpi.rank() != 0) return kSuccess;
  if (command.help_fields)
    std::cout << (command.markdown ? fields_as_markdown() : fields_as_text());
  else
    std::cout << resolved_config(read_run_config(command.configs, command.overrides, RunPurpose::kAny));
  return kSuccess;
}

// Picks the function by the command's type.
struct Runner {
  MpiRuntime& mpi;
  int operator()(const TrainCommand& command) const { return run_train(command, mpi); }
  int operator()(const EvaluateCommand& command) const { return run_evaluate(command, mpi); }
  int operator()(const ExportCommand& command) const { return run_export(command, mpi); }
  int operator()(const AttentionCommand& command) const { return run_attention(command, mpi); }
  int operator()(const BenchTrainCommand& command) const { return run_bench_train(command, mpi); }
  int operator()(const BenchAttentionCommand& command) const { return run_bench_attention(command, mpi); }
  int operator()(const BenchKernelsCommand& command) const { return run_bench_kernels(command, mpi); }
  int operator()(const BenchRatesCommand& command) const { return run_bench_rates(command, mpi); }
  int operator()(const PlanCommand& command) const { return run_plan(command, mpi); }
  int operator()(const BenchCommunicationCommand& command) const { return run_bench_communication(command, mpi); }
  int operator()(const DoctorCommand&) const { return run_doctor(mpi); }
  int operator()(const ConfigCommand& command) const { return run_config(command, mpi); }
};

}  // namespace

int run_command(const Command& command, MpiRuntime& mpi) { return std::visit(Runner{mpi}, command); }

}  // namespace hiptrain
