// Scalar loads: through the constant cache, into scalar registers.

#include "operations.h"
#include "wave.h"

namespace updp::emulator {
namespace {

template <int dwords> void execute_load(Wave& wave, const Instruction& i) {
  const Operand& base = i.sources[0];
  const u32 register_offset = i.sources[3] ? static_cast<u32>(wave.read(i.sources[3])) : 0;
  u64 address = wave.pair(base.index);
  if (base.count == 4) address &= 0xffffffffffff;  // a buffer's descriptor
  address += register_offset + static_cast<u64>(i64{i.offset});
  address &= ~u64{3};
  constexpr u64 bytes = 4 * dwords;
  Memory& memory = wave.group->memory;
  if (!memory.allows(address, address + bytes, false)) fail(-1, "%s", memory.complaint(address, bytes, false).c_str());
  if (i.result.index + dwords > int{kScalarRegisters}) fail(-1, "there are no registers for %d dwords", dwords);
  std::memcpy(wave.scalars + i.result.index, reinterpret_cast<const void*>(address), bytes);
  wave.waits.issue_scalar(i, i.result);
}

void execute_cache(Wave&, const Instruction&) {}

void execute_clock(Wave& wave, const Instruction& i) {
  wave.write(i.result, 4 * wave.executed);
  wave.waits.issue_scalar(i, i.result);
}

constexpr Type type_of_dwords(int dwords) {
  return dwords == 1   ? Type::u32
         : dwords == 2 ? Type::u64
         : dwords == 4 ? Type::b128
         : dwords == 8 ? Type::b256
                       : Type::b512;
}

constexpr Operation row(const char* name, u16 number, Type result, Type base,
                        void (*execute)(Wave&, const Instruction&)) {
  Operation operation{name, Encoding::smem, number, Kind::scalar_memory, result, {base}, execute};
  operation.access = base == Type::none ? Access::none : Access::load;
  return operation;
}

#define SCALAR_LOAD(number, name, dwords, base) \
  row(#name, number, type_of_dwords(dwords), Type::base, execute_load<dwords>),
#define SCALAR_CACHE(number, name) row(#name, number, Type::none, Type::none, execute_cache),
#define SCALAR_CLOCK(number, name) row(#name, number, Type::u64, Type::none, execute_clock),

const Operation kRows[] = {
#include "scalar_memory.def"
};

}  // namespace

Rows scalar_memory_rows() { return {std::begin(kRows), std::end(kRows)}; }

}  // namespace updp::emulator
