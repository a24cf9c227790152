#include "trainer/commands/failure.h"

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <stdexcept>

#include "data/token_file.h"
#include "distributed/communicator.h"
#include "trainer/commands/command_line.h"
#include "trainer/training/trainer.h"

namespace hiptrain {
namespace {

// ATen reports a failed allocation as a plain error.
bool is_out_of_memory(const std::string& message) {
  return message.find("can't allocate memory") != std::string::npos ||
         message.find("out of memory") != std::string::npos;
}

}  // namespace

Failure describe_current_exception() {
  try {
    throw;
  } catch (const std::invalid_argument& error) {  // ConfigError and FormatError too
    return {error.what(), kUserMistake};
  } catch (const DataError& error) {  // CheckpointError too
    return {error.what(), kDataError};
  } catch (const DivergenceError& error) {
    return {error.what(), kDiverged};
  } catch (const CommunicationError& error) {
    return {error.what(), kCommunication};
  } catch (const std::bad_alloc&) {
    return {"out of memory; a smaller data.sequence_length, memory.query_tile or memory.token_tile, or more ranks help",
            kOutOfMemory};
  } catch (const c10::Error& error) {
    const std::string message = error.what_without_backtrace();
    return {message, is_out_of_memory(message) ? kOutOfMemory : kInternalError};
  } catch (const std::exception& error) {
    return {error.what(), kInternalError};
  }
}

}  // namespace hiptrain
