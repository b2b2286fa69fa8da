// The state of a wave and of its workgroup while they execute.
#pragma once

#include <cstdarg>

#include "emulator.h"
#include "first_level.h"
#include "lanes.h"
#include "lds_timing.h"
#include "memory.h"
#include "waits.h"

namespace updp::emulator {

// Scalar registers with a name.
constexpr unsigned kFlatScratch = 102, kVcc = 106, kM0 = 124, kExec = 126, kScalarRegisters = 128;

// Apertures: addresses that flat instructions take for LDS and for private memory.
constexpr u32 kSharedBase = 0x01000000, kPrivateBase = 0x02000000;  // high halves

// What an instruction did wrong; run() adds where.
struct Mistake {
  std::string what;
  int lane;  // -1: not one lane's
};
[[noreturn, gnu::format(printf, 2, 3)]] void fail(int lane, const char* format, ...);

// Instructions of a code object, in the order of their addresses.
struct Code {
  std::vector<Instruction> instructions;
  std::vector<Use> uses;
  std::vector<i32> at_word;        // index of the instruction that begins there, -1 inside of one
  u64 text_address = 0;
  u64 base = 0;                    // where the image lies in the host's memory

  const Instruction* at(u64 address) const {  // relative to the image; null where no instruction begins
    const u64 offset = address - text_address;
    if (offset % 4 || offset / 4 >= at_word.size() || at_word[offset / 4] < 0) return nullptr;
    return &instructions[at_word[offset / 4]];
  }
};

// Only what depends on addresses; the rest follows from how often each instruction was executed.
struct MemoryCounters {
  u64 lds_bytes = 0, lds_cycles = 0, lds_conflict_cycles = 0, loaded_bytes = 0, stored_bytes = 0;
  u64 lines = 0, second_level_lines = 0;
};

struct Workgroup {
  const Code& code;
  Memory& memory;
  MemoryCounters counters;
  std::vector<u8> lds;
  u32 scratch_bytes;   // a lane
  LdsTiming lds_timing;
  FirstLevel first_level;

  u8* lds_at(u64 address, u32 bytes, int lane) {
    if (address + bytes > lds.size()) fail_lds(address, bytes, lane);
    return lds.data() + address;
  }
  [[noreturn]] void fail_lds(u64 address, u32 bytes, int lane) const;
};

struct alignas(64) Wave {
  u32 vectors[512][kLanes];      // v0-v255, a0-a255
  u32 scalars[kScalarRegisters];
  u32 scc;
  const Instruction* pc;
  const Instruction* next;
  Workgroup* group;
  Waits waits;
  u64 executed;                  // instructions
  enum class State : u8 { running, at_barrier, ended } state;
  u8 index_mode;                 // s_set_gpr_idx: bits 0-2 the sources, bit 3 the result are offset by M0
  std::vector<u8> scratch;       // scratch_bytes for lane 0, for lane 1, ...

  u64 pair(unsigned index) const { return join(scalars[index], scalars[index + 1]); }
  void set_pair(unsigned index, u64 value) {
    scalars[index] = static_cast<u32>(value);
    scalars[index + 1] = static_cast<u32>(value >> 32);
  }
  u64 exec() const { return pair(kExec); }

  // EXEC as ~0 or 0 a lane.
  const u32* active() {
    if (expanded_exec_ != exec()) {
      expanded_exec_ = exec();
      expand(expanded_exec_, active_);
    }
    return active_;
  }

  // A scalar operand.
  u64 read(const Operand& operand) const {
    switch (operand.kind) {
      case Operand::Kind::scalar:
        return operand.count > 1 ? pair(operand.index) : scalars[operand.index];
      case Operand::Kind::constant: return operand.value;
      case Operand::Kind::special: return read_special(operand);
      default: fail(-1, "a vector register where a scalar one has to be");
    }
  }
  void write(const Operand& operand, u64 value) {
    if (operand.count > 1) set_pair(operand.index, value);
    else scalars[operand.index] = static_cast<u32>(value);
  }
  u64 read_special(const Operand& operand) const;

  // A vector operand: the registers themselves, or what is the same in all lanes written into `buffer` (2 registers).
  const u32* read_lanes(const Operand& operand, u32* buffer) const {
    if (operand.kind == Operand::Kind::vector) return vectors[operand.index];
    if (operand.kind == Operand::Kind::constant) return operand.broadcast;
    if (operand.type == Type::lanes) {
      expand(read(operand), buffer);
      return buffer;
    }
    const u64 value = read(operand);
    std::fill_n(buffer, kLanes, static_cast<u32>(value));
    if (operand.count > 1) std::fill_n(buffer + kLanes, kLanes, static_cast<u32>(value >> 32));
    return buffer;
  }

  u8* scratch_at(u64 offset, u32 bytes, int lane);

  // Registers (so many vector ones, and as many accumulators) and private memory all ones, which as numbers are NaN.
  void reset(unsigned registers);

 private:
  u64 expanded_exec_ = 0;
  alignas(32) u32 active_[kLanes] = {};
};

// Executes a wave up to its next barrier or its end. `executions` counts by instruction. Throws Mistake.
void run(Wave& wave, u64* executions, u64 max_instructions);

}  // namespace updp::emulator
