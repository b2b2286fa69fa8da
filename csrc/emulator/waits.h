// The model of s_waitcnt: which registers are still to be written by loads, and may not be touched before their wait.
//
// Values arrive at once in the emulator; only marks are kept. gfx9 counts two things. vmcnt: vector loads, stores and
// returning atomics, which complete in order. lgkmcnt: LDS operations, in order among themselves, and scalar loads,
// which complete in any order: while one is outstanding only lgkmcnt(0) guarantees anything. A flat operation counts as
// both, completes in any order, and so makes both reliable at 0 only.
#pragma once

#include <array>
#include <vector>

#include "instruction.h"

namespace updp::emulator {

class Waits {
 public:
  // Why a register is not to be touched. A load may overwrite what an earlier one of its own ordered kind will write.
  enum Reason : u8 { kVector = 1, kLds = 2, kUnordered = 4, kAny = 7 };
  static constexpr unsigned kScalars = 128, kRegisters = kScalars + 512;

  static unsigned slot(const Operand& operand) {
    return operand.kind == Operand::Kind::vector ? kScalars + operand.index : operand.index;
  }

  bool idle() const { return vector_.count == 0 && other_.count == 0; }
  bool blocked(const Use& use) const {
    u64 marks;
    std::memcpy(&marks, pending_.data() + use.first, sizeof marks);
    return marks & use.blocks;
  }

  // A memory operation was issued; `target` (perhaps none) is what it will write.
  void issue_vector(const Instruction& by, const Operand& target) { issue(vector_, kVector, by, target); }
  void issue_lds(const Instruction& by, const Operand& target) { issue(other_, kLds, by, target); }
  void issue_scalar(const Instruction& by, const Operand& target) {
    other_.unordered++;
    issue(other_, kUnordered, by, target);
  }
  void issue_flat(const Instruction& by, const Operand& target) {
    vector_.unordered++;
    other_.unordered++;
    issue(vector_, kUnordered, by, target);
    issue(other_, kUnordered, by, target);
  }

  // s_waitcnt: at most so many are outstanding afterwards.
  void wait(unsigned vmcnt, unsigned lgkmcnt) {
    retire(vector_, vmcnt);
    retire(other_, lgkmcnt);
  }

  // An LDS operation that was issued and not waited for, or null.
  const Instruction* outstanding_lds_write() const;

  // The load that will write a register which `use` covers, and that register's slot.
  struct Culprit {
    const Instruction* load;
    unsigned slot;
    bool vector;
  };
  Culprit culprit(const Use& use) const;

  void clear();

 private:
  struct Load {
    const Instruction* by;
    u16 first;
    u8 registers, reason;
  };
  // Operations of one counter that are not known to have completed: entries [begin, begin + count) of a ring.
  struct Queue {
    static constexpr unsigned kSize = 256;
    std::array<Load, kSize> ring;
    unsigned begin = 0, count = 0, unordered = 0;
    const Load& at(unsigned i) const { return ring[(begin + i) % kSize]; }
  };

  void issue(Queue& queue, Reason reason, const Instruction& by, const Operand& target);
  void retire(Queue& queue, unsigned remaining) {
    if (queue.count > remaining) complete(queue, remaining);
  }
  void complete(Queue& queue, unsigned remaining);
  void mark(const Load& load) { std::memset(pending_.data() + load.first, load.reason, load.registers); }

  std::array<u8, kRegisters + 8> pending_{};
  Queue vector_, other_;
};

}  // namespace updp::emulator
