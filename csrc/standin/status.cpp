#include "status.h"

namespace updp::standin {

const char* text(int code) {
  switch (static_cast<Status>(code)) {
    case Status::success: return "no error";
    case Status::invalid_value: return "invalid argument";
    case Status::out_of_memory: return "out of memory";
    case Status::invalid_configuration: return "invalid configuration argument";
    case Status::invalid_device: return "invalid device ordinal";
    case Status::invalid_image: return "device kernel image is invalid";
    case Status::no_binary_for_gpu: return "no kernel image is available for execution on the device";
    case Status::invalid_handle: return "invalid resource handle";
    case Status::illegal_state: return "the operation cannot be performed in the present state";
    case Status::not_found: return "named symbol not found";
    case Status::context_is_destroyed: return "context is destroyed";
    case Status::host_memory_already_registered: return "part or all of the requested memory range is already mapped";
    case Status::host_memory_not_registered: return "pointer does not correspond to a registered memory region";
    case Status::launch_failure: return "unspecified launch failure";
    case Status::capture_unsupported: return "operation not permitted when stream is capturing";
    case Status::capture_invalidated: return "operation failed due to a previous error during capture";
    case Status::capture_implicit: return "operation would make the legacy stream depend on a capturing blocking stream";
    case Status::capture_wrong_thread:
      return "attempt to terminate a thread-local capture sequence from another thread";
  }
  return "unknown error";
}

}  // namespace updp::standin
