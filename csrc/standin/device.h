// One pretended MI100: its memory, modules and streams, and how it launches a kernel.
#pragma once

#include <array>
#include <mutex>

#include "graphs.h"
#include "memory.h"
#include "modules.h"
#include "status.h"

namespace updp::standin {

// In which order, and how, kernels run.
struct Options {
  emulator::Order workgroups = emulator::Order::forward, waves = emulator::Order::forward;
  uint64_t seed = 0;
  unsigned threads = 1;
};

class Device {
 public:
  static Device& instance();

  // Runs a kernel to its end, or records it where the stream is under capture. A kernel that goes wrong is a rejection
  // with the emulator's message.
  void launch(void* function, std::array<uint32_t, 3> grid, std::array<uint32_t, 3> block, uint32_t dynamic_lds,
              void* stream, void* const* parameters, void* const* extra);
  // Runs all launches of an executable graph, one after the other.
  void launch_graph(void* executable, void* stream);
  void set(const Options& options);

  Memory memory;
  Modules modules;
  Streams streams;
  Graphs graphs;

 private:
  void run(const Launch& launch);
  Options options() const;

  mutable std::mutex mutex_;
  Options options_;
};

}  // namespace updp::standin
