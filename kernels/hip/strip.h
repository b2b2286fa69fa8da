// Sums of a depthwise convolution with seven taps a row, over a strip of neighbouring pixels: 4 bytes of channels a
// lane.
//
//   StripRow<STRIP>      what one row of the kernel meets: the strip's pixels, three more at both ends, and the taps
//   StripRows<T, STRIP>  one or two of them, ready to be mixed
//   mix_row, mix_into    sums += what they add to each pixel and channel
#pragma once

#include "mma.h"

constexpr int TAPS = 7, MARGIN = TAPS / 2;

template <class T>
constexpr int CHANNELS_OF_WORD = 4 / sizeof(T);

// The values of a word, channel by channel.
template <class T>
DEVICE void unpack_word(int word, float (&values)[CHANNELS_OF_WORD<T>]) {
  if constexpr (sizeof(T) == 4) {
    values[0] = float_of_bits(word);
  } else {
#pragma unroll
    for (int v = 0; v < 2; v++) {
      values[v] = to_float(T{static_cast<unsigned short>(static_cast<unsigned>(word) >> 16 * v)});
    }
  }
}

// sums += x * w, channel by channel of two words.
template <class T>
DEVICE void add_product(float (&sums)[CHANNELS_OF_WORD<T>], int x, int w) {
  float x_values[CHANNELS_OF_WORD<T>], w_values[CHANNELS_OF_WORD<T>];
  unpack_word<T>(x, x_values);
  unpack_word<T>(w, w_values);
#pragma unroll
  for (int v = 0; v < CHANNELS_OF_WORD<T>; v++) sums[v] = __builtin_fmaf(x_values[v], w_values[v], sums[v]);
}

template <int STRIP>
struct StripRow {
  static constexpr int PIXELS = STRIP + TAPS - 1;
  int x[PIXELS], w[TAPS];
};

// sums += what one row of the kernel adds.
template <class T, int STRIP>
DEVICE void mix_row(const StripRow<STRIP>& row, float (&sums)[STRIP][CHANNELS_OF_WORD<T>]) {
#pragma unroll
  for (int t = 0; t < TAPS; t++) {
#pragma unroll
    for (int p = 0; p < STRIP; p++) add_product<T>(sums[p], row.x[p + t], row.w[t]);
  }
}

// COUNT rows of the kernel, ready to be mixed.
template <class T, int STRIP>
class StripRows {
  static constexpr int VALUES = CHANNELS_OF_WORD<T>;
  using Row = StripRow<STRIP>;

 public:
  static constexpr int COUNT = 1;

  DEVICE explicit StripRows(const Row (&rows)[COUNT]) {
#pragma unroll
    for (int j = 0; j < Row::PIXELS; j++) unpack_word<T>(rows[0].x[j], x_[j]);
#pragma unroll
    for (int t = 0; t < TAPS; t++) unpack_word<T>(rows[0].w[t], w_[t]);
  }

  DEVICE void mix_into(float (&sums)[STRIP][VALUES]) const {
#pragma unroll
    for (int t = 0; t < TAPS; t++) {
#pragma unroll
      for (int p = 0; p < STRIP; p++) {
#pragma unroll
        for (int v = 0; v < VALUES; v++) sums[p][v] = __builtin_fmaf(x_[p + t][v], w_[t][v], sums[p][v]);
      }
    }
  }

 private:
  float x_[Row::PIXELS][VALUES], w_[TAPS][VALUES];
};

#if defined(__HIP__)

// Halves: an instruction adds two products, one of each row, whose operands are brought together once for all taps.
template <int STRIP>
class StripRows<float16, STRIP> {
  using Row = StripRow<STRIP>;
  using Half2 = _Float16 __attribute__((ext_vector_type(2)));

 public:
  static constexpr int COUNT = 2;

  DEVICE explicit StripRows(const Row (&rows)[COUNT]) {
#pragma unroll
    for (int v = 0; v < 2; v++) {
#pragma unroll
      for (int j = 0; j < Row::PIXELS; j++) x_[j][v] = both(rows[0].x[j], rows[1].x[j], v);
#pragma unroll
      for (int t = 0; t < TAPS; t++) w_[t][v] = both(rows[0].w[t], rows[1].w[t], v);
    }
  }

  DEVICE void mix_into(float (&sums)[STRIP][2]) const {
#pragma unroll
    for (int t = 0; t < TAPS; t++) {
#pragma unroll
      for (int p = 0; p < STRIP; p++) {
#pragma unroll
        for (int v = 0; v < 2; v++) sums[p][v] = __builtin_amdgcn_fdot2(x_[p + t][v], w_[t][v], sums[p][v], false);
      }
    }
  }

 private:
  // The halves of two words that belong to channel `v`.
  static DEVICE Half2 both(int upper, int lower, int v) {
    return __builtin_bit_cast(Half2, __builtin_amdgcn_perm(lower, upper, v == 0 ? 0x05040100 : 0x07060302));
  }

  Half2 x_[Row::PIXELS][2], w_[TAPS][2];
};

#endif
