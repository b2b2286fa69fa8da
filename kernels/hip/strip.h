// Sums of a depthwise convolution with seven taps a row, over a strip of neighbouring pixels: 4 bytes of channels a
// lane.
//
//   StripRow<STRIP>        words of one row of the image: the strip's pixels, and three more at both ends
//   StripPixels<T, STRIP>  a row of the image, ready to be multiplied
//   RowTaps<T>             a row of the kernel, ready to be multiplied: from COUNT words, that of tap `first` the first
//   StripSums<T, STRIP>    sums, value(p, v) being that of pixel p and channel v
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

// The values of a word, rounded to T.
template <class T>
DEVICE int pack_word(const float* values) {
  if constexpr (sizeof(T) == 4) {
    return float_bits(values[0]);
  } else {
    return from_float<T>(values[0]).bits | static_cast<unsigned>(from_float<T>(values[1]).bits) << 16;
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

#if defined(__HIP__)

// A matrix instruction that adds to 16 products of 4 x 4 at once, each of a channel of its own: row i of a product is
// pixel i of four neighbours, column j the strip of lane j of four. A lane gives its strip's pixels, and gets its
// strip's sums. Lane i of four also gives the taps of pixel i, which lie under the pixels from the i-th on, with zeros
// before and behind.
template <class T>
struct StripInstruction;

template <>
struct StripInstruction<float16> {
  static constexpr int WORDS = 2;
  static DEVICE Float4 apply(const int* w, const int* x, Float4 sums) {
    return __builtin_amdgcn_mfma_f32_4x4x4f16(__builtin_bit_cast(Half4, Int2{w[0], w[1]}),
                                              __builtin_bit_cast(Half4, Int2{x[0], x[1]}), sums, 0, 0, 0);
  }
};

template <>
struct StripInstruction<bfloat16> {
#if defined(__gfx908__)
  static constexpr int WORDS = 1;
  static DEVICE Float4 apply(const int* w, const int* x, Float4 sums) {
    return __builtin_amdgcn_mfma_f32_4x4x2bf16(__builtin_bit_cast(Short2, w[0]), __builtin_bit_cast(Short2, x[0]), sums,
                                               0, 0, 0);
  }
#else
  static constexpr int WORDS = 2;
  static DEVICE Float4 apply(const int* w, const int* x, Float4 sums) {
    return __builtin_amdgcn_mfma_f32_4x4x4bf16_1k(__builtin_bit_cast(Short4, Int2{w[0], w[1]}),
                                                  __builtin_bit_cast(Short4, Int2{x[0], x[1]}), sums, 0, 0, 0);
  }
#endif
};

template <>
struct StripInstruction<float32> {
  static constexpr int WORDS = 1;
  static DEVICE Float4 apply(const int* w, const int* x, Float4 sums) {
    return __builtin_amdgcn_mfma_f32_4x4x1f32(__builtin_bit_cast(float, w[0]), __builtin_bit_cast(float, x[0]), sums, 0,
                                              0, 0);
  }
};

template <class T, int STRIP>
struct StripShape {
  static constexpr int VALUES = CHANNELS_OF_WORD<T>, GROUPS = divide_up(STRIP, 4);
  static constexpr int WORDS = StripInstruction<T>::WORDS;
  // Of four neighbours' windows, how many instructions walk them.
  static constexpr int STEPS = divide_up(TAPS + 3, WORDS * VALUES);
};

// Words of a channel each, from words of a pixel each; zeros behind the last.
template <class T, int FROM, int TO>
DEVICE void by_channel(const int (&from)[FROM], int (&to)[CHANNELS_OF_WORD<T>][TO]) {
  constexpr int VALUES = CHANNELS_OF_WORD<T>;
#pragma unroll
  for (int i = 0; i < TO; i++) {
    if constexpr (VALUES == 1) {
      to[0][i] = i < FROM ? from[i] : 0;
    } else {
      const unsigned first = 2 * i < FROM ? from[2 * i] : 0, second = 2 * i + 1 < FROM ? from[2 * i + 1] : 0;
      to[0][i] = __builtin_amdgcn_perm(second, first, 0x05040100);
      to[1][i] = __builtin_amdgcn_perm(second, first, 0x07060302);
    }
  }
}

template <class T, int STRIP>
struct StripPixels {
  using Shape = StripShape<T, STRIP>;
  DEVICE explicit StripPixels(const StripRow<STRIP>& row) { by_channel<T>(row.words, words); }
  int words[Shape::VALUES][(Shape::GROUPS - 1) * 4 / Shape::VALUES + Shape::STEPS * Shape::WORDS];
};

template <class T>
struct RowTaps {
  using Shape = StripShape<T, 1>;
  // A lane reads those that lie under the four pixels that all four windows have. Other lanes have read the others.
  static constexpr int COUNT = 4;
  static DEVICE int first() { return MARGIN - lane_of_wave() % 4; }
  RowTaps() = default;
  DEVICE explicit RowTaps(const int (&read)[COUNT]) {
    // All bits in the first, the first two, the first three lanes: conditions would take too many scalar registers.
    const int i = lane_of_wave() % 4, one = (i - 1) >> 31, two = (i - 2) >> 31, three = (i - 3) >> 31;
    const int row[TAPS + 3] = {
        one & of_four<3, 0, 0, 0>(read[0]),    two & of_four<2, 3, 0, 0>(read[0]),
        three & of_four<1, 2, 3, 0>(read[0]),  read[0], read[1], read[2], read[3],
        ~one & of_four<0, 0, 1, 2>(read[3]),   ~two & of_four<0, 0, 0, 1>(read[3]),
        ~three & of_four<0, 0, 0, 0>(read[3])};
    by_channel<T>(row, words);
  }
  int words[Shape::VALUES][Shape::STEPS * Shape::WORDS];

 private:
  // What the A-th, B-th, ... lane of four has, for the first, second, ... of them.
  template <int A, int B, int C, int D>
  static DEVICE int of_four(int word) {
    return __builtin_amdgcn_mov_dpp(word, A | B << 2 | C << 4 | D << 6, 0xf, 0xf, true);
  }
};

template <class T, int STRIP>
struct StripSums {
  using Shape = StripShape<T, STRIP>;
  DEVICE void start(const float (&values)[Shape::VALUES]) {
#pragma unroll
    for (int v = 0; v < Shape::VALUES; v++) {
#pragma unroll
      for (auto& group : groups[v]) group = Float4{values[v], values[v], values[v], values[v]};
    }
  }
  DEVICE float value(int p, int v) const { return groups[v][p / 4][p % 4]; }
  // Whether a zero beside the taps may have met an infinity or a NaN: then some sums are NaN that should not be.
  DEVICE bool spoiled() const {
    bool nan = false;
#pragma unroll
    for (int p = 0; p < STRIP; p++) {
#pragma unroll
      for (int v = 0; v < Shape::VALUES; v++) nan |= value(p, v) != value(p, v);
    }
    return nan;
  }
  Float4 groups[Shape::VALUES][Shape::GROUPS];
};

template <class T, int STRIP>
DEVICE void mix(const StripPixels<T, STRIP>& x, const RowTaps<T>& w, StripSums<T, STRIP>& sums) {
  using Shape = StripShape<T, STRIP>;
#pragma unroll
  for (int s = 0; s < Shape::STEPS * Shape::WORDS; s += Shape::WORDS) {
#pragma unroll
    for (int v = 0; v < Shape::VALUES; v++) {
#pragma unroll
      for (int g = 0; g < Shape::GROUPS; g++) {
        sums.groups[v][g] =
            StripInstruction<T>::apply(w.words[v] + s, x.words[v] + g * 4 / Shape::VALUES + s, sums.groups[v][g]);
      }
    }
  }
}

#else

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
  static constexpr int COUNT = TAPS;
  static DEVICE int first() { return 0; }
  RowTaps() = default;
  DEVICE explicit RowTaps(const int (&words)[COUNT]) {
#pragma unroll
    for (int t = 0; t < TAPS; t++) unpack_word<T>(words[t], values[t]);
  }
  float values[TAPS][CHANNELS_OF_WORD<T>];
};

template <class T, int STRIP>
struct StripSums {
  DEVICE void start(const float (&of_channels)[CHANNELS_OF_WORD<T>]) {
#pragma unroll
    for (auto& pixel : values) {
#pragma unroll
      for (int v = 0; v < CHANNELS_OF_WORD<T>; v++) pixel[v] = of_channels[v];
    }
  }
  DEVICE float value(int p, int v) const { return values[p][v]; }
  DEVICE bool spoiled() const { return false; }
  float values[STRIP][CHANNELS_OF_WORD<T>];
};

template <class T, int STRIP>
DEVICE void mix(const StripPixels<T, STRIP>& x, const RowTaps<T>& w, StripSums<T, STRIP>& sums) {
#pragma unroll
  for (int t = 0; t < TAPS; t++) {
#pragma unroll
    for (int p = 0; p < STRIP; p++) {
#pragma unroll
      for (int v = 0; v < CHANNELS_OF_WORD<T>; v++) {
        sums.values[p][v] = __builtin_fmaf(x.values[p + t][v], w.values[t][v], sums.values[p][v]);
      }
    }
  }
}

#endif
