// Scalar operations: arithmetic, branches, barriers and waits. Their table is scalar.def.

#include <type_traits>

#include "operations.h"
#include "wave.h"

namespace updp::emulator {
namespace {

using none = void;

u32 add_with_carry(u32 a, u32 b, u32 carry, u32& scc) {
  const u64 sum = u64{a} + b + carry;
  scc = sum >> 32 != 0;
  return static_cast<u32>(sum);
}
u32 subtract_with_borrow(u32 a, u32 b, u32 borrow, u32& scc) {
  const u64 difference = u64{a} - b - borrow;
  scc = difference >> 32 != 0;
  return static_cast<u32>(difference);
}
i32 add_with_overflow(i32 a, i32 b, u32& scc) {
  i32 sum;
  scc = __builtin_add_overflow(a, b, &sum);
  return sum;
}
i32 subtract_with_overflow(i32 a, i32 b, u32& scc) {
  i32 difference;
  scc = __builtin_sub_overflow(a, b, &difference);
  return difference;
}
u32 shift_and_add(u32 a, int shift, u32 b, u32& scc) {
  const u64 sum = (u64{a} << shift) + b;
  scc = sum >> 32 != 0;
  return static_cast<u32>(sum);
}
// Bit i: any of the bits 4i to 4i+3.
u64 quad_mask(u64 lanes) {
  u64 result = 0;
  for (int quad = 0; quad < 16; quad++) result |= u64{(lanes >> 4 * quad & 15) != 0} << quad;
  return result;
}
u64 whole_quads(u64 lanes) {
  u64 result = 0;
  for (int quad = 0; quad < 16; quad++) result |= (lanes >> 4 * quad & 15 ? u64{15} : 0) << 4 * quad;
  return result;
}
u64 replicate_bits(u32 value) {
  u64 result = 0;
  for (int i = 0; i < 32; i++) result |= u64{value >> i & 1} * 3 << 2 * i;
  return result;
}

template <class T> T read(const Wave& wave, const Operand& operand) { return static_cast<T>(wave.read(operand)); }
template <class T> void write(Wave& wave, const Operand& operand, T value) {
  wave.write(operand, static_cast<u64>(static_cast<std::make_unsigned_t<T>>(value)));
}

// The address that follows an instruction, as the kernel sees it.
u64 return_address(const Wave& wave, const Instruction& i) { return wave.group->code.base + i.address + 4 * i.words; }

void jump(Wave& wave, u64 address) {
  const Code& code = wave.group->code;
  wave.next = code.at(address - code.base);
  if (!wave.next)
    fail(-1, "jumps to 0x%llx, where no instruction of the code object begins", (unsigned long long)address);
}

void execute_s_getpc_b64(Wave& wave, const Instruction& i) { wave.write(i.result, return_address(wave, i)); }
void execute_s_setpc_b64(Wave& wave, const Instruction& i) { jump(wave, wave.read(i.sources[0])); }
void execute_s_swappc_b64(Wave& wave, const Instruction& i) {
  const u64 target = wave.read(i.sources[0]);
  wave.write(i.result, return_address(wave, i));
  jump(wave, target);
}
void branch(Wave& wave, const Instruction& i) {
  if (!i.target) fail(-1, "branches to where no instruction begins");
  wave.next = i.target;
}
void execute_s_call_b64(Wave& wave, const Instruction& i) {
  wave.write(i.result, return_address(wave, i));
  branch(wave, i);
}

// Of the hardware's registers only the apertures of flat addresses are modelled; the others read as 0.
void execute_s_getreg_b32(Wave& wave, const Instruction& i) {
  constexpr u32 kShMemBases = 15;
  const u32 hardware = i.offset & 63, first = i.offset >> 6 & 31, bits = (i.offset >> 11 & 31) + 1;
  const u32 value = hardware == kShMemBases ? (kSharedBase & 0xffff0000) | kPrivateBase >> 16 : 0;
  wave.write(i.result, extract_bits<u32>(value, first | bits << 16));
}
// Rounding and denormal modes are the host's: nearest even, denormals kept.
void execute_s_setreg_b32(Wave&, const Instruction&) {}
void execute_s_setreg_imm32_b32(Wave&, const Instruction&) {}

void set_index(Wave& wave, u32 index) { wave.scalars[kM0] = (wave.scalars[kM0] & ~255u) | (index & 255); }
void execute_s_set_gpr_idx_on(Wave& wave, const Instruction& i) {
  set_index(wave, static_cast<u32>(wave.read(i.sources[0])));
  wave.index_mode = i.offset & 15;
}
void execute_s_set_gpr_idx_off(Wave& wave, const Instruction&) { wave.index_mode = 0; }
void execute_s_set_gpr_idx_mode(Wave& wave, const Instruction& i) { wave.index_mode = i.offset & 15; }

void nothing(Wave&, const Instruction&) {}
void execute_s_nop(Wave&, const Instruction&) {}
void execute_s_endpgm(Wave& wave, const Instruction&) { wave.state = Wave::State::ended; }
void execute_s_trap(Wave&, const Instruction&) { fail(-1, "the kernel trapped"); }

void execute_s_barrier(Wave& wave, const Instruction&) {
  if (const Instruction* write = wave.waits.outstanding_lds_write()) {
    const auto [mnemonic, operands] = disassemble(*write);
    fail(-1, "others may read LDS too early: %s %s at pc 0x%x has not been waited for (s_waitcnt lgkmcnt)",
         mnemonic.c_str(), operands.c_str(), write->address);
  }
  wave.state = Wave::State::at_barrier;
}
void execute_s_waitcnt(Wave& wave, const Instruction& i) {
  const unsigned vmcnt = (i.offset & 15) | (i.offset >> 10 & 0x30), lgkmcnt = i.offset >> 8 & 15;
  wave.waits.wait(vmcnt, lgkmcnt);
}

#define SOP2(number, name, D, A, B, expression)                                   \
  void execute_##name(Wave& wave, const Instruction& i) {                         \
    [[maybe_unused]] u32& scc = wave.scc;                                         \
    const A a = read<A>(wave, i.sources[0]);                                      \
    const B b = read<B>(wave, i.sources[1]);                                      \
    write<D>(wave, i.result, static_cast<D>(expression));                         \
  }
#define SOP2_SCC(number, name, D, A, B, expression) \
  SOP2(number, name, D, A, B, set_scc<D>(scc, expression))
#define SOP1(number, name, D, A, expression)                                      \
  void execute_##name(Wave& wave, const Instruction& i) {                         \
    [[maybe_unused]] u32& scc = wave.scc;                                         \
    [[maybe_unused]] const D old = read<D>(wave, i.result);                       \
    const A a = read<A>(wave, i.sources[0]);                                      \
    write<D>(wave, i.result, static_cast<D>(expression));                         \
  }
#define SOP1_SCC(number, name, D, A, expression) SOP1(number, name, D, A, set_scc<D>(scc, expression))
#define SOP1_OTHER(number, name, D, A)
#define SAVE_EXEC(number, name, expression)                                       \
  void execute_##name(Wave& wave, const Instruction& i) {                         \
    const u64 a = wave.read(i.sources[0]), exec = wave.exec();                    \
    wave.set_pair(kExec, expression);                                             \
    wave.write(i.result, exec);                                                   \
    wave.scc = wave.exec() != 0;                                                  \
  }
#define WRITE_EXEC(number, name, expression)                                      \
  void execute_##name(Wave& wave, const Instruction& i) {                         \
    const u64 a = wave.read(i.sources[0]), exec = wave.exec();                    \
    wave.set_pair(kExec, expression);                                             \
    wave.write(i.result, wave.exec());                                            \
    wave.scc = wave.exec() != 0;                                                  \
  }
#define SOPC(number, name, A, B, expression)                                      \
  void execute_##name(Wave& wave, const Instruction& i) {                         \
    const A a = read<A>(wave, i.sources[0]);                                      \
    const B b = read<B>(wave, i.sources[1]);                                      \
    wave.scc = (expression) != 0;                                                 \
  }
#define SOPC_OTHER(number, name)
#define SOPK(number, name, expression)                                            \
  void execute_##name(Wave& wave, const Instruction& i) {                         \
    [[maybe_unused]] u32& scc = wave.scc;                                         \
    [[maybe_unused]] const i32 old = read<i32>(wave, i.result);                   \
    const i32 k = static_cast<i16>(i.offset);                                     \
    write<i32>(wave, i.result, expression);                                       \
  }
#define SOPK_COMPARE(number, name, A, expression)                                 \
  void execute_##name(Wave& wave, const Instruction& i) {                         \
    const A a = read<A>(wave, i.sources[0]);                                      \
    const i32 k = static_cast<i16>(i.offset);                                     \
    wave.scc = expression;                                                        \
  }
#define SOPK_OTHER(number, name, D, A)
#define SOPK_CONSTANT(number, name)
#define SOPP_OTHER(number, name, kind)
#define SOPP_NOTHING(number, name)
#define BRANCH(number, name, condition)                                           \
  void execute_##name([[maybe_unused]] Wave& wave, const Instruction& i) {        \
    if (condition) branch(wave, i);                                               \
  }

template <class T> T set_scc(u32& scc, T value) {
  scc = value != 0;
  return value;
}

#include "scalar.def"

#undef SOP2
#undef SOP2_SCC
#undef SOP1
#undef SOP1_SCC
#undef SOP1_OTHER
#undef SAVE_EXEC
#undef WRITE_EXEC
#undef SOPC
#undef SOPC_OTHER
#undef SOPK
#undef SOPK_COMPARE
#undef SOPK_OTHER
#undef SOPK_CONSTANT
#undef SOPP_OTHER
#undef SOPP_NOTHING
#undef BRANCH

constexpr Operation row(const char* name, Encoding encoding, u16 number, Type result, Type a, Type b,
                        void (*execute)(Wave&, const Instruction&), Kind kind = Kind::scalar) {
  return {name, encoding, number, kind, result, {a, b, Type::none}, execute};
}

constexpr Operation with_constant(Operation operation) {
  operation.encoded_constant = true;
  return operation;
}

#define SOP2(number, name, D, A, B, expression) \
  row(#name, Encoding::sop2, number, type_of<D>, type_of<A>, type_of<B>, execute_##name),
#define SOP2_SCC SOP2
#define SOP1(number, name, D, A, expression) \
  row(#name, Encoding::sop1, number, type_of<D>, type_of<A>, Type::none, execute_##name),
#define SOP1_SCC SOP1
#define SOP1_OTHER(number, name, D, A) SOP1(number, name, D, A, )
#define SAVE_EXEC(number, name, expression) SOP1(number, name, u64, u64, )
#define WRITE_EXEC(number, name, expression) SOP1(number, name, u64, u64, )
#define SOPC(number, name, A, B, expression) \
  row(#name, Encoding::sopc, number, Type::none, type_of<A>, type_of<B>, execute_##name),
#define SOPC_OTHER(number, name) SOPC(number, name, u32, none, )
#define SOPK_OTHER(number, name, D, A) \
  row(#name, Encoding::sopk, number, type_of<D>, type_of<A>, Type::none, execute_##name),
#define SOPK_CONSTANT(number, name) \
  with_constant(row(#name, Encoding::sopk, number, Type::none, Type::none, Type::none, execute_##name)),
#define SOPK(number, name, expression) SOPK_OTHER(number, name, i32, none)
#define SOPK_COMPARE(number, name, A, expression) SOPK_OTHER(number, name, none, A)
#define SOPP_OTHER(number, name, kind) \
  row(#name, Encoding::sopp, number, Type::none, Type::none, Type::none, execute_##name, Kind::kind),
#define SOPP_NOTHING(number, name) \
  row(#name, Encoding::sopp, number, Type::none, Type::none, Type::none, nothing),
#define BRANCH(number, name, condition) SOPP_OTHER(number, name, scalar)

const Operation kRows[] = {
#include "scalar.def"
};

}  // namespace

Rows scalar_rows() { return {std::begin(kRows), std::end(kRows)}; }

}  // namespace updp::emulator
