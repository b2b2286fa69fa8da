// HIP's error codes as far as the stand-in gives them, each with the detail that the real runtime keeps to itself.
#pragma once

#include <stdexcept>
#include <string>

namespace updp::standin {

enum class Status {
  success = 0,
  invalid_value = 1,
  out_of_memory = 2,
  invalid_configuration = 9,
  invalid_device = 101,
  invalid_image = 200,
  no_binary_for_gpu = 209,
  invalid_handle = 400,
  illegal_state = 401,
  not_found = 500,
  context_is_destroyed = 709,
  host_memory_already_registered = 712,
  host_memory_not_registered = 713,
  launch_failure = 719,
  capture_unsupported = 900,
  capture_invalidated = 901,
  capture_implicit = 906,
  capture_wrong_thread = 908,
};

// A call that the stand-in rejects.
struct Rejection : std::runtime_error {
  Rejection(Status status, const std::string& detail) : std::runtime_error(detail), status(status) {}
  const Status status;
};

// What hipGetErrorString says of `code`.
const char* text(int code);

}  // namespace updp::standin
