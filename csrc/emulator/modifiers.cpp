// Executes vector operations: fetches the operands, applies modifiers around the operation's loop over lanes.

#include "operations.h"
#include "wave.h"

namespace updp::emulator {
namespace {

using Register = u32[2 * kLanes];  // a 64-bit value at most

void write_mask(Wave& wave, const Instruction& i, u64 mask) {
  wave.write(i.mask, mask);
  if (i.operation->mask_to_exec) wave.set_pair(kExec, mask);
}

// The lane that a lane's DPP source comes from, or -1.
int dpp_source(int control, int lane) {
  const int row = lane & ~15, place = lane & 15, distance = control & 15;
  if (control < 0x100) return (lane & ~3) | (control >> 2 * (lane & 3) & 3);  // quad_perm
  if (control < 0x110) return place + distance < 16 ? lane + distance : -1;   // row_shl
  if (control < 0x120) return place >= distance ? lane - distance : -1;       // row_shr
  if (control < 0x130) return row | ((place - distance) & 15);                // row_ror
  switch (control) {
    case 0x130: return lane < 63 ? lane + 1 : -1;   // wave_shl
    case 0x134: return (lane + 1) & 63;             // wave_rol
    case 0x138: return lane - 1;                    // wave_shr
    case 0x13c: return (lane - 1) & 63;             // wave_ror
    case 0x140: return row | (15 - place);          // row_mirror
    case 0x141: return (lane & ~7) | (7 - (lane & 7));  // row_half_mirror
    case 0x142: return row - 1;                     // row_bcast:15, -1 in the first row
    case 0x143: return lane >= 32 ? 31 : -1;        // row_bcast:31
    default: fail(-1, "DPP control 0x%x is not known", control);
  }
}

// Moves the first source between lanes; returns the lanes that are to be written.
u64 apply_dpp(const Instruction& i, u64 exec, const u32*& source, u32* buffer) {
  u64 written = exec;
  for (int l = 0; l < kLanes; l++) {
    const int from = dpp_source(i.dpp, l);
    const bool enabled = (i.row_mask >> (l >> 4) & 1) && (i.bank_mask >> (l >> 2 & 3) & 1);
    const bool valid = from >= 0 && (exec >> from & 1);
    buffer[l] = enabled && valid ? source[from] : 0;
    if (!enabled || (!valid && !i.bound_control)) written &= ~(u64{1} << l);
  }
  source = buffer;
  return written;
}

u32 select(u32 value, unsigned selection, bool sign_extend) {
  if (selection == 6) return value;
  if (selection < 4) {
    const u32 byte = value >> 8 * selection & 255;
    return sign_extend ? i32(i8(byte)) : byte;
  }
  const u32 word = value >> 16 * (selection - 4) & 0xffff;
  return sign_extend ? i32(i16(word)) : word;
}

void apply_sdwa(const Operand& operand, const u32*& source, u32* buffer) {
  if (operand.select == 6 && !operand.sign_extend) return;
  for (int l = 0; l < kLanes; l++) buffer[l] = select(source[l], operand.select, operand.sign_extend);
  source = buffer;
}

void apply_sign(const Operand& operand, const u32*& source, u32* buffer) {
  if (!operand.negate && !operand.absolute) return;
  const bool wide = is_64_bits(operand.type);
  const u32 sign = is_16_bits(operand.type) ? 0x8000 : 0x80000000;
  const u32 kept = operand.absolute ? ~sign : ~0u, flipped = operand.negate ? sign : 0;
  if (wide) std::memmove(buffer, source, sizeof(u32) * kLanes);
  const u32* from = wide ? source + kLanes : source;
  u32* to = wide ? buffer + kLanes : buffer;
  for (int l = 0; l < kLanes; l++) to[l] = (from[l] & kept) ^ flipped;
  source = buffer;
}

// A 16-bit source from the high half.
void apply_op_sel(const u32*& source, u32* buffer) {
  for (int l = 0; l < kLanes; l++) buffer[l] = source[l] >> 16;
  source = buffer;
}

// Each half of a packed source from either half, negated or not.
void apply_packed(const Instruction& i, int k, const u32*& source, u32* buffer) {
  const int low = i.op_sel >> k & 1 ? 16 : 0, high = i.op_sel_hi >> k & 1 ? 16 : 0;
  const u32 signs = (i.negate_low >> k & 1 ? 0x8000 : 0) | (i.negate_high >> k & 1 ? 0x80000000 : 0);
  for (int l = 0; l < kLanes; l++) buffer[l] = ((source[l] >> low & 0xffff) | (source[l] >> high << 16)) ^ signs;
  source = buffer;
}

// A mix source as f32: op_sel_hi says whether it is f16, op_sel which half, neg_hi takes the absolute value.
void apply_mix(const Instruction& i, int k, const u32*& source, u32* buffer) {
  const bool half = i.op_sel_hi >> k & 1;
  const int shift = i.op_sel >> k & 1 ? 16 : 0;
  for (int l = 0; l < kLanes; l++) {
    u32 value = half ? bits<u32>(from_f16(source[l] >> shift)) : source[l];
    if (i.negate_high >> k & 1) value &= 0x7fffffff;
    if (i.negate_low >> k & 1) value ^= 0x80000000;
    buffer[l] = value;
  }
  source = buffer;
}

template <class F> F adjusted(const Instruction& i, F value) {
  constexpr F factors[] = {1, 2, 4, F(0.5)};
  value *= factors[i.output_modifier];
  return i.clamp ? minimum(maximum(value, F(0)), F(1)) : value;
}

// omod, then clamp to [0, 1], of a float result.
void adjust_result(const Instruction& i, u32* result) {
  for (int l = 0; l < kLanes; l++) {
    switch (i.operation->result) {
      case Type::f16: result[l] = to_f16(adjusted(i, from_f16(result[l]))) | (result[l] & 0xffff0000); break;
      case Type::f32: result[l] = bits<u32>(adjusted(i, bits<f32>(result[l]))); break;
      case Type::f16x2:
        result[l] = to_f16(adjusted(i, low_f16(result[l]))) | u32{to_f16(adjusted(i, high_f16(result[l])))} << 16;
        break;
      default: {
        const u64 value = bits<u64>(adjusted(i, bits<f64>(join(result[l], result[l + kLanes]))));
        result[l] = static_cast<u32>(value);
        result[l + kLanes] = static_cast<u32>(value >> 32);
      }
    }
  }
}

// SDWA's result: into a byte or a word of the register, the rest zero, the sign, or as it was.
u32 place_sdwa(const Instruction& i, u32 old, u32 value) {
  if (i.result_select == 6) return value;
  const bool byte = i.result_select < 4;
  const int shift = byte ? 8 * i.result_select : 16 * (i.result_select - 4);
  const u32 mask = (byte ? 0xffu : 0xffffu) << shift, placed = value << shift & mask;
  if (i.result_unused == 2) return (old & ~mask) | placed;
  const bool negative = i.result_unused == 1 && (placed & mask & ~(mask >> 1));
  const u32 above = ~(mask | (mask - 1));
  return negative ? placed | above : placed;
}

}  // namespace

template <int sources> void execute_plain(Wave& wave, const Instruction& i) {
  alignas(32) Register buffers[3];
  Lanes x;
  x.result = wave.vectors[i.result.index];
  for (int k = 0; k < sources; k++) x.sources[k] = wave.read_lanes(i.sources[k], buffers[k]);
  x.active = wave.active();
  x.vcc = wave.pair(kVcc);
  i.operation->lanes(x);
  if (i.operation->mask_result) write_mask(wave, i, x.flags);
}
template void execute_plain<1>(Wave&, const Instruction&);
template void execute_plain<2>(Wave&, const Instruction&);
template void execute_plain<3>(Wave&, const Instruction&);

void execute_modified(Wave& wave, const Instruction& i) {
  const Operation& operation = *i.operation;
  alignas(32) Register buffers[3], modified[3];
  alignas(32) u32 active[kLanes];
  Lanes x;
  u64 written = wave.exec();
  for (int k = 0; k < 3; k++) {
    const Operand& operand = i.sources[k];
    if (!operand) continue;
    const u32*& source = x.sources[k] = wave.read_lanes(operand, buffers[k]);
    if (k == 0 && i.form == Form::dpp) written = apply_dpp(i, written, source, modified[0]);
    if (i.form == Form::sdwa) apply_sdwa(operand, source, modified[k]);
    if (operand.type == Type::mix) apply_mix(i, k, source, modified[k]);
    else if (is_packed(operand.type)) apply_packed(i, k, source, modified[k]);
    else if (is_16_bits(operand.type) && (i.op_sel >> k & 1)) apply_op_sel(source, modified[k]);
    apply_sign(operand, source, modified[k]);
  }
  expand(written, active);
  x.active = active;
  x.vcc = wave.pair(kVcc);

  u32* const target = wave.vectors[i.result.index];
  const bool wide = is_64_bits(operation.result);
  const bool adjust = is_float(operation.result) && (i.clamp || i.output_modifier);
  const bool to_high_half = operation.to_high_half || (is_16_bits(operation.result) && (i.op_sel & 8));
  const bool direct = !adjust && !to_high_half && i.form != Form::sdwa;
  alignas(32) Register result;
  if (!direct && i.result) std::memcpy(result, target, (wide ? 2 : 1) * sizeof(u32) * kLanes);
  x.result = direct ? target : result;

  if (i.clamp && !adjust) {
    if (!operation.saturated) fail(-1, "clamp is not implemented for this operation");
    operation.saturated(x);
  } else {
    operation.lanes(x);
  }
  if (operation.mask_result) write_mask(wave, i, x.flags);
  if (direct || !i.result) return;
  if (adjust) adjust_result(i, result);
  for (int l = 0; l < kLanes; l++) {
    u32 value = result[l];
    if (i.form == Form::sdwa) value = place_sdwa(i, target[l], value);
    if (to_high_half) value = (target[l] & 0xffff) | value << 16;
    target[l] = active[l] ? value : target[l];
    if (wide) target[l + kLanes] = active[l] ? result[l + kLanes] : target[l + kLanes];
  }
}

}  // namespace updp::emulator
