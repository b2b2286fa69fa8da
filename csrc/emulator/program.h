// A code object made ready to execute: its image in memory, its instructions decoded.
#pragma once

#include <cstdlib>
#include <memory>

#include "emulator.h"
#include "wave.h"

namespace updp::emulator {

struct Program::Impl {
  CodeObject object;
  struct Free {
    void operator()(u8* memory) const { std::free(memory); }
  };
  std::unique_ptr<u8, Free> image;
  Code code;
};

}  // namespace updp::emulator
