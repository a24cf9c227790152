#include "trainer/commands/export_command.h"

#include <ATen/ops/empty.h>

#include <iostream>

#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/model_export.h"
#include "trainer/model/model_config.h"
#include "trainer/model/parameter_layout.h"

namespace hiptrain {

// One rank does the work; the others have nothing to do.
int run_export(const ExportCommand& command, MpiRuntime& mpi) {
  if (mpi.rank() != 0) return 0;
  const CheckpointManifest manifest = read_manifest(command.checkpoint);
  ModelSection section = manifest.model;
  if (!command.model.empty()) section.path = command.model.string();
  refuse_occupied_output(command.output);
  const ModelConfig model = read_model_config(section);
  for (const auto& [file, record] : manifest.files) {
    verify_size(command.checkpoint / file, record);
    verify_checksum(command.checkpoint / file, record);
  }
  const CheckpointReader reader(command.checkpoint, manifest);
  const ParameterLayout layout(model);
  export_model({.model = section,
                .output = command.output,
                .type = command.dtype == "float32" ? at::kFloat : at::kBFloat16,
                .max_shard_bytes = command.max_shard_bytes},
               [&](const TensorSink& sink) {
                 for (const ParameterUnit& unit : layout.units())
                   for (const Parameter& parameter : unit.parameters) {
                     at::Tensor values = at::empty({parameter.numel}, at::kFloat);
                     reader.read(parameter.name, "", parameter.shape, 0, values);
                     sink(parameter.name, values.view(parameter.shape));
                   }
               });
  std::cout << command.output.string() << ": " << layout.num_parameters() << " parameters of step "
            << manifest.state.step << ", " << command.dtype << "\n";
  return 0;
}

}  // namespace hiptrain
