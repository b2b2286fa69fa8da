// Decodes GFX9 instruction words: fields of the encodings, operands by the operation's types.

#include "operand_decoder.h"

namespace updp::emulator {
namespace {

constexpr unsigned kSdwa = 249, kDpp = 250, kVccCode = 106;

class Decoder : OperandDecoder {
 public:
  Decoder(const u32* words, size_t available, u32 address)
      : OperandDecoder(words, available), first_(words[0]), second_(available > 1 ? words[1] : 0) {
    i_.address = address;
  }

  Instruction decode() {
    decode_encoding();
    if (i_.words > available()) known_ = false;
    if (!known_) i_.operation = nullptr;
    if (!i_.operation) {
      Instruction unknown;
      unknown.address = i_.address;
      return unknown;
    }
    return i_;
  }

 private:
  void decode_encoding() {
    const u32 w = first_;
    if (field(w, 31, 1) == 0) {
      if (field(w, 25, 7) == 0x3f) decode_vop1();
      else if (field(w, 25, 7) == 0x3e) decode_vopc();
      else decode_vop2();
    } else if (field(w, 30, 2) == 2) {
      decode_scalar();
    } else {
      i_.words = 2;
      switch (field(w, 26, 6)) {
        case 0x30: decode_smem(); break;
        case 0x34:
          if (field(w, 23, 3) == 7) decode_vop3p();
          else decode_vop3();
          break;
        case 0x36: decode_ds(); break;
        case 0x37: decode_flat(); break;
        case 0x38: decode_mubuf(); break;
        default: known_ = false;
      }
    }
  }

  bool find(Encoding encoding, unsigned number) {
    i_.operation = find_operation(encoding, number);
    known_ = i_.operation != nullptr;
    if (known_) i_.execute = i_.operation->execute;
    return known_;
  }

  // Scalar encodings.

  void decode_scalar() {
    const u32 w = first_;
    if (field(w, 23, 9) == 0x17f) return decode_sopp();
    if (field(w, 23, 9) == 0x17e) return decode_sopc();
    if (field(w, 23, 9) == 0x17d) {
      if (!find(Encoding::sop1, field(w, 8, 8))) return;
      set_scalar_result(field(w, 16, 7));
      i_.sources[0] = source(field(w, 0, 8), i_.operation->sources[0]);
    } else if (field(w, 28, 4) == 0xb) {
      decode_sopk();
    } else {
      if (!find(Encoding::sop2, field(w, 23, 7))) return;
      set_scalar_result(field(w, 16, 7));
      for (int k = 0; k < 2; k++) i_.sources[k] = source(field(w, 8 * k, 8), i_.operation->sources[k]);
    }
  }
  void set_scalar_result(unsigned index) {
    if (i_.operation->result != Type::none) i_.result = scalar(index, i_.operation->result);
  }
  void decode_sopp() {
    if (!find(Encoding::sopp, field(first_, 16, 7))) return;
    i_.offset = static_cast<i32>(field(first_, 0, 16));
  }
  void decode_sopc() {
    if (!find(Encoding::sopc, field(first_, 16, 7))) return;
    for (int k = 0; k < 2; k++) i_.sources[k] = source(field(first_, 8 * k, 8), i_.operation->sources[k]);
    i_.offset = static_cast<i32>(field(first_, 8, 8));  // s_set_gpr_idx_on: what is indexed
  }
  void decode_sopk() {
    if (!find(Encoding::sopk, field(first_, 23, 5))) return;
    const unsigned index = field(first_, 16, 7);
    set_scalar_result(index);
    if (i_.operation->sources[0] != Type::none) i_.sources[0] = scalar(index, i_.operation->sources[0]);
    i_.offset = static_cast<i32>(field(first_, 0, 16));
    if (i_.operation->encoded_constant) i_.sources[0] = literal_operand(Type::u32);
  }
  void decode_smem() {
    if (!find(Encoding::smem, field(first_, 18, 8))) return;
    const Operation& operation = *i_.operation;
    if (operation.result != Type::none) i_.result = scalar(field(first_, 6, 7), operation.result);
    i_.glc = field(first_, 16, 1);
    if (operation.sources[0] == Type::none) return;
    i_.sources[0] = scalar(2 * field(first_, 0, 6), operation.sources[0]);
    if (field(first_, 17, 1)) i_.offset = signed_field(second_, 0, 21);
    if (field(first_, 14, 1)) i_.sources[3] = scalar(field(second_, 25, 7), Type::u32);
    else if (!field(first_, 17, 1)) i_.sources[3] = scalar(field(second_, 0, 7), Type::u32);
  }

  // Vector encodings.

  void decode_vop1() {
    if (!find(Encoding::vop1, field(first_, 9, 8))) return;
    set_vector_result(field(first_, 17, 8));
    decode_first_source();
    finish_vector();
  }
  void decode_vop2() {
    if (!find(Encoding::vop2, field(first_, 25, 6))) return;
    const Operation& operation = *i_.operation;
    set_vector_result(field(first_, 17, 8));
    if (operation.mask_result) i_.mask = scalar(kVccCode, Type::lanes);
    decode_first_source();
    const Operand second = extended_second_source(field(first_, 9, 8));
    if (operation.encoded_constant) {
      // madmk: a * constant + b; madak: a * b + constant.
      const bool constant_last = operation.number == 0x18 || operation.number == 0x25;
      const Operand constant = literal_operand(operation.result);
      i_.sources[1] = constant_last ? second : constant;
      i_.sources[2] = constant_last ? constant : second;
    } else {
      i_.sources[1] = second;
      if (operation.sources[2] == Type::lanes) i_.sources[2] = scalar(kVccCode, Type::lanes);
    }
    finish_vector();
  }
  void decode_vopc() {
    if (!find(Encoding::vopc, field(first_, 17, 8))) return;
    i_.mask = scalar(kVccCode, Type::lanes);
    decode_first_source();
    i_.sources[1] = extended_second_source(field(first_, 9, 8));
    finish_vector();
  }

  void set_vector_result(unsigned index) {
    const Operation& operation = *i_.operation;
    if (operation.result == Type::none) return;
    i_.result = operation.scalar_result ? scalar(index & 127, operation.result) : vector(index, operation.result);
  }

  // Source 0 of a 32-bit encoding, which may say that the operands continue in an SDWA or DPP word.
  void decode_first_source() {
    const unsigned code = field(first_, 0, 9);
    const Type type = i_.operation->sources[0];
    if (type == Type::none) return;
    if (code == kSdwa) decode_sdwa();
    else if (code == kDpp) decode_dpp();
    else i_.sources[0] = source(code, type);
  }
  Operand extended_second_source(unsigned index) {
    Operand operand = vector(index, i_.operation->sources[1]);
    if (i_.form == Form::sdwa) {
      if (field(second_, 31, 1)) operand = source(index, i_.operation->sources[1]);
      operand.select = static_cast<u8>(field(second_, 24, 3));
      operand.sign_extend = field(second_, 27, 1);
      operand.negate = field(second_, 28, 1);
      operand.absolute = field(second_, 29, 1);
    } else if (i_.form == Form::dpp) {
      operand.negate = field(second_, 22, 1);
      operand.absolute = field(second_, 23, 1);
    }
    return operand;
  }
  void decode_sdwa() {
    i_.form = Form::sdwa;
    i_.words = 2;
    const Type type = i_.operation->sources[0];
    const unsigned code = field(second_, 0, 8);
    Operand& operand = i_.sources[0] = field(second_, 23, 1) ? source(code, type) : vector(code, type);
    operand.select = static_cast<u8>(field(second_, 16, 3));
    operand.sign_extend = field(second_, 19, 1);
    operand.negate = field(second_, 20, 1);
    operand.absolute = field(second_, 21, 1);
    if (i_.operation->encoding == Encoding::vopc) {
      if (field(second_, 15, 1)) i_.mask = scalar(field(second_, 8, 7), Type::lanes);
      return;
    }
    i_.result_select = static_cast<u8>(field(second_, 8, 3));
    i_.result_unused = static_cast<u8>(field(second_, 11, 2));
    i_.clamp = field(second_, 13, 1);
    i_.output_modifier = static_cast<u8>(field(second_, 14, 2));
  }
  void decode_dpp() {
    i_.form = Form::dpp;
    i_.words = 2;
    Operand& operand = i_.sources[0] = vector(field(second_, 0, 8), i_.operation->sources[0]);
    i_.dpp = static_cast<i16>(field(second_, 8, 9));
    i_.bound_control = field(second_, 19, 1);
    operand.negate = field(second_, 20, 1);
    operand.absolute = field(second_, 21, 1);
    i_.bank_mask = static_cast<u8>(field(second_, 24, 4));
    i_.row_mask = static_cast<u8>(field(second_, 28, 4));
  }

  void decode_vop3() {
    const unsigned number = field(first_, 16, 10);
    if (number < 0x100 ? !find(Encoding::vopc, number)
        : number < 0x140 ? !find(Encoding::vop2, number - 0x100)
        : number < 0x1c0 ? !find(Encoding::vop1, number - 0x140)
                         : !find(Encoding::vop3, number)) {
      return;
    }
    const Operation& operation = *i_.operation;
    if (operation.only_32_bits) {
      known_ = false;
      return;
    }
    i_.form = Form::e64;
    set_vector_result(field(first_, 0, 8));
    const bool with_mask = operation.mask_result && operation.result != Type::none;
    if (with_mask) i_.mask = scalar(field(first_, 8, 7), Type::lanes);
    else if (operation.mask_result) i_.mask = scalar(field(first_, 0, 8), Type::lanes);
    i_.clamp = field(first_, 15, 1);
    i_.output_modifier = static_cast<u8>(field(second_, 27, 2));
    const unsigned encoded = operation.accumulates ? 2 : 3;
    for (unsigned k = 0; k < encoded; k++) {
      Operand& operand = i_.sources[k] = source(field(second_, 9 * k, 9), operation.sources[k]);
      if (!operand) continue;
      operand.negate = field(second_, 29 + k, 1);
      operand.absolute = !with_mask && field(first_, 8 + k, 1);
    }
    if (!with_mask) i_.op_sel = static_cast<u8>(field(first_, 11, 4));
    finish_vector();
  }

  void decode_vop3p() {
    const unsigned number = field(first_, 16, 7);
    if (number >= 0x40) return decode_matrix(number);
    if (!find(Encoding::vop3p, number)) return;
    const Operation& operation = *i_.operation;
    set_vector_result(field(first_, 0, 8));
    i_.clamp = field(first_, 15, 1);
    i_.op_sel = static_cast<u8>(field(first_, 11, 3));
    i_.op_sel_hi = static_cast<u8>(field(second_, 27, 2) | field(first_, 14, 1) << 2);
    i_.negate_high = static_cast<u8>(field(first_, 8, 3));
    i_.negate_low = static_cast<u8>(field(second_, 29, 3));
    for (int k = 0; k < 3; k++) {
      const bool half = operation.sources[k] == Type::mix && (i_.op_sel_hi >> k & 1);
      i_.sources[k] = source(field(second_, 9 * k, 9), operation.sources[k], half);
    }
    finish_vector();
  }

  void decode_matrix(unsigned number) {
    if (!find(Encoding::matrix, number)) return;
    const Operation& operation = *i_.operation;
    const auto accumulator = [&](Operand& operand) {
      if (operand.kind == Operand::Kind::vector) operand.index += kFirstAccumulator;
    };
    set_vector_result(field(first_, 0, 8));
    for (int k = 0; k < 3; k++) i_.sources[k] = source(field(second_, 9 * k, 9), operation.sources[k]);
    if (operation.kind != Kind::matrix) {  // v_accvgpr_read, v_accvgpr_write
      accumulator(operation.accumulator_source ? i_.sources[0] : i_.result);
      return;
    }
    accumulator(i_.result);
    accumulator(i_.sources[2]);
    for (int k = 0; k < 2; k++) {
      if (field(second_, 27 + k, 1)) accumulator(i_.sources[k]);
    }
    i_.cbsz = static_cast<u8>(field(first_, 8, 3));
    i_.abid = static_cast<u8>(field(first_, 11, 4));
    i_.blgp = static_cast<u8>(field(second_, 29, 3));
  }

  // The accumulator as a source, and whether there are modifiers to deal with.
  void finish_vector() {
    const Operation& operation = *i_.operation;
    if (operation.accumulates) {
      i_.sources[2] = i_.result;
      i_.sources[2].type = operation.sources[2];
    }
    if (!operation.lanes) return;
    bool modified = i_.form == Form::sdwa || i_.form == Form::dpp || i_.clamp || i_.output_modifier || i_.op_sel ||
                    i_.negate_low || i_.negate_high || operation.to_high_half;
    for (int k = 0; k < 3; k++) {
      const Operand& operand = i_.sources[k];
      modified |= operand.negate || operand.absolute || operand.type == Type::mix;
      modified |= is_packed(operand.type) && operation.encoding == Encoding::vop3p && !(i_.op_sel_hi >> k & 1);
    }
    if (operation.encoding != Encoding::vop3p) i_.op_sel_hi = 7;
    if (modified) i_.execute = execute_modified;
  }

  // Memory encodings.

  static Type type_of_bytes(unsigned bytes) {
    return bytes == 16 ? Type::b128 : bytes == 12 ? Type::b96 : bytes == 8 ? Type::u64 : Type::u32;
  }
  // The register that a memory operation loads or stores, as wide as its data.
  Operand data(unsigned index, unsigned elements = 1) const {
    return vector(index, type_of_bytes(i_.operation->bytes * elements));
  }

  void decode_ds() {
    if (!find(Encoding::ds, field(first_, 17, 8))) return;
    const Operation& operation = *i_.operation;
    if (field(first_, 16, 1)) known_ = false;  // GDS
    i_.offset = static_cast<i32>(field(first_, 0, 16));
    if (operation.two_addresses) {
      const i32 unit = operation.bytes * operation.offset_scale;
      i_.offset = static_cast<i32>(field(first_, 0, 8)) * unit;
      i_.offset1 = static_cast<i32>(field(first_, 8, 8)) * unit;
    }
    i_.sources[0] = vector(field(second_, 0, 8), Type::u32);
    if (operation.sources[1] != Type::none) i_.sources[1] = data(field(second_, 8, 8));
    if (operation.sources[2] != Type::none) i_.sources[2] = data(field(second_, 16, 8));
    if (operation.result != Type::none) i_.result = data(field(second_, 24, 8), operation.two_addresses ? 2 : 1);
  }

  void decode_flat() {
    if (!find(Encoding::flat, field(first_, 18, 7))) return;
    const unsigned segment = field(first_, 14, 2), saddr = field(second_, 16, 7);
    constexpr unsigned kOff = 0x7f;
    known_ = segment < 3 && !field(first_, 13, 1);
    i_.space = static_cast<Space>(segment);
    i_.offset = segment == 0 ? static_cast<i32>(field(first_, 0, 12)) : signed_field(first_, 0, 13);
    i_.glc = field(first_, 16, 1);
    i_.slc = field(first_, 17, 1);
    const bool based = segment != 0 && saddr != kOff, scratch = i_.space == Space::scratch;
    if (scratch && based) i_.sources[0].kind = Operand::Kind::off;
    else i_.sources[0] = vector(field(second_, 0, 8), based || scratch ? Type::u32 : Type::u64);
    if (based) i_.sources[2] = scalar(saddr, scratch ? Type::u32 : Type::u64);
    decode_memory_data(field(second_, 8, 8), field(second_, 24, 8));
  }

  void decode_mubuf() {
    if (!find(Encoding::mubuf, field(first_, 18, 7))) return;
    const Operation& operation = *i_.operation;
    if (operation.access == Access::none) return;
    i_.offset = static_cast<i32>(field(first_, 0, 12));
    i_.offset_enable = field(first_, 12, 1);
    i_.index_enable = field(first_, 13, 1);
    i_.glc = field(first_, 14, 1);
    i_.to_lds = field(first_, 16, 1);
    i_.slc = field(first_, 17, 1);
    if (i_.offset_enable || i_.index_enable) {
      i_.sources[0] = vector(field(second_, 0, 8), i_.offset_enable && i_.index_enable ? Type::u64 : Type::u32);
    } else {
      i_.sources[0].kind = Operand::Kind::off;
    }
    i_.sources[2] = scalar(4 * field(second_, 16, 5), Type::b128);
    i_.sources[3] = source(field(second_, 24, 8), Type::u32);
    decode_memory_data(field(second_, 8, 8), field(second_, 8, 8));
  }

  // Global, flat, scratch and buffer operations: what is stored, and what is loaded or returned.
  void decode_memory_data(unsigned stored, unsigned loaded) {
    const Operation& operation = *i_.operation;
    const bool comparing = operation.sources[2] != Type::none;
    if (operation.access != Access::load) i_.sources[1] = data(stored, comparing ? 2 : 1);
    if (operation.access == Access::load || (operation.access == Access::atomic && i_.glc)) i_.result = data(loaded);
  }

  const u32 first_, second_;
};

}  // namespace

Instruction decode(const u32* words, size_t available, u32 address) {
  return Decoder(words, available, address).decode();
}

}  // namespace updp::emulator
