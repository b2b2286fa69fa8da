// Sums of a depthwise convolution with seven taps a row, over a strip of neighbouring pixels: 4 bytes of channels a
// lane.
//
//   StripRow<STRIP>        words of one row of the image: the strip's pixels, and three more at both ends
//   StripPixels<T, STRIP>  a row of the image, ready to be multiplied
//   RowTaps<T>             a row of the kernel, ready to be multiplied
//   mix                    sums += what a row of the kernel adds to each pixel and channel
//   add_product            the same for one pixel and one tap
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
  int words[PIXELS];
};

template <class T, int STRIP>
struct StripPixels {
  DEVICE explicit StripPixels(const StripRow<STRIP>& row) {
#pragma unroll
    for (int j = 0; j < row.PIXELS; j++) unpack_word<T>(row.words[j], values[j]);
  }
  float values[StripRow<STRIP>::PIXELS][CHANNELS_OF_WORD<T>];
};

template <class T>
struct RowTaps {
  RowTaps() = default;
  DEVICE explicit RowTaps(const int (&words)[TAPS]) {
#pragma unroll
    for (int t = 0; t < TAPS; t++) unpack_word<T>(words[t], values[t]);
  }
  float values[TAPS][CHANNELS_OF_WORD<T>];
};

template <class T, int STRIP>
DEVICE void mix(const StripPixels<T, STRIP>& x, const RowTaps<T>& w, float (&sums)[STRIP][CHANNELS_OF_WORD<T>]) {
#pragma unroll
  for (int t = 0; t < TAPS; t++) {
#pragma unroll
    for (int p = 0; p < STRIP; p++) {
#pragma unroll
      for (int v = 0; v < CHANNELS_OF_WORD<T>; v++) {
        sums[p][v] = __builtin_fmaf(x.values[p + t][v], w.values[t][v], sums[p][v]);
      }
    }
  }
}

#if defined(__HIP__)

// Halves: an instruction adds the products of two neighbouring taps, which are brought together for a channel. The last
// tap has no neighbour, and stays alone: a zero beside it would meet another window's pixel, perhaps a NaN.
using Half2 = _Float16 __attribute__((ext_vector_type(2)));

DEVICE Half2 neighbours(int first, int second, int channel) {
  return __builtin_bit_cast(Half2, __builtin_amdgcn_perm(second, first, channel == 0 ? 0x05040100 : 0x07060302));
}

template <int STRIP>
struct StripPixels<float16, STRIP> {
  static constexpr int PIXELS = StripRow<STRIP>::PIXELS;
  DEVICE explicit StripPixels(const StripRow<STRIP>& row) {
#pragma unroll
    for (int j = 0; j < PIXELS; j++) words[j] = __builtin_bit_cast(Half2, row.words[j]);
#pragma unroll
    for (int v = 0; v < 2; v++) {
#pragma unroll
      for (int j = 0; j + 1 < PIXELS; j++) pairs[j][v] = neighbours(row.words[j], row.words[j + 1], v);
    }
  }
  Half2 words[PIXELS], pairs[PIXELS - 1][2];
};

template <>
struct RowTaps<float16> {
  RowTaps() = default;
  DEVICE explicit RowTaps(const int (&words)[TAPS]) {
#pragma unroll
    for (int v = 0; v < 2; v++) {
#pragma unroll
      for (int t = 0; t + 1 < TAPS; t += 2) pairs[t / 2][v] = neighbours(words[t], words[t + 1], v);
    }
    last = __builtin_bit_cast(Half2, words[TAPS - 1]);
  }
  Half2 pairs[TAPS / 2][2], last;
};

template <int STRIP>
DEVICE void mix(const StripPixels<float16, STRIP>& x, const RowTaps<float16>& w, float (&sums)[STRIP][2]) {
#pragma unroll
  for (int v = 0; v < 2; v++) {
#pragma unroll
    for (int t = 0; t + 1 < TAPS; t += 2) {
#pragma unroll
      for (int p = 0; p < STRIP; p++) {
        sums[p][v] = __builtin_amdgcn_fdot2(x.pairs[p + t][v], w.pairs[t / 2][v], sums[p][v], false);
      }
    }
#pragma unroll
    for (int p = 0; p < STRIP; p++) sums[p][v] = __builtin_fmaf(x.words[p + TAPS - 1][v], w.last[v], sums[p][v]);
  }
}

#endif
