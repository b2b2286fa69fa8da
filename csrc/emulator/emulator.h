// Runs gfx908 (AMD MI100, CDNA1) kernels on the CPU, lane by lane, and says what they did wrong.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../code_object.h"

namespace updp::emulator {

// Something real hardware would not do right: an access out of bounds, a register read before its load was waited
// for, an instruction that is not known, ... The message names kernel, workgroup, wave, pc, lane and instruction.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Bytes of the host's memory that a kernel may touch.
struct Range {
  uint64_t begin, end;
  bool writable;
};

// What a launch executed, summed over its waves.
struct Counters {
  uint64_t waves, workgroups;
  uint64_t instructions;                        // all of them, a wave's each counted once
  uint64_t scalar, vector, matrix, lds, global, scalar_memory, barriers, waits;  // by kind
  uint64_t matrix_cycles, matrix_flops;         // cycles of a SIMD's matrix unit
  uint64_t vector_cycles;                       // 4 an instruction on 64 lanes, more for transcendental and 64-bit ones
  uint64_t lds_bytes, lds_cycles, lds_conflict_cycles;  // of a CU's LDS: 128 bytes a cycle; conflicts: above the least
  uint64_t global_loaded_bytes, global_stored_bytes;    // asked for by active lanes
  uint64_t global_lines;                        // 64-byte lines touched, each counted once an instruction
  uint64_t l2_lines;                            // ... those stored to, or not held by an L1 of `Launch::l1_bytes`
};

// How often a launch's waves executed the instruction at an address (relative to the image's base); not those never met.
using Executions = std::vector<std::pair<uint64_t, uint64_t>>;

enum class Order { forward, backward, shuffled };

struct Launch {
  std::string kernel;
  std::array<uint32_t, 3> grid{1, 1, 1};        // workgroups
  std::array<uint32_t, 3> block{64, 1, 1};      // lanes a workgroup
  uint32_t dynamic_lds = 0;                     // bytes
  std::vector<uint8_t> kernarg;                 // the whole argument segment but the hidden arguments, filled in here
  std::vector<Range> memory;
  Order workgroups = Order::forward;
  Order waves = Order::forward;                 // of a workgroup, between barriers: forward or backward
  uint64_t seed = 0;                            // of shuffled workgroups
  uint64_t first_workgroup = 0, workgroup_count = ~0ull;  // a part of the grid, to sample a large launch
  uint32_t l1_bytes = 0;                        // of a workgroup's own L1, for l2_lines only
  uint64_t max_instructions = 0;                // a wave; 0: no limit
  unsigned threads = 1;                         // of the host; 0: as many as it has
};

struct Line {
  uint64_t address;                             // relative to the image's base
  uint32_t bytes;
  std::string mnemonic, operands;
};

// A code object loaded for execution. Its launches may run side by side.
class Program {
 public:
  explicit Program(const CodeObject& code);     // throws CodeObjectError for an architecture that is not gfx908
  ~Program();
  Program(Program&&) noexcept;

  const CodeObject& code() const;
  Counters launch(const Launch& request, Executions* executions = nullptr) const;  // throws Fault
  std::vector<Line> disassemble(std::string_view kernel) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace updp::emulator
