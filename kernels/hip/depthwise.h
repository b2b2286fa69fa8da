// The depthwise half of depthwise_pointwise: from an image straight into the operand in LDS that the 1x1 half takes.
//
//   MixedTile                    a tile of neighbouring output pixels; all waves compute all its rows
//   AlignedDepthwise             for channels that are a multiple of VECTOR<T>
//   AnyDepthwise                 nothing assumed; a value at a time
//
// A lane mixes 4 bytes of channels. Of the 7x7 kernel at stride 1, it reads each row of the image once for a whole
// strip of 7 or 8 pixels; where maps allow, for two strips, one below the other: eight rows instead of twice seven.
#pragma once

#include "strip.h"
#include "windows.h"

template <class T_, int M_, int N_, int K_, int WAVES_>
struct MixedTile {
  using T = T_;
  static constexpr int M = M_, N = N_, K = K_, WAVES = WAVES_;
  static constexpr int STRIP = M % 7 == 0 ? 7 : 8, STRIPS = M / STRIP;
  static constexpr int LANES = WAVES * WAVE_LANES;
  static constexpr int CHUNKS = K / VECTOR<T>;  // of a row
  // In LDS, rows lie so far apart that the same chunk of eight rows touches each of the 32 banks once.
  static constexpr int ROW = CHUNKS + 1, BUFFERS = WAVES <= 2 ? 1 : 2;
  static constexpr int BUFFER = M * ROW;
  // What the last block has past M is of no pixel, and not stored; it lies in the next buffer, or beyond the last.
  static constexpr int BLOCKS_M = divide_up(M, 16), BEYOND = (BLOCKS_M * 16 - M) * ROW;
  static constexpr int WAVE_N = N / WAVES, BLOCKS_N = WAVE_N / Mma<T>::COLUMNS;
  static constexpr bool REST = WAVE_N % Mma<T>::COLUMNS != 0;
  static_assert(CHUNKS % 4 == 0, "a row in LDS has a multiple of 64 bytes");
  static_assert(!REST || (WAVE_N % Mma<T>::COLUMNS == 16 && Mma<T>::COLUMNS == 32), "two waves' rests are a block");

  static DEVICE int wave_row() { return 0; }
  static DEVICE int wave_column() { return wave_of_workgroup() * (BLOCKS_N * Mma<T>::COLUMNS); }
};

// Whether a 7x7 kernel slides along strips that each lie within a row, whose first and last alone reach over its ends.
template <class Tile>
DEVICE bool slides(const Convolution& c) {
  return c.kernel_h == TAPS && c.kernel_w == TAPS && c.stride_h == 1 && c.stride_w == 1 && c.pad_h == MARGIN &&
         c.pad_w == MARGIN && c.out_width % Tile::STRIP == 0;
}

// Whether all strips of a tile then have their pair right below.
template <class Tile>
DEVICE bool in_pairs(const Convolution& c) {
  const bool whole = c.out_width == Tile::M / 2 || c.out_width == Tile::M / 4 || c.out_width == Tile::M / 8;
  return slides<Tile>(c) && c.out_height % 2 == 0 && whole;
}

// What a lane mixes of a step: always the same word of channels of several strips. Four lanes side by side have the
// same word of four strips, and the sixteen words of 64 lanes are a line of 64 bytes.
template <class Tile>
struct Share {
  using T = typename Tile::T;
  static constexpr int VALUES = CHANNELS_OF_WORD<T>, WORDS = Tile::K / VALUES;
  static constexpr int STRIPS = Tile::LANES / WORDS, TURNS = Tile::STRIPS / STRIPS;
  static_assert(Tile::LANES % WORDS == 0 && Tile::STRIPS % STRIPS == 0 && STRIPS % 4 == 0, "all lanes mix as much");

  static DEVICE int word() { return lane_of_workgroup() / (16 * STRIPS) * 16 + lane_of_workgroup() / 4 % 16; }
  static DEVICE int place() { return lane_of_workgroup() / 64 * 4 % STRIPS + lane_of_workgroup() % 4; }

  // Rounds the values of pixel `p` of the strip to T, and puts them into their row of the operand. NUMBERS: none is a
  // NaN.
  template <bool NUMBERS>
  static DEVICE void put(Chunk* operand, int strip, int p, const float (&values)[VALUES]) {
    unsigned word;
    if constexpr (VALUES == 1) {
      word = float_bits(values[0]);
    } else if constexpr (NUMBERS) {
      word = pair_of_numbers<T>(values[0], values[1]);
    } else {
      word = from_float<T>(values[0]).bits | static_cast<unsigned>(from_float<T>(values[1]).bits) << 16;
    }
    reinterpret_cast<unsigned*>(operand + (strip * Tile::STRIP + p) * Tile::ROW)[Share::word()] = word;
  }
};

template <bool VALUE>
struct Truth {
  constexpr DEVICE operator bool() const { return VALUE; }
};

template <class Tile>
class AlignedDepthwise {
  using T = typename Tile::T;
  using Lane = Share<Tile>;
  using Taps = RowTaps<T>;
  static constexpr int VALUES = Lane::VALUES, STRIP = Tile::STRIP;
  static constexpr int ABOVE = -TAPS - 1;  // a window's first row from where it does not reach the image
  static_assert(Lane::TURNS == 2, "a lane has one pair of strips");

 public:
  // The windows of the tile from pixel `first` on, of the `pixels` there are; the images they lie in span less than
  // 2 GB. `weight` is [kernel_h, kernel_w, channels], `bias` [channels] or null.
  DEVICE AlignedDepthwise(const T* x, const T* weight, const float* bias, const Convolution& c, int first, int pixels)
      : c_(c), corner_(c, first), x_(window_origin(x, c, corner_)), weight_(weight), bias_(bias),
        biased_(bias ? c.channels : 0), way_(uniform(in_pairs<Tile>(c) ? PAIRS : slides<Tile>(c) ? STRIPS : PIXELS)),
        first_(first), pixels_(pixels), number_(Lane::place()), below_(Lane::STRIPS) {
    if (way_ == PAIRS) {
      below_ = c.out_width / STRIP;
      number_ += number_ / below_ * below_;
    }
    strip_ = strip(number_);
  }

  // What a lane mixes first of a step.
  struct Ahead {
    StripRow<STRIP> pixels;
    int taps[Taps::COUNT];
    float start[VALUES];
  };

  // Asks for what `put` of the channels from `start` on begins with.
  DEVICE void ask(int start, Ahead& ahead) const {
    if (anew(way_) != PIXELS) ask(lines(strip_, start + Lane::word() * VALUES), ahead);
  }

  // Fills the operand with the channels from `start` on. `meanwhile` is done once on the way, where registers are free.
  template <class Meanwhile>
  DEVICE void put(int start, Ahead& ahead, Chunk* operand, Meanwhile meanwhile) const {
    const int channel = start + Lane::word() * VALUES;
    const int way = anew(way_);
    bool done = false;
    if (way == PAIRS) {
      done = slide<true>(lines(strip_, channel), {}, ahead, operand, meanwhile);
    } else if (way == STRIPS) {
      // Not kept in registers from step to step, which paired strips have no room for.
      const Lines below = lines(strip(number_ + anew(Lane::STRIPS)), channel);
      done = slide<false>(lines(strip_, channel), below, ahead, operand, meanwhile);
    }
    if (!done) {
#pragma unroll 1
      for (int turn = 0; turn < 2; turn++) walk(number_ + turn * below_, channel, operand);
      meanwhile();
    }
  }

 private:
  enum Way { PIXELS, STRIPS, PAIRS };  // by which a lane goes

  // Where a strip begins, in bytes; the first tap's row of the image; whether there are pixels left and right of it.
  struct Strip {
    unsigned begin;
    int top;
    bool left, right;
  };

  DEVICE Strip strip(int number) const {
    const int pixel = first_ + number * STRIP;
    const Window window(c_, pixel);
    return {offset_of(window) + MARGIN * c_.channels * static_cast<unsigned>(sizeof(T)),
            pixel < pixels_ ? window.top : ABOVE, window.left >= 0,
            window.left + (STRIP + TAPS - 1) * c_.channels <= c_.line()};
  }

  // Where a lane reads of a strip: a channel's word in the strip's first row of the image, of the taps and of the bias.
  struct Lines {
    unsigned left, middle, right, taps, bias;
    int top;
    // Pixels, and taps, lie `pixel_bytes` apart, the same for all lanes: those distances stay in scalar registers.
    int pixel_bytes, line_bytes;
  };

  DEVICE Lines lines(const Strip& strip, int channel) const {
    const bool exists = channel < c_.channels;
    const unsigned at = channel * sizeof(T);
    const int pixel_bytes = anew(c_.channels * sizeof(T));
    // Moving on from NOWHERE is nowhere, too.
    const unsigned begin = strip.begin + at;
    return {strip.left ? begin - MARGIN * pixel_bytes : Buffer::NOWHERE,
            begin,
            strip.right ? begin + STRIP * pixel_bytes : Buffer::NOWHERE,
            exists ? at + Taps::first() * pixel_bytes : Buffer::NOWHERE,
            channel < biased_ ? channel * static_cast<unsigned>(sizeof(float)) : Buffer::NOWHERE,
            exists ? strip.top : ABOVE,
            pixel_bytes,
            c_.width * pixel_bytes};
  }

  DEVICE void load_pixels(const Lines& lines, int row, StripRow<STRIP>& pixels) const {
    const bool in_column = static_cast<unsigned>(lines.top + row) < static_cast<unsigned>(c_.height);
    const int line = anew(row * lines.line_bytes);
#pragma unroll
    for (int j = 0; j < pixels.PIXELS; j++) {
      const unsigned from = j < MARGIN ? lines.left : j < MARGIN + STRIP ? lines.middle : lines.right;
      const int first = j < MARGIN ? 0 : j < MARGIN + STRIP ? MARGIN : MARGIN + STRIP;
      pixels.words[j] = x_.load_word(in_column ? from : Buffer::NOWHERE, line + (j - first) * lines.pixel_bytes);
    }
  }

  DEVICE void load_taps(const Lines& lines, int row, int (&taps)[Taps::COUNT]) const {
    const int line = anew(row * TAPS * lines.pixel_bytes);
#pragma unroll
    for (int t = 0; t < Taps::COUNT; t++) taps[t] = weight_.load_word(lines.taps, line + t * lines.pixel_bytes);
  }

  DEVICE void ask(const Lines& lines, Ahead& ahead) const {
    load_pixels(lines, 0, ahead.pixels);
    load_taps(lines, 0, ahead.taps);
#pragma unroll
    for (int v = 0; v < VALUES; v++) {
      ahead.start[v] = float_of_bits(bias_.load_word(lines.bias, v * static_cast<int>(sizeof(float))));
    }
  }

  // A 7x7 kernel at stride 1: a lane reads each row of the image once for the whole strip, and for the one `below` it
  // if they are PAIRED. False, for all lanes of the wave, where the results are of no use.
  template <bool PAIRED, class Meanwhile>
  DEVICE bool slide(const Lines& lines, const Lines& below, Ahead& ahead, Chunk* operand, Meanwhile meanwhile) const {
    StripSums<T, STRIP> sums[2];
    sums[0].start(ahead.start);
    sums[1].start(ahead.start);
    StripRow<STRIP> second;
    if constexpr (!PAIRED) load_pixels(below, 0, second);
    // A row is on its way while the one above is mixed. A pair's second strip is one row behind with its taps.
    Taps taps;
    auto mix_row = [&](int row, auto with_first, auto with_second, auto is_last) {
      StripPixels<T, STRIP> x(ahead.pixels);
      if constexpr (!is_last) load_pixels(lines, row + 1, ahead.pixels);
      if constexpr (PAIRED && with_second) mix(x, taps, sums[1]);
      if constexpr (with_first) {
        taps = Taps(ahead.taps);
        if (row + 1 < TAPS) load_taps(lines, row + 1, ahead.taps);
        mix(x, taps, sums[0]);
      }
      if constexpr (!PAIRED) {
        x = StripPixels<T, STRIP>(second);
        if constexpr (!is_last) load_pixels(below, row + 1, second);
        mix(x, taps, sums[1]);
      }
    };
    constexpr Truth<true> yes;
    constexpr Truth<false> no;
    mix_row(0, yes, no, no);
#pragma unroll 1
    for (int row = 1; row < TAPS - 1; row++) mix_row(row, yes, yes, no);
    mix_row(TAPS - 1, yes, yes, Truth<!PAIRED>());
    meanwhile();
    if constexpr (PAIRED) mix_row(TAPS, no, yes, yes);
    bool spoiled = false;
#pragma unroll
    for (int out = 0; out < 2; out++) {
      spoiled |= sums[out].spoiled();
#pragma unroll
      for (int p = 0; p < STRIP; p++) {
        float values[VALUES];
#pragma unroll
        for (int v = 0; v < VALUES; v++) values[v] = sums[out].value(p, v);
        Lane::template put<true>(operand, number_ + out * below_, p, values);
      }
    }
    return !any_of_wave(spoiled);
  }

  // Any kernel and stride: pixel by pixel, tap by tap.
  DEVICE void walk(int strip, int channel, Chunk* operand) const {
    const unsigned at = channel < c_.channels ? channel * sizeof(T) : Buffer::NOWHERE;
#pragma unroll 1
    for (int p = 0; p < STRIP; p++) {
      const int pixel = first_ + strip * STRIP + p;
      const Window window(c_, pixel);
      const bool exists = pixel < pixels_ && channel < c_.channels;
      const unsigned begin = exists ? offset_of(window) + at : Buffer::NOWHERE;
      float sums[VALUES];
#pragma unroll
      for (int v = 0; v < VALUES; v++) {
        const unsigned of_bias = channel < biased_ ? channel * sizeof(float) : Buffer::NOWHERE;
        sums[v] = float_of_bits(bias_.load_word(of_bias, v * sizeof(float)));
      }
      for (int tap = 0; tap < c_.kernel_h; tap++) {
        const bool in_column = static_cast<unsigned>(window.top + tap) < static_cast<unsigned>(c_.height);
        for (int t = 0; t < c_.kernel_w; t++) {
          const bool in_row =
              static_cast<unsigned>(window.left + t * c_.channels) < static_cast<unsigned>(c_.line());
          const unsigned x_at = in_column && in_row ? begin : Buffer::NOWHERE;
          add_product<T>(sums, x_.load_word(x_at, (tap * c_.line() + t * c_.channels) * sizeof(T)),
                         weight_.load_word(at, (tap * c_.kernel_w + t) * c_.channels * sizeof(T)));
        }
      }
      Lane::template put<false>(operand, strip, p, sums);
    }
  }

  DEVICE unsigned offset_of(const Window& window) const { return window_offset(c_, corner_, window) * sizeof(T); }

  Convolution c_;
  Window corner_;
  Buffer x_, weight_, bias_;
  int biased_;  // how many channels have a bias
  int way_;     // a Way
  int first_, pixels_;
  int number_, below_;  // the lane's first strip; how many strips further the one below it is
  Strip strip_;
};

template <class Tile>
class AnyDepthwise {
  using T = typename Tile::T;
  using Lane = Share<Tile>;

 public:
  DEVICE AnyDepthwise(const T* x, const T* weight, const float* bias, const Convolution& c, int first, int pixels)
      : c_(c), x_(x), weight_(weight), bias_(bias), first_(first), pixels_(pixels) {}

  struct Ahead {};
  DEVICE void ask(int, Ahead&) const {}

  template <class Meanwhile>
  DEVICE void put(int start, Ahead&, Chunk* operand, Meanwhile meanwhile) const {
    meanwhile();
    const int channel = start + Lane::word() * Lane::VALUES;
#pragma unroll 1
    for (int turn = 0; turn < Lane::TURNS; turn++) {
      const int strip = turn * Lane::STRIPS + Lane::place();
#pragma unroll 1
      for (int p = 0; p < Tile::STRIP; p++) {
        float values[Lane::VALUES];
#pragma unroll
        for (int v = 0; v < Lane::VALUES; v++) values[v] = value(first_ + strip * Tile::STRIP + p, channel + v);
        Lane::template put<false>(operand, strip, p, values);
      }
    }
  }

 private:
  // The depthwise result of one pixel and channel; 0 past the last of either.
  DEVICE float value(int pixel, int channel) const {
    if (pixel >= pixels_ || channel >= c_.channels) return 0.0f;
    const Window window(c_, pixel);
    const long long origin = (static_cast<long long>(window.image) * c_.height + window.top) * c_.line() + window.left;
    float sum = bias_ ? bias_[channel] : 0.0f;
    for (int tap = 0; tap < c_.kernel_h; tap++) {
      if (static_cast<unsigned>(window.top + tap) >= static_cast<unsigned>(c_.height)) continue;
      const T* row = x_ + origin + static_cast<long long>(tap) * c_.line() + channel;
      const T* taps = weight_ + static_cast<long long>(tap) * c_.run() + channel;
      for (int t = 0; t < c_.run(); t += c_.channels) {
        if (static_cast<unsigned>(window.left + t) >= static_cast<unsigned>(c_.line())) continue;
        sum = __builtin_fmaf(to_float(row[t]), to_float(taps[t]), sum);
      }
    }
    return sum;
  }

  Convolution c_;
  const T* x_;
  const T* weight_;
  const float* bias_;
  int first_, pixels_;
};
