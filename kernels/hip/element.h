// The dtypes of tensors: float32, float16, bfloat16. Values are converted to and from float (round to nearest even) for
// every sum; `pack` and `unpack` do that for a Chunk of VECTOR<T> values.
#pragma once

#include "device.h"

using float32 = float;
struct float16 {
  unsigned short bits;
};
struct bfloat16 {
  unsigned short bits;
};

// Values in 16 bytes.
template <class T>
constexpr int VECTOR = 16 / sizeof(T);

DEVICE unsigned float_bits(float x) {
#if defined(__HIP__)
  return __builtin_bit_cast(unsigned, x);
#else
  return __float_as_uint(x);
#endif
}

DEVICE float float_of_bits(unsigned bits) {
#if defined(__HIP__)
  return __builtin_bit_cast(float, bits);
#else
  return __uint_as_float(bits);
#endif
}

// The upper halves of two words in one, `low`'s below.
DEVICE unsigned upper_halves(unsigned low, unsigned high) {
#if defined(__HIP__)
  return __builtin_amdgcn_perm(high, low, 0x07060302);
#else
  return __byte_perm(low, high, 0x7632);
#endif
}

// The lower ones.
DEVICE unsigned lower_halves(unsigned low, unsigned high) {
#if defined(__HIP__)
  return __builtin_amdgcn_perm(high, low, 0x05040100);
#else
  return __byte_perm(low, high, 0x5410);
#endif
}

DEVICE float to_float(float32 x) { return x; }

DEVICE float to_float(float16 x) {
#if defined(__HIP__)
  return __builtin_bit_cast(_Float16, x.bits);
#else
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
#endif
}

DEVICE float to_float(bfloat16 x) { return float_of_bits(static_cast<unsigned>(x.bits) << 16); }

template <class T>
DEVICE T from_float(float x);

template <>
DEVICE float32 from_float<float32>(float x) {
  return x;
}

template <>
DEVICE float16 from_float<float16>(float x) {
#if defined(__HIP__)
  return {__builtin_bit_cast(unsigned short, static_cast<_Float16>(x))};
#else
  float16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
#endif
}

// The upper half is x rounded, unless x is a NaN whose payload the rounding carries over into infinity or zero.
DEVICE unsigned rounded_to_half(float x) { return float_bits(x) + 0x7fff + (float_bits(x) >> 16 & 1); }

constexpr unsigned QUIET_NAN = 0x7fc00000;

template <>
DEVICE bfloat16 from_float<bfloat16>(float x) {
  return {static_cast<unsigned short>((x == x ? rounded_to_half(x) : QUIET_NAN) >> 16)};
}

// Two values in a word, neither of which is a NaN.
template <class T>
DEVICE unsigned pair_of_numbers(float low, float high) {
  return from_float<T>(low).bits | static_cast<unsigned>(from_float<T>(high).bits) << 16;
}

template <>
DEVICE unsigned pair_of_numbers<bfloat16>(float low, float high) {
  return upper_halves(rounded_to_half(low), rounded_to_half(high));
}

template <class T>
DEVICE Chunk chunk_of(const T (&values)[VECTOR<T>]) {
  int words[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if constexpr (sizeof(T) == 4) {
      words[i] = static_cast<int>(float_bits(values[i]));
    } else {
      words[i] = static_cast<int>(values[2 * i].bits | static_cast<unsigned>(values[2 * i + 1].bits) << 16);
    }
  }
  return Chunk{words[0], words[1], words[2], words[3]};
}

template <class T>
DEVICE Chunk pack(const float* values) {
  T rounded[VECTOR<T>];
#pragma unroll
  for (int v = 0; v < VECTOR<T>; v++) rounded[v] = from_float<T>(values[v]);
  return chunk_of(rounded);
}

#if defined(__HIP__)
template <>
DEVICE Chunk pack<float16>(const float* values) {
  using Half2 = _Float16 __attribute__((ext_vector_type(2)));
  int words[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const Half2 pair{static_cast<_Float16>(values[2 * i]), static_cast<_Float16>(values[2 * i + 1])};
    words[i] = __builtin_bit_cast(int, pair);
  }
  return Chunk{words[0], words[1], words[2], words[3]};
}
#endif

// NaNs are rare: one branch for all values costs less than a choice for each.
template <>
DEVICE Chunk pack<bfloat16>(const float* values) {
  float numbers[8];
  bool nan = false;
#pragma unroll
  for (int v = 0; v < 8; v++) {
    numbers[v] = values[v];
    nan |= values[v] != values[v];
  }
  if (__builtin_expect(nan, false)) {
#pragma unroll
    for (int v = 0; v < 8; v++) numbers[v] = values[v] == values[v] ? values[v] : float_of_bits(QUIET_NAN);
  }
  int words[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    words[i] = static_cast<int>(pair_of_numbers<bfloat16>(numbers[2 * i], numbers[2 * i + 1]));
  }
  return Chunk{words[0], words[1], words[2], words[3]};
}

template <class T>
DEVICE void unpack(Chunk chunk, float* values) {
  const int words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    unsigned word = static_cast<unsigned>(words[i]);
    if constexpr (sizeof(T) == 4) {
      values[i] = float_of_bits(word);
    } else {
      values[2 * i] = to_float(T{static_cast<unsigned short>(word)});
      values[2 * i + 1] = to_float(T{static_cast<unsigned short>(word >> 16)});
    }
  }
}
