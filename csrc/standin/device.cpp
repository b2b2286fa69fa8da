#include "device.h"

#include <limits>
#include <string>

namespace updp::standin {
namespace {

constexpr uint64_t kMaxLanes = 1024, kMaxLds = 64 << 10;

// As hipModuleLaunchKernel checks it, in its order.
void check_shape(const Kernel& kernel, const std::array<uint32_t, 3>& grid, const std::array<uint32_t, 3>& block,
                 uint32_t dynamic_lds) {
  if (grid[0] > std::numeric_limits<int32_t>::max() || grid[1] > 65536 || grid[2] > 65536) {
    throw Rejection(Status::invalid_value, "a grid above 2147483647 x 65536 x 65536 workgroups");
  }
  if (uint64_t{grid[0]} * block[0] > std::numeric_limits<uint32_t>::max()) {
    throw Rejection(Status::invalid_configuration, "2^32 or more lanes along x");
  }
  if (!block[0] || !block[1] || !block[2]) throw Rejection(Status::invalid_configuration, "an empty block");
  if (!grid[0] || !grid[1] || !grid[2]) throw Rejection(Status::invalid_value, "an empty grid");
  if (uint64_t{dynamic_lds} + kernel.lds_bytes > kMaxLds) {
    throw Rejection(Status::invalid_value, std::to_string(kernel.lds_bytes) + " static and " +
                                               std::to_string(dynamic_lds) + " dynamic bytes of LDS, a workgroup has " +
                                               std::to_string(kMaxLds));
  }
  uint64_t lanes = 1;
  for (const uint32_t side : block) {
    lanes *= side;  // at most 1024 times 2^32
    if (lanes > kMaxLanes) throw Rejection(Status::invalid_value, "a block of more than 1024 lanes");
  }
  if (lanes > kernel.max_workgroup_size) {
    throw Rejection(Status::launch_failure, "a block of " + std::to_string(lanes) + " lanes, launch bounds of " +
                                                std::to_string(kernel.max_workgroup_size));
  }
}

}  // namespace

// Never destroyed: threads may still launch while the process ends.
Device& Device::instance() {
  static auto* device = new Device;
  return *device;
}

void Device::launch(void* handle, std::array<uint32_t, 3> grid, std::array<uint32_t, 3> block, uint32_t dynamic_lds,
                    void* stream, void* const* parameters, void* const* extra) {
  streams.check(stream, Status::invalid_value);
  const Function function = modules.function(handle);
  check_shape(*function.kernel, grid, block, dynamic_lds);
  const Launch launch{function, grid, block, dynamic_lds, argument_segment(*function.kernel, parameters, extra)};
  if (!streams.record(stream, launch)) run(launch);
}

void Device::launch_graph(void* executable, void* stream) {
  streams.check(stream, Status::invalid_value);
  if (streams.status(stream) != CaptureStatus::none) {
    throw Rejection(Status::capture_unsupported, "a graph launched on a stream under capture");
  }
  for (const Launch& launch : *graphs.launches(executable)) run(launch);
}

void Device::run(const Launch& launch) {
  const Options chosen = options();
  emulator::Launch request;
  request.kernel = launch.function.kernel->name;
  request.grid = launch.grid;
  request.block = launch.block;
  request.dynamic_lds = launch.dynamic_lds;
  request.kernarg = launch.arguments;
  request.workgroups = chosen.workgroups;
  request.waves = chosen.waves;
  request.seed = chosen.seed;
  request.threads = chosen.threads;
  const auto lock = memory.lock();
  request.memory = memory.ranges();
  try {
    launch.function.program->launch(request);
  } catch (const emulator::Fault& fault) {
    throw Rejection(Status::launch_failure, fault.what());
  }
}

void Device::set(const Options& options) {
  const std::lock_guard lock(mutex_);
  options_ = options;
}

Options Device::options() const {
  const std::lock_guard lock(mutex_);
  return options_;
}

}  // namespace updp::standin
