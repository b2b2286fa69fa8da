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
    case Status::not_found: return "named symbol not found";
    case Status::context_is_destroyed: return "context is destroyed";
    case Status::host_memory_already_registered: return "part or all of the requested memory range is already mapped";
    case Status::host_memory_not_registered: return "pointer does not correspond to a registered memory region";
    case Status::launch_failure: return "unspecified launch failure";
  }
  return "unknown error";
}

}  // namespace updp::standin
