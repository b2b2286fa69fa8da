// Sums of a depthwise convolution over a patch of pixels: ROWS rows of a strip (strip.h), 4 bytes of channels a lane.
// Unlike there, a kernel of any size and stride that is known at compile time.
//
//   Patch<T, TAPS, STRIDE, STRIP>  the kernel, and how many pixels of a row its windows over a strip span
//   PatchPixels<Patch>             a row of the image, ready to be multiplied
//   PatchTaps<Patch>               a row of the kernel, ready to be multiplied
//   mix                            sums += what a row of the kernel adds to each pixel and channel
#pragma once

#include "strip.h"

template <class T_, int TAPS_, int STRIDE_, int STRIP_>
struct Patch {
  using T = T_;
  static constexpr int TAPS = TAPS_, STRIDE = STRIDE_, STRIP = STRIP_;
  static constexpr int VALUES = CHANNELS_OF_WORD<T>;
  static constexpr int PIXELS = (STRIP - 1) * STRIDE + TAPS;
  // Rows of the image under the windows of `rows` rows of results.
  static constexpr DEVICE int span(int rows) { return (rows - 1) * STRIDE + TAPS; }
};

#if defined(__HIP__)

// In matrix instructions of four windows each, as in strip.h: those of a strip's group `g` begin at pixel
// 4 * g * STRIDE.
template <class Patch>
struct PatchSteps {
  using Strip = StripShape<typename Patch::T, Patch::STRIP>;
  static constexpr int WORDS = Strip::WORDS, GROUPS = Strip::GROUPS;
  static constexpr int SPAN = 3 * Patch::STRIDE + Patch::TAPS;  // pixels under four windows
  static constexpr int LENGTH = divide_up(SPAN, WORDS * Patch::VALUES) * WORDS;
  static constexpr DEVICE int start(int group) { return group * 4 * Patch::STRIDE / Patch::VALUES; }
};

template <class Patch>
struct PatchPixels {
  using Steps = PatchSteps<Patch>;
  DEVICE explicit PatchPixels(const int (&read)[Patch::PIXELS]) { by_channel<typename Patch::T>(read, words); }
  int words[Patch::VALUES][Steps::start(Steps::GROUPS - 1) + Steps::LENGTH];
};

template <class Patch>
struct PatchTaps {
  using Steps = PatchSteps<Patch>;
  PatchTaps() = default;
  // Lane i of four needs the taps under the i-th of four windows, and zeros before and behind them.
  DEVICE explicit PatchTaps(const int (&read)[Patch::TAPS]) {
    int row[Steps::SPAN];
#pragma unroll
    for (int j = 0; j < Steps::SPAN; j++) {
      row[j] = 0;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int tap = j - i * Patch::STRIDE;
        if (0 <= tap && tap < Patch::TAPS) row[j] |= only_lane(i) & read[tap];
      }
    }
    by_channel<typename Patch::T>(row, words);
  }
  int words[Patch::VALUES][Steps::LENGTH];

 private:
  // All bits in lane i of four, none in the others.
  static DEVICE int only_lane(int i) { return ((lane_of_wave() % 4 ^ i) - 1) >> 31; }
};

template <class Patch>
DEVICE void mix(const PatchPixels<Patch>& x, const PatchTaps<Patch>& w,
                StripSums<typename Patch::T, Patch::STRIP>& sums) {
  using Steps = PatchSteps<Patch>;
#pragma unroll
  for (int s = 0; s < Steps::LENGTH; s += Steps::WORDS) {
#pragma unroll
    for (int v = 0; v < Patch::VALUES; v++) {
#pragma unroll
      for (int g = 0; g < Steps::GROUPS; g++) {
        sums.groups[v][g] = StripInstruction<typename Patch::T>::apply(
            w.words[v] + s, x.words[v] + Steps::start(g) + s, sums.groups[v][g]);
      }
    }
  }
}

#else

template <class Patch>
struct PatchPixels {
  DEVICE explicit PatchPixels(const int (&read)[Patch::PIXELS]) {
#pragma unroll
    for (int j = 0; j < Patch::PIXELS; j++) unpack_word<typename Patch::T>(read[j], values[j]);
  }
  float values[Patch::PIXELS][Patch::VALUES];
};

template <class Patch>
struct PatchTaps {
  PatchTaps() = default;
  DEVICE explicit PatchTaps(const int (&read)[Patch::TAPS]) {
#pragma unroll
    for (int t = 0; t < Patch::TAPS; t++) unpack_word<typename Patch::T>(read[t], values[t]);
  }
  float values[Patch::TAPS][Patch::VALUES];
};

template <class Patch>
DEVICE void mix(const PatchPixels<Patch>& x, const PatchTaps<Patch>& w,
                StripSums<typename Patch::T, Patch::STRIP>& sums) {
#pragma unroll
  for (int t = 0; t < Patch::TAPS; t++) {
#pragma unroll
    for (int p = 0; p < Patch::STRIP; p++) {
#pragma unroll
      for (int v = 0; v < Patch::VALUES; v++) {
        sums.values[p][v] = __builtin_fmaf(x.values[p * Patch::STRIDE + t][v], w.values[t][v], sums.values[p][v]);
      }
    }
  }
}

#endif
