#include "wave.h"

#include <cstdio>

namespace updp::emulator {

void fail(int lane, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  va_list again;
  va_copy(again, arguments);
  std::string text(std::vsnprintf(nullptr, 0, format, arguments), '\0');
  std::vsnprintf(text.data(), text.size() + 1, format, again);
  va_end(again);
  va_end(arguments);
  throw Mistake{std::move(text), lane};
}

void Workgroup::fail_lds(u64 address, u32 bytes, int lane) const {
  fail(lane, "accesses %u bytes of LDS at 0x%llx; the workgroup has %zu", bytes, (unsigned long long)address,
       lds.size());
}

u64 Wave::read_special(const Operand& operand) const {
  const auto aperture = [&](u32 high) { return operand.count > 1 ? u64{high} << 32 : high; };
  switch (static_cast<Special>(operand.code)) {
    case Special::shared_base: return aperture(kSharedBase);
    case Special::shared_limit: return aperture(kSharedBase) | 0xffff;
    case Special::private_base: return aperture(kPrivateBase);
    case Special::private_limit: return aperture(kPrivateBase) | 0xffff;
    case Special::vccz: return pair(kVcc) == 0;
    case Special::execz: return exec() == 0;
    case Special::scc: return scc;
  }
  return 0;
}

u8* Wave::scratch_at(u64 offset, u32 bytes, int lane) {
  if (offset + bytes > group->scratch_bytes) {
    fail(lane, "accesses %u bytes of private memory at 0x%llx; a lane has %u", bytes, (unsigned long long)offset,
         group->scratch_bytes);
  }
  return scratch.data() + u64{group->scratch_bytes} * lane + offset;
}

void Wave::reset(unsigned registers) {
  std::memset(vectors, 0xff, registers * sizeof vectors[0]);
  std::memset(vectors + 256, 0xff, registers * sizeof vectors[0]);
  std::memset(scalars, 0xff, sizeof scalars);
  scc = 0;
  executed = 0;
  state = State::running;
  index_mode = 0;
  scratch.assign(u64{group->scratch_bytes} * kLanes, 0xff);
  waits.clear();
}

std::string Memory::complaint(u64 address, u64 bytes, bool write) const {
  const auto hexadecimal = [](u64 value) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", (unsigned long long)value);
    return std::string(text);
  };
  std::string text =
      std::string(write ? "writes " : "reads ") + std::to_string(bytes) + " bytes at " + hexadecimal(address);
  const Named* nearest = nullptr;
  u64 distance = ~u64{0};
  for (const Named& range : ranges_) {
    if (range.begin <= address && address + bytes <= range.end)
      return text + ", in " + range.name + ", which is read-only";
    const u64 away = address < range.begin ? range.begin - address : address < range.end ? 0 : address - range.end;
    if (away < distance) {
      distance = away;
      nearest = &range;
    }
  }
  if (!nearest || distance > u64{1} << 30) return text + ", far from all memory of the launch";
  if (address < nearest->begin) text += ", " + std::to_string(nearest->begin - address) + " bytes before the begin of ";
  else if (address < nearest->end)
    text += ", " + std::to_string(address + bytes - nearest->end) + " of them past the end of ";
  else text += ", " + std::to_string(distance) + " bytes past the end of ";
  return text + nearest->name + " (" + hexadecimal(nearest->begin) + " to " + hexadecimal(nearest->end) + ")";
}

namespace {

// Faults if a register that the instruction reads or overwrites is still to be written by a load.
void check_arrivals(const Wave& wave, const Instruction& i) {
  const Use* use = wave.group->code.uses.data() + i.uses.first;
  for (u32 k = 0; k < i.uses.second; k++, use++) {
    if (!wave.waits.blocked(*use)) continue;
    const Waits::Culprit culprit = wave.waits.culprit(*use);
    const bool vector = culprit.slot >= Waits::kScalars;
    const std::string name = register_name(vector ? Operand::Kind::vector : Operand::Kind::scalar,
                                           vector ? culprit.slot - Waits::kScalars : culprit.slot, 1);
    const auto [mnemonic, operands] = disassemble(*culprit.load);
    fail(-1, "uses %s before %s %s at pc 0x%x has been waited for (s_waitcnt %s)", name.c_str(), mnemonic.c_str(),
         operands.c_str(), culprit.load->address, culprit.vector ? "vmcnt" : "lgkmcnt");
  }
}

// Between s_set_gpr_idx_on and _off M0 is added to the numbers of vector registers.
void execute_indexed(Wave& wave, const Instruction& i) {
  Instruction moved = i;
  const u32 offset = wave.scalars[kM0] & 255;
  const auto move = [&](Operand& operand, int bit) {
    if (operand.kind != Operand::Kind::vector || operand.index >= 256 || !(wave.index_mode >> bit & 1)) return;
    operand.index += offset;
    if (operand.index + operand.count > 256) fail(-1, "indexes a register beyond v255");
  };
  for (int k = 0; k < 3; k++) move(moved.sources[k], k);
  move(moved.result, 3);
  i.execute(wave, moved);
}

}  // namespace

void run(Wave& wave, u64* executions, u64 max_instructions) {
  const Instruction* const first = wave.group->code.instructions.data();
  wave.state = Wave::State::running;
  while (wave.state == Wave::State::running) {
    const Instruction& i = *wave.pc;
    if (!i.execute) fail(-1, "the instruction is not known");
    executions[&i - first]++;
    if (++wave.executed > max_instructions) {
      fail(-1, "the wave has executed more than %llu instructions", (unsigned long long)max_instructions);
    }
    if (!wave.waits.idle()) check_arrivals(wave, i);
    wave.next = &i + 1;
    if (wave.index_mode && i.operation->kind == Kind::vector) execute_indexed(wave, i);
    else i.execute(wave, i);
    wave.pc = wave.next;
  }
}

}  // namespace updp::emulator
