// Operands as the encodings' source fields give them: registers, inline constants, literals.
#pragma once

#include "operations.h"

namespace updp::emulator {

constexpr u32 field(u32 word, int first, int bits) { return word >> first & ((1u << bits) - 1); }
constexpr i32 signed_field(u32 word, int first, int bits) {
  return static_cast<i32>(word << (32 - first - bits)) >> (32 - bits);
}

class OperandDecoder {
 protected:
  static constexpr unsigned kFirstAccumulator = 256;

  OperandDecoder(const u32* words, size_t available) : words_(words), available_(available) {}

  Operand scalar(unsigned index, Type type) const;
  Operand vector(unsigned index, Type type) const;

  // A source field of 8 or 9 bits; it may take a literal. `half`: a mix operand that is f16.
  Operand source(unsigned code, Type type, bool half = false);

  // The 32-bit constant that follows the words so far.
  Operand literal_operand(Type type);

  size_t available() const { return available_; }

  bool known_ = true;
  Instruction i_;

 private:
  Operand constant(unsigned code, Type type, u64 value) const;

  const u32* const words_;
  const size_t available_;
};

}  // namespace updp::emulator
