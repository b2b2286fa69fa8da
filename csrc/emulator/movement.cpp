// Vector operations that move values between lanes, or between kinds of registers.

#include "operations.h"
#include "wave.h"

namespace updp::emulator {
namespace {

using Buffer = u32[2 * kLanes];

void execute_nothing(Wave&, const Instruction&) {}

void execute_readfirstlane(Wave& wave, const Instruction& i) {
  Buffer buffer;
  const u64 exec = wave.exec();
  wave.write(i.result, wave.read_lanes(i.sources[0], buffer)[exec ? __builtin_ctzll(exec) : 0]);
}

void execute_readlane(Wave& wave, const Instruction& i) {
  Buffer buffer;
  wave.write(i.result, wave.read_lanes(i.sources[0], buffer)[wave.read(i.sources[1]) % kLanes]);
}

void execute_writelane(Wave& wave, const Instruction& i) {
  wave.vectors[i.result.index][wave.read(i.sources[1]) % kLanes] = static_cast<u32>(wave.read(i.sources[0]));
}

void execute_swap(Wave& wave, const Instruction& i) {
  u32 *a = wave.vectors[i.result.index], *b = wave.vectors[i.sources[0].index];
  const u32* active = wave.active();
  for (int l = 0; l < kLanes; l++) {
    if (active[l]) std::swap(a[l], b[l]);
  }
}

struct copy {
  static u32 apply(u32 a, int, int, int, u64) { return a; }
};

Operation row(const char* name, Encoding encoding, u16 number, Type result, std::array<Type, 3> sources,
              void (*execute)(Wave&, const Instruction&)) {
  return {name, encoding, number, Kind::vector, result, sources, execute};
}
Operation with_scalar_result(Operation operation) {
  operation.scalar_result = operation.only_32_bits = true;
  operation.only_32_bits = operation.encoding != Encoding::vop3;
  return operation;
}
Operation only_32_bits(Operation operation) {
  operation.only_32_bits = true;
  return operation;
}
// Between vector registers and accumulators.
Operation accumulator_row(const char* name, u16 number, bool from_accumulator) {
  Operation operation = row(name, Encoding::matrix, number, Type::u32, {Type::u32}, execute_plain<1>);
  operation.lanes = for_lanes<copy, u32, u32, void, void, false>;
  operation.accumulator_source = from_accumulator;
  return operation;
}

const Operation kRows[] = {
    row("v_nop", Encoding::vop1, 0x00, Type::none, {}, execute_nothing),
    with_scalar_result(row("v_readfirstlane_b32", Encoding::vop1, 0x02, Type::u32, {Type::u32}, execute_readfirstlane)),
    only_32_bits(row("v_swap_b32", Encoding::vop1, 0x51, Type::u32, {Type::u32}, execute_swap)),
    with_scalar_result(
        row("v_readlane_b32", Encoding::vop3, 0x289, Type::u32, {Type::u32, Type::u32}, execute_readlane)),
    row("v_writelane_b32", Encoding::vop3, 0x28a, Type::u32, {Type::u32, Type::u32}, execute_writelane),
    accumulator_row("v_accvgpr_read_b32", 0x58, true),
    accumulator_row("v_accvgpr_write_b32", 0x59, false),
};

}  // namespace

Rows lane_rows() { return {std::begin(kRows), std::end(kRows)}; }

}  // namespace updp::emulator
