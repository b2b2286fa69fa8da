// Instructions as text, as llvm-objdump writes them.

#include <cstdio>

#include "instruction.h"

namespace updp::emulator {
namespace {

std::string hexadecimal(i64 value) {
  char text[24];
  std::snprintf(text, sizeof text, "%s0x%llx", value < 0 ? "-" : "", (unsigned long long)(value < 0 ? -value : value));
  return text;
}
std::string decimal(i64 value) { return std::to_string(value); }

std::string range(const std::string& prefix, unsigned index, unsigned count) {
  if (count == 1) return prefix + decimal(index);
  return prefix + "[" + decimal(index) + ":" + decimal(index + count - 1) + "]";
}

std::string scalar_name(unsigned index, unsigned count) {
  struct Named { unsigned index; const char* name; };
  static constexpr Named kNamed[] = {{102, "flat_scratch"}, {104, "xnack_mask"}, {106, "vcc"}, {126, "exec"}};
  if (index == 124) return "m0";
  if (index >= 108 && index < 124) return range("ttmp", index - 108, count);
  for (const Named& named : kNamed) {
    if (index / 2 * 2 != named.index) continue;
    return named.name + std::string(count == 2 ? "" : index % 2 ? "_hi" : "_lo");
  }
  return range("s", index, count);
}

std::string constant_text(const Operand& operand) {
  static constexpr const char* kFloats[] = {"0.5", "-0.5", "1.0", "-1.0", "2.0", "-2.0", "4.0", "-4.0"};
  if (operand.code < 240) return decimal(static_cast<i64>(operand.value));
  const bool bits = operand.type == Type::u16 || operand.type == Type::i16;  // an integer's float constant
  if (operand.code <= 248 && bits) return hexadecimal(static_cast<i64>(operand.value));
  if (operand.code < 248) return kFloats[operand.code - 240];
  if (operand.code == 248) return is_64_bits(operand.type) ? "0.15915494309189532" : "0.15915494";
  return hexadecimal(static_cast<u32>(operand.type == Type::f64 ? operand.value >> 32 : operand.value));
}

std::string special_text(const Operand& operand) {
  switch (static_cast<Special>(operand.code)) {
    case Special::shared_base: return "src_shared_base";
    case Special::shared_limit: return "src_shared_limit";
    case Special::private_base: return "src_private_base";
    case Special::private_limit: return "src_private_limit";
    case Special::vccz: return "src_vccz";
    case Special::execz: return "src_execz";
    case Special::scc: return "src_scc";
  }
  return "";
}

std::string text(const Operand& operand) {
  std::string result;
  switch (operand.kind) {
    case Operand::Kind::none: return "";
    case Operand::Kind::off: return "off";
    case Operand::Kind::scalar:
    case Operand::Kind::vector: result = register_name(operand.kind, operand.index, operand.count); break;
    case Operand::Kind::constant: result = constant_text(operand); break;
    case Operand::Kind::special: result = special_text(operand); break;
  }
  if (operand.sign_extend) result = "sext(" + result + ")";
  if (operand.absolute) result = "|" + result + "|";
  const bool number = operand.kind == Operand::Kind::constant && !operand.absolute;
  if (operand.negate) result = number ? "neg(" + result + ")" : "-" + result;
  return result;
}

// Operands separated by commas, then modifiers by spaces.
class Text {
 public:
  void operand(const std::string& text) {
    if (text.empty()) return;
    operands_ += operands_.empty() ? text : ", " + text;
  }
  void operand(const Operand& operand) { this->operand(text(operand)); }
  void modifier(const std::string& text) { modifiers_ += " " + text; }
  void modifier_if(bool condition, const std::string& text) {
    if (condition) modifier(text);
  }
  std::string str() const {
    return operands_.empty() && !modifiers_.empty() ? modifiers_.substr(1) : operands_ + modifiers_;
  }

 private:
  std::string operands_, modifiers_;
};

std::string bit_list(const char* name, unsigned bits, int count) {
  std::string result = std::string(name) + ":[";
  for (int k = 0; k < count; k++) result += std::string(k ? "," : "") + (bits >> k & 1 ? "1" : "0");
  return result + "]";
}

std::string gpr_index_text(unsigned mode) {
  static constexpr const char* kNames[] = {"SRC0", "SRC1", "SRC2", "DST"};
  std::string result;
  for (int k = 0; k < 4; k++) {
    if (mode >> k & 1) result += (result.empty() ? "" : ",") + std::string(kNames[k]);
  }
  return "gpr_idx(" + result + ")";
}

std::string hardware_register(unsigned field) {
  static constexpr const char* kNames[] = {nullptr, "MODE",      "STATUS",    "TRAPSTS",
                                           "HW_ID", "GPR_ALLOC", "LDS_ALLOC", "IB_STS"};
  const unsigned id = field & 63, first = field >> 6 & 31, bits = (field >> 11 & 31) + 1;
  std::string name = id == 15           ? "HW_REG_SH_MEM_BASES"
                     : id > 0 && id < 8 ? std::string("HW_REG_") + kNames[id]
                                        : decimal(id);
  if (first == 0 && bits == 32) return "hwreg(" + name + ")";
  return "hwreg(" + name + ", " + decimal(first) + ", " + decimal(bits) + ")";
}

std::string waitcnt_text(unsigned field) {
  const unsigned vmcnt = (field & 15) | (field >> 10 & 0x30), expcnt = field >> 4 & 7, lgkmcnt = field >> 8 & 15;
  const bool all = vmcnt == 63 && expcnt == 7 && lgkmcnt == 15;  // nothing to wait for: every counter is written
  std::string result;
  const auto add = [&](const char* name, unsigned value, unsigned none) {
    if (value == none && !all) return;
    result += (result.empty() ? "" : " ") + std::string(name) + "(" + decimal(value) + ")";
  };
  add("vmcnt", vmcnt, 63);
  add("expcnt", expcnt, 7);
  add("lgkmcnt", lgkmcnt, 15);
  return result;
}

std::string scalar_text(const Instruction& i) {
  const std::string_view name = i.operation->name;
  Text text;
  if (i.operation->encoding == Encoding::sopp) {
    const bool bare = name == "s_barrier" || name == "s_icache_inv" || name == "s_ttracedata" ||
                      name == "s_set_gpr_idx_off" || (name == "s_endpgm" && i.offset == 0);
    if (name == "s_waitcnt") return waitcnt_text(static_cast<unsigned>(i.offset));
    if (name == "s_set_gpr_idx_mode") return gpr_index_text(static_cast<unsigned>(i.offset));
    if (name == "s_sendmsg" && i.offset == 1) return "sendmsg(MSG_INTERRUPT)";
    const bool branch = name == "s_branch" || name.substr(0, 9) == "s_cbranch";
    return bare ? "" : i.offset <= 64 || branch ? decimal(i.offset) : hexadecimal(i.offset);
  }
  if (name == "s_set_gpr_idx_on")
    return emulator::text(i.sources[0]) + ", " + gpr_index_text(static_cast<unsigned>(i.offset));
  text.operand(i.result);
  if (i.operation->encoding == Encoding::sopk) {
    const std::string hardware = hardware_register(static_cast<unsigned>(i.offset));
    const bool sets = name == "s_setreg_b32" || name == "s_setreg_imm32_b32";
    if (sets) return hardware + ", " + emulator::text(i.sources[0]);
    if (name == "s_getreg_b32") text.operand(hardware);
    else if (name == "s_call_b64") text.operand(decimal(i.offset));
    else if (i.sources[0]) text.operand(emulator::text(i.sources[0]) + ", " + hexadecimal(i.offset));
    else text.operand(hexadecimal(i.offset));
    return text.str();
  }
  for (const Operand& source : i.sources) text.operand(source);
  return text.str();
}

std::string scalar_memory_text(const Instruction& i) {
  Text text;
  text.operand(i.result);
  text.operand(i.sources[0]);
  if (!i.sources[0]) return text.str();
  if (i.sources[3]) {
    text.operand(i.sources[3]);
    text.modifier_if(i.offset != 0, "offset:" + hexadecimal(i.offset));
  } else {
    text.operand(hexadecimal(i.offset));
  }
  text.modifier_if(i.glc, "glc");
  return text.str();
}

std::string dpp_text(int control) {
  const std::string distance = decimal(control & 15);
  if (control < 0x100) {
    std::string lanes;
    for (int k = 0; k < 4; k++) lanes += (k ? "," : "") + decimal(control >> 2 * k & 3);
    return "quad_perm:[" + lanes + "]";
  }
  if (control < 0x110) return "row_shl:" + distance;
  if (control < 0x120) return "row_shr:" + distance;
  if (control < 0x130) return "row_ror:" + distance;
  switch (control) {
    case 0x130: return "wave_shl:1";
    case 0x134: return "wave_rol:1";
    case 0x138: return "wave_shr:1";
    case 0x13c: return "wave_ror:1";
    case 0x140: return "row_mirror";
    case 0x141: return "row_half_mirror";
    case 0x142: return "row_bcast:15";
    case 0x143: return "row_bcast:31";
    default: return "dpp_ctrl:" + hexadecimal(control);
  }
}

void add_sdwa(const Instruction& i, Text& text) {
  static constexpr const char* kSelections[] = {"BYTE_0", "BYTE_1", "BYTE_2", "BYTE_3",
                                                "WORD_0", "WORD_1", "DWORD",  "?"};
  static constexpr const char* kUnused[] = {"UNUSED_PAD", "UNUSED_SEXT", "UNUSED_PRESERVE", "?"};
  if (i.result) {
    text.modifier(std::string("dst_sel:") + kSelections[i.result_select]);
    text.modifier(std::string("dst_unused:") + kUnused[i.result_unused]);
  }
  text.modifier(std::string("src0_sel:") + kSelections[i.sources[0].select]);
  const bool two = i.operation->sources[1] != Type::none;
  text.modifier_if(two, std::string("src1_sel:") + kSelections[i.sources[1].select]);
}

void add_packed(const Instruction& i, int sources, Text& text) {
  const bool mixed = i.operation->sources[0] == Type::mix;
  const unsigned all = (1u << sources) - 1;
  text.modifier_if(i.op_sel & all, bit_list("op_sel", i.op_sel, sources));
  text.modifier_if((i.op_sel_hi & all) != (mixed ? 0 : all), bit_list("op_sel_hi", i.op_sel_hi, sources));
  text.modifier_if(!mixed && i.negate_low, bit_list("neg_lo", i.negate_low, sources));
  text.modifier_if(!mixed && i.negate_high, bit_list("neg_hi", i.negate_high, sources));
}

std::string vector_text(const Instruction& i) {
  const Operation& operation = *i.operation;
  Text text;
  text.operand(i.result);
  text.operand(i.mask);
  int sources = 0;
  for (int k = 0; k < 3; k++) {
    if (operation.sources[k] == Type::none || (operation.accumulates && k == 2)) continue;
    Operand source = i.sources[k];
    if (source.type == Type::mix) {
      source.negate = i.negate_low >> k & 1;
      source.absolute = i.negate_high >> k & 1;
    }
    text.operand(source);
    sources++;
  }
  const bool packed = operation.encoding == Encoding::vop3p;
  const unsigned op_sel = (i.op_sel & ((1u << sources) - 1)) | (i.op_sel >> 3 & 1) << sources;
  if (packed) add_packed(i, sources, text);
  else text.modifier_if(i.op_sel, bit_list("op_sel", op_sel, sources + 1));
  text.modifier_if(i.clamp, "clamp");
  static constexpr const char* kOutput[] = {"", "mul:2", "mul:4", "div:2"};
  text.modifier_if(i.output_modifier, kOutput[i.output_modifier]);
  if (i.form == Form::sdwa) add_sdwa(i, text);
  if (i.form == Form::dpp) {
    text.modifier(dpp_text(i.dpp));
    text.modifier("row_mask:" + hexadecimal(i.row_mask));
    text.modifier("bank_mask:" + hexadecimal(i.bank_mask));
    text.modifier_if(i.bound_control, "bound_ctrl:1");
  }
  text.modifier_if(i.cbsz, "cbsz:" + decimal(i.cbsz));
  text.modifier_if(i.abid, "abid:" + decimal(i.abid));
  text.modifier_if(i.blgp, "blgp:" + decimal(i.blgp));
  return text.str();
}

std::string swizzle_text(unsigned pattern) {
  if (pattern == 0) return "";
  if (pattern & 0x8000) {
    if (pattern & 0x7f00) return "offset:" + decimal(pattern);
    std::string lanes;
    for (int k = 0; k < 4; k++) lanes += "," + decimal(pattern >> 2 * k & 3);
    return "offset:swizzle(QUAD_PERM" + lanes + ")";
  }
  const unsigned keep = pattern & 31, set = pattern >> 5 & 31, flip = pattern >> 10 & 31;
  const bool power = flip && !(flip & (flip - 1)), ones = !(flip & (flip + 1));
  if (keep == 31 && set == 0 && power) return "offset:swizzle(SWAP," + decimal(flip) + ")";
  if (keep == 31 && set == 0 && ones && flip) return "offset:swizzle(REVERSE," + decimal(flip + 1) + ")";
  const unsigned group = 32 - keep;
  if (flip == 0 && group > 1 && !(group & (group - 1)) && set < group) {
    return "offset:swizzle(BROADCAST," + decimal(group) + "," + decimal(set) + ")";
  }
  std::string bits;
  for (int k = 4; k >= 0; k--) {
    const bool kept = keep >> k & 1, one = set >> k & 1, flipped = flip >> k & 1;
    bits += one ? (flipped ? '0' : '1') : kept ? (flipped ? 'i' : 'p') : (flipped ? '1' : '0');
  }
  return "offset:swizzle(BITMASK_PERM,\"" + bits + "\")";
}

std::string lds_text(const Instruction& i) {
  const Operation& operation = *i.operation;
  Text text;
  text.operand(i.result);
  for (const Operand& source : i.sources) text.operand(source);
  if (operation.two_addresses) {
    const int unit = operation.bytes * operation.offset_scale;
    text.modifier_if(i.offset, "offset0:" + decimal(i.offset / unit));
    text.modifier_if(i.offset1, "offset1:" + decimal(i.offset1 / unit));
  } else if (operation.number == 0x3d) {
    text.modifier_if(i.offset, swizzle_text(static_cast<unsigned>(i.offset)));
  } else {
    text.modifier_if(i.offset, "offset:" + decimal(i.offset));
  }
  return text.str();
}

std::string memory_text(const Instruction& i) {
  const bool buffer = i.operation->encoding == Encoding::mubuf;
  if (i.operation->access == Access::none) return "";
  Text text;
  if (buffer && i.sources[1]) text.operand(i.sources[1]);  // what is returned replaces it
  else text.operand(i.result);
  text.operand(i.sources[0]);
  if (!buffer) {
    text.operand(i.sources[1]);
    if (i.space != Space::flat) text.operand(i.sources[2] ? emulator::text(i.sources[2]) : "off");
  } else {
    text.operand(i.sources[2]);
    text.operand(i.sources[3]);
    text.modifier_if(i.index_enable, "idxen");
    text.modifier_if(i.offset_enable, "offen");
  }
  text.modifier_if(i.offset != 0, "offset:" + decimal(i.offset));
  text.modifier_if(i.glc, "glc");
  text.modifier_if(i.slc, "slc");
  text.modifier_if(i.to_lds, "lds");
  return text.str();
}

std::string mnemonic(const Instruction& i) {
  const Operation& operation = *i.operation;
  std::string name = operation.name;
  switch (operation.encoding) {
    case Encoding::flat:
      return (i.space == Space::flat ? "flat_" : i.space == Space::scratch ? "scratch_" : "global_") + name;
    case Encoding::mubuf: return operation.access == Access::none ? name : "buffer_" + name;
    case Encoding::vop1:
    case Encoding::vop2:
    case Encoding::vopc:
      if (i.form == Form::sdwa) return name + "_sdwa";
      if (i.form == Form::dpp) return name + "_dpp";
      if (i.form == Form::e64) return name + "_e64";
      return operation.encoded_constant || !operation.lanes ? name : name + "_e32";
    default: return name;
  }
}

}  // namespace

std::string register_name(Operand::Kind kind, unsigned index, unsigned count) {
  if (kind == Operand::Kind::scalar) return scalar_name(index, count);
  return index < 256 ? range("v", index, count) : range("a", index - 256, count);
}

std::pair<std::string, std::string> disassemble(const Instruction& i) {
  if (!i.operation) return {"<unknown>", ""};
  switch (i.operation->encoding) {
    case Encoding::sop1:
    case Encoding::sop2:
    case Encoding::sopk:
    case Encoding::sopc:
    case Encoding::sopp: return {mnemonic(i), scalar_text(i)};
    case Encoding::smem: return {mnemonic(i), scalar_memory_text(i)};
    case Encoding::ds: return {mnemonic(i), lds_text(i)};
    case Encoding::flat:
    case Encoding::mubuf: return {mnemonic(i), memory_text(i)};
    default: return {mnemonic(i), vector_text(i)};
  }
}

}  // namespace updp::emulator
