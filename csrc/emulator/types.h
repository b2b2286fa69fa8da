// Number types of the instruction set, and bit casts between them.
#pragma once

#include <cstdint>
#include <cstring>

namespace updp::emulator {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using i8 = int8_t;
using i16 = int16_t;
using i32 = int32_t;
using i64 = int64_t;
using f32 = float;
using f64 = double;

// Types that only mark what an operand holds: see Source and Sink in lanes.h for how a lane's value is read and
// written.
struct f16 {};     // low half of a register; calculated with as float or double, rounded once when it is written
struct f16x2 {};   // both halves
struct u16x2 {};
struct i16x2 {};
struct mix {};     // f16 or f32, as the instruction's op_sel_hi says
struct lanes {};   // one bit a lane, in a pair of scalar registers

constexpr int kLanes = 64;

template <class To, class From>
inline To bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

inline u64 join(u32 low, u32 high) { return u64{high} << 32 | low; }

enum class Type : u8 {
  none, u32, i32, f32, u16, i16, f16, u64, i64, f64, f16x2, u16x2, i16x2, mix, lanes, b96, b128, b256, b512, b1024
};

template <class T> constexpr Type type_of = Type::none;
template <> constexpr Type type_of<u32> = Type::u32;
template <> constexpr Type type_of<i32> = Type::i32;
template <> constexpr Type type_of<f32> = Type::f32;
template <> constexpr Type type_of<u16> = Type::u16;
template <> constexpr Type type_of<i16> = Type::i16;
template <> constexpr Type type_of<f16> = Type::f16;
template <> constexpr Type type_of<u64> = Type::u64;
template <> constexpr Type type_of<i64> = Type::i64;
template <> constexpr Type type_of<f64> = Type::f64;
template <> constexpr Type type_of<f16x2> = Type::f16x2;
template <> constexpr Type type_of<u16x2> = Type::u16x2;
template <> constexpr Type type_of<i16x2> = Type::i16x2;
template <> constexpr Type type_of<mix> = Type::mix;
template <> constexpr Type type_of<lanes> = Type::lanes;

// Registers of 32 bits that a value of the type fills.
constexpr int registers(Type type) {
  switch (type) {
    case Type::none: return 0;
    case Type::u64: case Type::i64: case Type::f64: case Type::lanes: return 2;
    case Type::b96: return 3;
    case Type::b128: return 4;
    case Type::b256: return 8;
    case Type::b512: return 16;
    case Type::b1024: return 32;
    default: return 1;
  }
}

constexpr bool is_16_bits(Type type) { return type == Type::f16 || type == Type::u16 || type == Type::i16; }
constexpr bool is_packed(Type type) { return type == Type::f16x2 || type == Type::u16x2 || type == Type::i16x2; }
constexpr bool is_64_bits(Type type) { return type == Type::u64 || type == Type::i64 || type == Type::f64; }
constexpr bool is_float(Type type) {
  return type == Type::f32 || type == Type::f16 || type == Type::f64 || type == Type::f16x2 || type == Type::mix;
}

}  // namespace updp::emulator
