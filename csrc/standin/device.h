// One pretended MI100: its memory, modules and streams, and how it launches a kernel.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>

#include "memory.h"
#include "modules.h"
#include "status.h"

namespace updp::standin {

// Handles only: whatever is put on a stream has ended when the call returns. Calls throw Rejection.
class Streams {
 public:
  void* create();
  void destroy(void* stream);
  // Throws a rejection of status `otherwise` for anything else than a live stream or one of the default streams.
  void check(void* stream, Status otherwise) const;

 private:
  mutable std::mutex mutex_;
  std::map<void*, std::unique_ptr<char>> streams_;
};

// In which order, and how, kernels run.
struct Options {
  emulator::Order workgroups = emulator::Order::forward, waves = emulator::Order::forward;
  uint64_t seed = 0;
  unsigned threads = 1;
};

class Device {
 public:
  static Device& instance();

  // Runs a kernel to its end. A kernel that goes wrong is a rejection with the emulator's message.
  void launch(void* function, std::array<uint32_t, 3> grid, std::array<uint32_t, 3> block, uint32_t dynamic_lds,
              void* stream, void* const* parameters, void* const* extra);
  void set(const Options& options);

  Memory memory;
  Modules modules;
  Streams streams;

 private:
  Options options() const;

  mutable std::mutex mutex_;
  Options options_;
};

}  // namespace updp::standin
