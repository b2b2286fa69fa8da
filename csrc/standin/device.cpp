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

void* Streams::create() {
  const std::lock_guard lock(mutex_);
  auto stream = std::make_unique<char>();
  void* handle = stream.get();
  streams_.emplace(handle, std::move(stream));
  return handle;
}

void Streams::destroy(void* stream) {
  const std::lock_guard lock(mutex_);
  if (streams_.erase(stream) == 0) throw Rejection(Status::context_is_destroyed, "no stream, or a destroyed one");
}

void Streams::check(void* stream, Status otherwise) const {
  const auto handle = reinterpret_cast<uintptr_t>(stream);
  if (handle <= 2) return;  // null, hipStreamLegacy, hipStreamPerThread
  const std::lock_guard lock(mutex_);
  if (streams_.count(stream) == 0) throw Rejection(otherwise, "no stream, or a destroyed one");
}

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
  const Options chosen = options();
  emulator::Launch request;
  request.kernel = function.kernel->name;
  request.grid = grid;
  request.block = block;
  request.dynamic_lds = dynamic_lds;
  request.kernarg = argument_segment(*function.kernel, parameters, extra);
  request.workgroups = chosen.workgroups;
  request.waves = chosen.waves;
  request.seed = chosen.seed;
  request.threads = chosen.threads;
  const auto lock = memory.lock();
  request.memory = memory.ranges();
  try {
    function.program->launch(request);
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
