// Arithmetic of the instruction set that C++ has no operator for.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "types.h"

namespace updp::emulator {

// Halves.

inline f32 from_f16(u32 half) { return _cvtsh_ss(static_cast<u16>(half)); }
inline u16 to_f16(f32 value) { return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }
inline u16 f16_toward_zero(f32 value) { return _cvtss_sh(value, _MM_FROUND_TO_ZERO); }
inline f32 round_to_f16(f32 value) { return from_f16(to_f16(value)); }
inline f32 low_f16(u32 pair) { return from_f16(pair); }
inline f32 high_f16(u32 pair) { return from_f16(pair >> 16); }

// A double as a float rounded to odd: rounding that to f16 gives what rounding the double at once would.
inline f32 rounded_to_odd(f64 value) {
  const f32 nearest = static_cast<f32>(value);
  const f64 error = value - nearest;
  const u32 pattern = bits<u32>(nearest);
  const bool away = (error < 0) == (nearest > 0);  // nearest lies beyond the value, seen from zero
  const u32 odd = away ? pattern - 1 : pattern + 1;
  return error != 0 && !(pattern & 1) && std::fabs(nearest) <= 3e38f && nearest != 0 ? bits<f32>(odd) : nearest;
}
inline f32 rounded_to_odd(f32 value) { return value; }

inline u32 add_packed_f16(u32 a, u32 b) {
  return to_f16(low_f16(a) + low_f16(b)) | u32{to_f16(high_f16(a) + high_f16(b))} << 16;
}

// Minimum, maximum: a NaN loses against a number, and -0 is less than 0.

template <class T> T minimum(T a, T b) {
  return a != a ? b : b != b ? a : a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
}
template <class T> T maximum(T a, T b) {
  return a != a ? b : b != b ? a : a == b ? (std::signbit(a) ? b : a) : a > b ? a : b;
}
inline f32 maximum(f32 a, int b) { return maximum(a, static_cast<f32>(b)); }
inline f32 minimum(f32 a, int b) { return minimum(a, static_cast<f32>(b)); }

template <class T> T median(T a, T b, T c) { return std::max(std::min(a, b), std::min(std::max(a, b), c)); }
inline f32 median(f32 a, f32 b, f32 c) {
  const f32 lowest = minimum(minimum(a, b), c), middle = maximum(minimum(a, b), minimum(maximum(a, b), c));
  return (a != a) | (b != b) | (c != c) ? lowest : middle;
}

// Conversions: NaN gives 0, what is out of range the nearest there is.

template <class F> i32 to_i32(F value) {
  return value >= F(2147483648.0)   ? 0x7fffffff
         : value < F(-2147483648.0) ? i32(0x80000000)
         : value == value           ? i32(value)
                                    : 0;
}
template <class F> u32 to_u32(F value) {
  return !(value > 0) ? 0 : value >= F(4294967296.0) ? ~0u : u32(i64(value));
}
template <class T, class From> T saturate(From value) {
  const i64 low = std::numeric_limits<T>::min(), high = i64(std::numeric_limits<T>::max());
  return static_cast<T>(std::min(std::max(static_cast<i64>(value), low), high));
}
inline i16 to_normalised_i16(f32 value) { return i16(to_i32(std::nearbyint(minimum(maximum(value, -1), 1) * 32767))); }
inline u16 to_normalised_u16(f32 value) { return u16(to_i32(std::nearbyint(minimum(maximum(value, 0), 1) * 65535))); }
inline u32 to_u8(f32 value) { return u32(to_i32(std::nearbyint(minimum(maximum(value, 0), 255)))); }
inline i32 wrapped_i32(u32 value) { return static_cast<i32>(value); }

// Two halves in one register.
template <class T> u32 pack(T low, T high) { return static_cast<u16>(low) | u32{static_cast<u16>(high)} << 16; }

// Sine, and the parts of a number.

inline f32 sine_of_turns(f32 turns) { return f32(std::sin((turns - std::floor(f64(turns))) * 6.283185307179586)); }
inline f32 cosine_of_turns(f32 turns) { return f32(std::cos((turns - std::floor(f64(turns))) * 6.283185307179586)); }

inline f64 mantissa(f64 value) {
  int exponent;
  return std::isfinite(value) ? std::frexp(value, &exponent) : value;
}
inline i32 exponent(f64 value) {
  int exponent = 0;
  if (std::isfinite(value) && value != 0) std::frexp(value, &exponent);
  return exponent;
}

// The mask's bits: signalling and quiet NaN, -infinity, negative normal, subnormal, zero, then the positive ones.
inline bool is_of_class(f64 value, f64 least_normal, u32 mask) {
  const bool negative = std::signbit(value);
  const f64 size = std::fabs(value);
  u32 kind;
  if (value != value) kind = 3;
  else if (std::isinf(value)) kind = negative ? 4 : 512;
  else if (size == 0) kind = negative ? 32 : 64;
  else if (size < least_normal) kind = negative ? 16 : 128;
  else kind = negative ? 8 : 256;
  return mask & kind;
}

// Division: v_div_scale, v_div_fmas and v_div_fixup around a Newton iteration.

template <class T> struct Flagged {
  T value;
  bool flag;
};

template <class F> constexpr int kBias = sizeof(F) == 4 ? 127 : 1023;
template <class F> constexpr int kDigits = sizeof(F) == 4 ? 23 : 53;
template <class F> constexpr int kFarApart = sizeof(F) == 4 ? 96 : 768;
template <class F> constexpr int kScale = sizeof(F) == 4 ? 64 : 128;

// Far from overflow and underflow, also when divided by another such number: what nearly all operands are.
template <class F> bool is_ordinary(F value) {
  constexpr F most = sizeof(F) == 4 ? F(0x1p31) : F(0x1p255);
  return std::fabs(value) < most && std::fabs(value) > 1 / most;
}
template <class F> bool is_subnormal(F value) { return std::fpclassify(value) == FP_SUBNORMAL; }

// The value (a copy of the denominator or the numerator) scaled so that the iteration neither overflows nor underflows.
// The flag: the result has to be scaled back.
template <class F> Flagged<F> scale_for_division(F value, F denominator, F numerator) {
  if (is_ordinary(denominator) && is_ordinary(numerator)) return {value, false};
  const F up = std::ldexp(value, kScale<F>), quotient = numerator / denominator;
  if (denominator == 0 || numerator == 0) return {std::numeric_limits<F>::quiet_NaN(), false};
  if (!std::isfinite(denominator) || !std::isfinite(numerator)) return {value, false};
  const int d = std::ilogb(denominator), n = std::ilogb(numerator);
  if (n - d >= kFarApart<F>) return {value == denominator ? up : value, true};
  if (is_subnormal(denominator)) return {up, false};
  if (d >= kBias<F> - 1) {
    const F down = std::ldexp(value, -kScale<F>);
    if (is_subnormal(quotient) || quotient == 0) return {value == denominator ? down : value, true};
    return {down, false};
  }
  if (is_subnormal(quotient) || quotient == 0) return {value == numerator ? up : value, true};
  if (n + kBias<F> <= kDigits<F>) return {up, false};
  return {value, false};
}

// Rounded once, after it has been scaled: the result may be subnormal.
template <class F> F scaled_fma(F a, F b, F c, bool scale) {
  if (!scale) return std::fma(a, b, c);
  const __float128 up = std::ldexp(1.0, kScale<F>), sum = __float128(a) * b + c;
  return static_cast<F>(std::ilogb(c) > 0 ? sum * up : sum / up);
}

// The quotient where it is one, and what division gives for zeros, infinities and NaNs where it is not.
template <class F> F fix_quotient(F quotient, F denominator, F numerator) {
  const bool negative = std::signbit(denominator) != std::signbit(numerator);
  const auto with_sign = [&](F size) { return negative ? -size : size; };
  if (is_ordinary(denominator) && is_ordinary(numerator)) return with_sign(std::fabs(quotient));
  const F infinity = std::numeric_limits<F>::infinity();
  if (numerator != numerator) return numerator;
  if (denominator != denominator) return denominator;
  if ((denominator == 0 && numerator == 0) || (std::isinf(denominator) && std::isinf(numerator)))
    return -std::numeric_limits<F>::quiet_NaN();
  if (denominator == 0 || std::isinf(numerator)) return with_sign(infinity);
  if (std::isinf(denominator) || numerator == 0) return with_sign(0);
  if (std::ilogb(numerator) - std::ilogb(denominator) < -(kBias<F> + kDigits<F>)) return with_sign(0);
  if (quotient != quotient) return with_sign(infinity);  // the iteration overflowed
  return with_sign(std::fabs(quotient));
}

// Integers.

inline i32 signed_24(u32 value) { return i32(value << 8) >> 8; }
inline u32 product_24(u32 a, u32 b) { return u32(signed_24(a)) * u32(signed_24(b)); }
inline Flagged<u32> with_carry(u64 sum) { return {u32(sum), (sum >> 32) != 0}; }
inline Flagged<u64> multiply_add(u64 product, u64 c) { return {product + c, product + c < product}; }
inline u64 lanes_below(int lane) { return (u64{1} << lane) - 1; }
inline u32 difference(u32 a, u32 b) { return a > b ? a - b : b - a; }

// The field that bits 0-5 of `where` say begins, and bits 16-22 how long it is.
template <class T> T extract_bits(T value, u32 where) {
  constexpr u32 width = 8 * sizeof(T);
  const u32 first = where & (width - 1), count = where >> 16 & 127;
  if (count == 0) return 0;
  if (first + count >= width) return value >> first;
  return static_cast<T>(static_cast<T>(static_cast<std::make_unsigned_t<T>>(value) << (width - first - count)) >>
                        (width - count));
}

inline u64 reverse_bits(u64 value) {
  value = __builtin_bswap64(value);
  value = (value >> 4 & 0x0f0f0f0f0f0f0f0f) | (value & 0x0f0f0f0f0f0f0f0f) << 4;
  value = (value >> 2 & 0x3333333333333333) | (value & 0x3333333333333333) << 2;
  return (value >> 1 & 0x5555555555555555) | (value & 0x5555555555555555) << 1;
}

inline u32 byte_differences(u32 a, u32 b) {
  u32 sum = 0;
  for (int i = 0; i < 32; i += 8) sum += difference(a >> i & 255, b >> i & 255);
  return sum;
}

inline u32 word_differences(u32 a, u32 b) {
  return difference(a & 0xffff, b & 0xffff) + difference(a >> 16, b >> 16);
}

// Bytes of the second operand that are zero do not count.
inline u32 masked_byte_differences(u32 a, u32 b) {
  u32 sum = 0;
  for (int i = 0; i < 32; i += 8) sum += (b >> i & 255) ? difference(a >> i & 255, b >> i & 255) : 0;
  return sum;
}

inline u32 average_bytes(u32 a, u32 b, u32 round_up) {
  u32 result = 0;
  for (int i = 0; i < 32; i += 8) result |= ((a >> i & 255) + (b >> i & 255) + (round_up >> i & 1)) >> 1 << i;
  return result;
}

inline u32 insert_byte(u32 into, u32 position, u32 byte) {
  return (into & ~(255u << 8 * position)) | (byte & 255) << 8 * position;
}

// Each byte of the selector picks one of the eight of b and a, a sign (8-11), 0 (12) or 0xff (13 and above).
inline u32 permute_bytes(u32 a, u32 b, u32 selectors) {
  const u64 bytes = join(b, a);
  u32 result = 0;
  for (int i = 0; i < 32; i += 8) {
    const u32 selector = selectors >> i & 255;
    u32 byte = 0;
    if (selector < 8) byte = bytes >> 8 * selector & 255;
    else if (selector > 12) byte = 255;
    else if (selector < 12) byte = bytes >> (16 * (selector - 8) + 15) & 1 ? 255 : 0;
    result |= byte << i;
  }
  return result;
}

// c + the sum of `count` products of elements of `width` bits, signed or not as T is.
template <int count, int width, class T> u32 dot(u32 a, u32 b, u32 c) {
  for (int i = 0; i < count; i++) {
    const int left = 32 - width * (i + 1), right = 32 - width;
    c += u32(static_cast<T>(a << left) >> right) * u32(static_cast<T>(b << left) >> right);
  }
  return c;
}

}  // namespace updp::emulator
