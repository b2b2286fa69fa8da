// The modules of the pretended device and their kernels, behind the handles that a caller holds.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "../emulator/emulator.h"

namespace updp::standin {

struct Function {
  std::shared_ptr<const emulator::Program> program;  // lives as long as a launch that began before the module's end
  const Kernel* kernel;
};

// Calls throw Rejection.
class Modules {
 public:
  // `image` is trusted to be as long as its own header says, as by the real runtime, which is not told its size either.
  void* load(const void* image);
  void unload(void* module);
  void* function(void* module, const std::string& name);
  Function function(void* handle) const;

 private:
  struct Module {
    std::shared_ptr<const emulator::Program> program;
    std::map<std::string, std::unique_ptr<Function>> functions;
  };

  mutable std::mutex mutex_;
  std::map<void*, std::unique_ptr<Module>> modules_;
  std::set<void*> functions_;
};

// The argument segment of `kernel` without its hidden arguments, from what hipModuleLaunchKernel was given.
std::vector<uint8_t> argument_segment(const Kernel& kernel, void* const* parameters, void* const* extra);

}  // namespace updp::standin
