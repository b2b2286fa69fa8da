#include "operand_decoder.h"

#include <map>
#include <memory>
#include <mutex>

namespace updp::emulator {
namespace {

constexpr unsigned kScalarCodes = 128, kLiteral = 255, kFirstVector = 256;

// A constant in all lanes: its low half 64 times, its high half 64 times. Never freed: there are few.
const u32* broadcast(u64 value) {
  static std::mutex mutex;
  static std::map<u64, std::unique_ptr<u32[]>> known;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<u32[]>& lanes = known[value];
  if (!lanes) {
    lanes.reset(new u32[2 * kLanes]);
    for (int l = 0; l < kLanes; l++) {
      lanes[l] = static_cast<u32>(value);
      lanes[l + kLanes] = static_cast<u32>(value >> 32);
    }
  }
  return lanes.get();
}

// Inline constants 240 to 248: 0.5, -0.5, 1, -1, 2, -2, 4, -4, 1/(2 pi).
constexpr u16 kHalfConstants[] = {0x3800, 0xb800, 0x3c00, 0xbc00, 0x4000, 0xc000, 0x4400, 0xc400, 0x3118};
constexpr u32 kFloatConstants[] = {0x3f000000, 0xbf000000, 0x3f800000, 0xbf800000, 0x40000000,
                                   0xc0000000, 0x40800000, 0xc0800000, 0x3e22f983};
constexpr u64 kDoubleConstants[] = {0x3fe0000000000000, 0xbfe0000000000000, 0x3ff0000000000000,
                                    0xbff0000000000000, 0x4000000000000000, 0xc000000000000000,
                                    0x4010000000000000, 0xc010000000000000, 0x3fc45f306dc9c882};

u64 float_constant(unsigned code, Type type, bool half) {
  if (half || is_16_bits(type) || is_packed(type)) return kHalfConstants[code - 240];
  return is_64_bits(type) ? kDoubleConstants[code - 240] : kFloatConstants[code - 240];
}

}  // namespace

Operand OperandDecoder::scalar(unsigned index, Type type) const {
  Operand operand;
  operand.kind = Operand::Kind::scalar;
  operand.type = type;
  operand.code = operand.index = static_cast<u16>(index);
  operand.count = static_cast<u8>(registers(type));
  return operand;
}

Operand OperandDecoder::vector(unsigned index, Type type) const {
  Operand operand = scalar(index, type);
  operand.kind = Operand::Kind::vector;
  operand.code = static_cast<u16>(kFirstVector + index % kFirstAccumulator);
  return operand;
}

Operand OperandDecoder::constant(unsigned code, Type type, u64 value) const {
  Operand operand;
  operand.kind = Operand::Kind::constant;
  operand.type = type;
  operand.code = static_cast<u16>(code);
  operand.value = value;
  operand.broadcast = broadcast(value);
  return operand;
}

Operand OperandDecoder::literal_operand(Type type) {
  const u32 place = i_.words++;
  const u32 word = place < available_ ? words_[place] : 0;
  u64 value = word;
  if (type == Type::f64) value = u64{word} << 32;
  else if (type == Type::i64) value = static_cast<u64>(i64{static_cast<i32>(word)});
  return constant(kLiteral, type, value);
}

Operand OperandDecoder::source(unsigned code, Type type, bool half) {
  if (type == Type::none) return {};
  if (code >= kFirstVector) return vector(code - kFirstVector, type);
  if (code < kScalarCodes) return scalar(code, type);
  if (code <= 192) return constant(code, type, code - 128);
  if (code <= 208) return constant(code, type, static_cast<u64>(i64{192} - code));
  if (code >= 240 && code <= 248) return constant(code, type, float_constant(code, type, half));
  if (code == kLiteral) return literal_operand(type);
  Operand operand = scalar(code, type);
  operand.kind = Operand::Kind::special;
  if (!((code >= 235 && code <= 238) || (code >= 251 && code <= 253))) known_ = false;
  return operand;
}

}  // namespace updp::emulator
