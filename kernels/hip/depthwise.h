// The depthwise half of depthwise_pointwise: from an image straight into the operand in LDS that the 1x1 half takes.
//
//   MixedTile                    a tile of eight strips of neighbouring output pixels; all waves compute all its rows
//   AlignedDepthwise             for channels that are a multiple of VECTOR<T>
//   AnyDepthwise                 nothing assumed; a value at a time
//
// A lane mixes 4 bytes of channels of one strip at a time. Of the 7x7 kernel at stride 1, it reads each row of the
// image once for the whole strip.
#pragma once

#include "strip.h"
#include "windows.h"

template <class T_, int PIXELS_, int N_, int K_, int WAVES_>
struct MixedTile {
  using T = T_;
  static constexpr int PIXELS = PIXELS_, N = N_, K = K_, WAVES = WAVES_;
  static constexpr int STRIP = PIXELS / 8;
  static constexpr int M = divide_up(PIXELS, 16) * 16;  // rows past PIXELS are of no pixel, and not stored
  static constexpr int LANES = WAVES * WAVE_LANES;
  static constexpr int CHUNKS = K / VECTOR<T>;  // of a row
  // In LDS, rows lie so far apart that the same chunk of eight rows touches each of the 32 banks once.
  static constexpr int ROW = CHUNKS + 1, BUFFERS = WAVES == 1 ? 1 : 2;
  static constexpr int WAVE_M = M, WAVE_N = N / WAVES;
  static constexpr int BLOCKS_M = WAVE_M / 16, BLOCKS_N = WAVE_N / Mma<T>::COLUMNS;
  static_assert(CHUNKS % 4 == 0, "a row in LDS has a multiple of 64 bytes");
  static_assert(WAVE_N % Mma<T>::COLUMNS == 0, "waves compute whole blocks");

  static DEVICE int wave_row() { return 0; }
  static DEVICE int wave_column() { return wave_of_workgroup() * WAVE_N; }
};

// What a lane mixes of a step: always the same word of channels, in each turn of another strip. Sixteen lanes share a
// strip, and with it lines of 64 bytes; the next sixteen have the next strip, which needs nearly the same lines.
template <class Tile>
struct Share {
  using T = typename Tile::T;
  static constexpr int VALUES = CHANNELS_OF_WORD<T>, WORDS = Tile::K / VALUES;
  static constexpr int STRIPS = Tile::LANES / WORDS, TURNS = 8 / STRIPS;
  static_assert(Tile::LANES % WORDS == 0 && 8 % STRIPS == 0, "all lanes mix as much");

  static DEVICE int word() { return lane_of_workgroup() / (16 * STRIPS) * 16 + lane_of_workgroup() % 16; }
  static DEVICE int strip(int turn) { return turn * STRIPS + lane_of_workgroup() / 16 % STRIPS; }

  // Rounds the values of pixel `p` of the strip to T, and puts them into their row of the operand.
  static DEVICE void put(Chunk* operand, int strip, int p, const float (&values)[VALUES]) {
    int rounded;
    if constexpr (VALUES == 1) {
      rounded = static_cast<int>(float_bits(values[0]));
    } else {
      const unsigned high = from_float<T>(values[1]).bits;
      rounded = static_cast<int>(from_float<T>(values[0]).bits | high << 16);
    }
    reinterpret_cast<int*>(operand + (strip * Tile::STRIP + p) * Tile::ROW)[word()] = rounded;
  }
};

template <class Tile>
class AlignedDepthwise {
  using T = typename Tile::T;
  using Lane = Share<Tile>;
  static constexpr int VALUES = Lane::VALUES, STRIP = Tile::STRIP;
  static constexpr int ABOVE = -TAPS;  // a window's first row from where it does not reach the image

 public:
  // The windows of pixels from `first` on, of the `pixels` there are; the images they lie in span less than 2 GB.
  // `weight` is [kernel_h, kernel_w, channels], `bias` [channels] or null.
  DEVICE AlignedDepthwise(const T* x, const T* weight, const float* bias, const Convolution& c, int first, int pixels)
      : c_(c), corner_(c, first), x_(window_origin(x, c, corner_)), weight_(weight), bias_(bias), first_(first),
        pixels_(pixels) {
    // Strips then are within a row, and only a row's first one reaches over its left end, its last one over the right.
    slides_ = c.kernel_h == TAPS && c.kernel_w == TAPS && c.stride_w == 1 && c.pad_w == MARGIN &&
              c.out_width % STRIP == 0;
#pragma unroll
    for (int turn = 0; turn < Lane::TURNS; turn++) {
      const int pixel = first + Lane::strip(turn) * STRIP;
      const Window window(c, pixel);
      const unsigned pixel_bytes = c.channels * sizeof(T), begin = offset_of(window);
      const bool rightmost = window.left + (STRIP + TAPS - 1) * c.channels > c.line();
      strips_[turn] = {window.left < 0 ? Buffer::NOWHERE : begin, begin + MARGIN * pixel_bytes,
                       rightmost ? Buffer::NOWHERE : begin + (MARGIN + STRIP) * pixel_bytes,
                       pixel < pixels ? window.top : ABOVE};
    }
  }

  // Fills the operand with the channels from `start` on. `meanwhile` is done once on the way, where registers are free.
  template <class Meanwhile>
  DEVICE void put(int start, Chunk* operand, Meanwhile meanwhile) const {
    const int channel = start + Lane::word() * VALUES;
#pragma unroll 1
    for (int turn = 0; turn < Lane::TURNS; turn++) {
      if (slides_) {
        slide(turn, channel, operand, meanwhile);
      } else {
        walk(turn, channel, operand);
      }
    }
    if (!slides_ || Lane::TURNS > 1) meanwhile();
  }

 private:
  // Where the pixels left of a strip, of it, and right of it begin, in bytes; and the first tap's row of the image.
  struct Strip {
    unsigned left, middle, right;
    int top;
  };

  // A 7x7 kernel at stride 1: a lane reads each row of the image once for the whole strip.
  template <class Meanwhile>
  DEVICE void slide(int turn, int channel, Chunk* operand, Meanwhile meanwhile) const {
    Strip strip = strips_[0];
#pragma unroll
    for (int i = 1; i < Lane::TURNS; i++) {
      if (turn == i) strip = strips_[i];
    }
    // Moving on from NOWHERE is nowhere, too.
    const unsigned left = strip.left + channel * sizeof(T), middle = strip.middle + channel * sizeof(T);
    const unsigned right = strip.right + channel * sizeof(T);
    const int top = channel < c_.channels ? strip.top : ABOVE;
    const unsigned at = channel < c_.channels ? channel * sizeof(T) : Buffer::NOWHERE;
    // Pixels, and taps, lie `pixel_bytes` apart, the same for all lanes: those distances stay in scalar registers.
    const int pixel_bytes = anew(c_.channels * sizeof(T)), line_bytes = c_.width * pixel_bytes;

    auto load = [&](int tap, StripRow<STRIP>& row) {
      const bool in_column = static_cast<unsigned>(top + tap) < static_cast<unsigned>(c_.height);
      const int line = anew(tap * line_bytes), taps = anew(tap * TAPS * pixel_bytes);
#pragma unroll
      for (int j = 0; j < row.PIXELS; j++) {
        const unsigned from = j < MARGIN ? left : j < MARGIN + STRIP ? middle : right;
        const int first = j < MARGIN ? 0 : j < MARGIN + STRIP ? MARGIN : MARGIN + STRIP;
        row.x[j] = x_.load_word(in_column ? from : Buffer::NOWHERE, line + (j - first) * pixel_bytes);
      }
#pragma unroll
      for (int t = 0; t < TAPS; t++) row.w[t] = weight_.load_word(at, taps + t * pixel_bytes);
    };

    float sums[STRIP][VALUES];
    start_values(channel, sums[0]);
#pragma unroll
    for (int p = 1; p < STRIP; p++) {
#pragma unroll
      for (int v = 0; v < VALUES; v++) sums[p][v] = sums[0][v];
    }
    // Rows are on their way while others are mixed.
    using Rows = StripRows<T, STRIP>;
    StripRow<STRIP> first, next[Rows::COUNT];
    auto load_next = [&](int tap) {
#pragma unroll
      for (int i = 0; i < Rows::COUNT; i++) load(tap + i, next[i]);
    };
    load(0, first);
    load_next(1);
    mix_row<T>(first, sums);
#pragma unroll 1
    for (int tap = 1; tap < TAPS - Rows::COUNT; tap += Rows::COUNT) {
      const Rows rows(next);
      load_next(tap + Rows::COUNT);
      rows.mix_into(sums);
    }
    const Rows last(next);
    if constexpr (Lane::TURNS == 1) meanwhile();
    last.mix_into(sums);
#pragma unroll
    for (int p = 0; p < STRIP; p++) Lane::put(operand, Lane::strip(turn), p, sums[p]);
  }

  // Any kernel and stride: pixel by pixel, tap by tap.
  DEVICE void walk(int turn, int channel, Chunk* operand) const {
    const unsigned at = channel < c_.channels ? channel * sizeof(T) : Buffer::NOWHERE;
#pragma unroll 1
    for (int p = 0; p < STRIP; p++) {
      const int pixel = first_ + Lane::strip(turn) * STRIP + p;
      const Window window(c_, pixel);
      const bool exists = pixel < pixels_ && channel < c_.channels;
      const unsigned begin = exists ? offset_of(window) + at : Buffer::NOWHERE;
      float sums[VALUES];
      start_values(channel, sums);
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
      Lane::put(operand, Lane::strip(turn), p, sums);
    }
  }

  DEVICE unsigned offset_of(const Window& window) const { return window_offset(c_, corner_, window) * sizeof(T); }

  DEVICE void start_values(int channel, float (&sums)[VALUES]) const {
#pragma unroll
    for (int v = 0; v < VALUES; v++) sums[v] = bias_ && channel < c_.channels ? bias_[channel + v] : 0.0f;
  }

  Convolution c_;
  Window corner_;
  Buffer x_, weight_;
  const float* bias_;
  int first_, pixels_;
  bool slides_;
  Strip strips_[Lane::TURNS];
};

template <class Tile>
class AnyDepthwise {
  using T = typename Tile::T;
  using Lane = Share<Tile>;

 public:
  DEVICE AnyDepthwise(const T* x, const T* weight, const float* bias, const Convolution& c, int first, int pixels)
      : c_(c), x_(x), weight_(weight), bias_(bias), first_(first), pixels_(pixels) {}

  template <class Meanwhile>
  DEVICE void put(int start, Chunk* operand, Meanwhile meanwhile) const {
    meanwhile();
    const int channel = start + Lane::word() * Lane::VALUES;
#pragma unroll 1
    for (int turn = 0; turn < Lane::TURNS; turn++) {
      const int strip = Lane::strip(turn);
#pragma unroll 1
      for (int p = 0; p < Tile::STRIP; p++) {
        float values[Lane::VALUES];
#pragma unroll
        for (int v = 0; v < Lane::VALUES; v++) values[v] = value(first_ + strip * Tile::STRIP + p, channel + v);
        Lane::put(operand, strip, p, values);
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
