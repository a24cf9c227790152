// The commands of the program. Each returns the exit code of a run that ended as it should; mistakes are thrown.
#pragma once

#include "distributed/mpi_runtime.h"
#include "trainer/command_line.h"

namespace hiptrain {

int run_command(const Command& command, MpiRuntime& mpi);

int run_train(const TrainCommand& command, MpiRuntime& mpi);
int run_evaluate(const EvaluateCommand& command, MpiRuntime& mpi);
int run_export(const ExportCommand& command, MpiRuntime& mpi);
int run_attention(const AttentionCommand& command, MpiRuntime& mpi);
int run_bench_train(const BenchTrainCommand& command, MpiRuntime& mpi);
int run_bench_attention(const BenchAttentionCommand& command, MpiRuntime& mpi);
int run_bench_kernels(const BenchKernelsCommand& command, MpiRuntime& mpi);
int run_bench_rates(const BenchRatesCommand& command, MpiRuntime& mpi);
int run_plan(const PlanCommand& command, MpiRuntime& mpi);
int run_bench_communication(const BenchCommunicationCommand& command, MpiRuntime& mpi);
int run_doctor(MpiRuntime& mpi);

}  // namespace hiptrain
