// Sums of a depthwise convolution with seven taps a row, over a strip of neighbouring pixels: 4 bytes of channels a lane.
//
//   StripRow<STRIP>      what one row of the kernel meets: the strip's pixels, three more at both ends, and the taps
//   StripSums<T, STRIP>  start(), then mix() row by row or two rows at once, then value() of each pixel and channel
#pragma once

#include "mma.h"

constexpr int TAPS = 7, MARGIN = TAPS / 2;

template <class T>
constexpr int CHANNELS_OF_WORD = 4 / sizeof(T);

// sums += x * w, channel by channel of a word.
template <class T>
DEVICE void add_product(float (&sums)[CHANNELS_OF_WORD<T>], int x, int w) {
  if constexpr (sizeof(T) == 4) {
    sums[0] = __builtin_fmaf(float_of_bits(x), float_of_bits(w), sums[0]);
  } else {
#pragma unroll
    for (int v = 0; v < 2; v++) {
      const T x_value{static_cast<unsigned short>(static_cast<unsigned>(x) >> 16 * v)};
      const T w_value{static_cast<unsigned short>(static_cast<unsigned>(w) >> 16 * v)};
      sums[v] = __builtin_fmaf(to_float(x_value), to_float(w_value), sums[v]);
    }
  }
}

#if defined(__HIP__)

using Half2 = _Float16 __attribute__((ext_vector_type(2)));

template <class T>
constexpr bool is_float16 = false;
template <>
constexpr bool is_float16<float16> = true;

// The halves of two words that belong to channel `v`.
DEVICE Half2 both(int upper, int lower, int v) {
  return __builtin_bit_cast(Half2, __builtin_amdgcn_perm(lower, upper, v == 0 ? 0x05040100 : 0x07060302));
}

#endif

template <int STRIP>
struct StripRow {
  int x[STRIP + TAPS - 1], w[TAPS];
};

template <class T, int STRIP>
class StripSums {
  static constexpr int VALUES = CHANNELS_OF_WORD<T>;
  using Row = StripRow<STRIP>;

 public:
  DEVICE void start(const float (&values)[VALUES]) {
#pragma unroll
    for (int p = 0; p < STRIP; p++) {
#pragma unroll
      for (int v = 0; v < VALUES; v++) sums_[p][v] = values[v];
    }
  }

  DEVICE void mix(const Row& row) {
#pragma unroll
    for (int t = 0; t < TAPS; t++) {
#pragma unroll
      for (int p = 0; p < STRIP; p++) add_product<T>(sums_[p], row.x[p + t], row.w[t]);
    }
  }

  DEVICE void mix(const Row& upper, const Row& lower) {
#if defined(__HIP__)
    // Halves: an instruction adds two products, one of each row, whose operands are brought together once for all taps.
    if constexpr (is_float16<T>) {
#pragma unroll
      for (int v = 0; v < VALUES; v++) {
        Half2 x[STRIP + TAPS - 1];
#pragma unroll
        for (int j = 0; j < STRIP + TAPS - 1; j++) x[j] = both(upper.x[j], lower.x[j], v);
#pragma unroll
        for (int t = 0; t < TAPS; t++) {
          const Half2 w = both(upper.w[t], lower.w[t], v);
#pragma unroll
          for (int p = 0; p < STRIP; p++) sums_[p][v] = __builtin_amdgcn_fdot2(x[p + t], w, sums_[p][v], false);
        }
      }
      return;
    }
#endif
    mix(upper);
    mix(lower);
  }

  DEVICE float value(int p, int v) const { return sums_[p][v]; }

 private:
  float sums_[STRIP][VALUES];
};
