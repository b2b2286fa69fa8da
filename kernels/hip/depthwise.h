// The depthwise half of depthwise_pointwise: from an image straight into the operand in LDS that the 1x1 half takes.
//
//   MixedTile                    a tile of eight strips of neighbouring output pixels; all waves compute all its rows
//   Halves                       which pixels those are
//   AlignedDepthwise             for channels that are a multiple of VECTOR<T>
//   AnyDepthwise                 nothing assumed; a value at a time
//
// A lane mixes 4 bytes of channels. Of the 7x7 kernel at stride 1, it reads each row of the image once for a whole
// strip; where maps allow, for two strips, one below the other: eight rows instead of twice seven.
#pragma once

#include "strip.h"
#include "windows.h"

template <class T_, int PIXELS_, int N_, int K_, int WAVES_>
struct MixedTile {
  using T = T_;
  static constexpr int PIXELS = PIXELS_, N = N_, K = K_, WAVES = WAVES_;
  static constexpr int STRIP = PIXELS / 8, HALF = PIXELS / 2;
  static constexpr int LANES = WAVES * WAVE_LANES;
  static constexpr int CHUNKS = K / VECTOR<T>;  // of a row
  // In LDS, rows lie so far apart that the same chunk of eight rows touches each of the 32 banks once.
  static constexpr int ROW = CHUNKS + 1, BUFFERS = WAVES <= 2 ? 1 : 2;
  // Each half has blocks of its own. What its last one has past HALF is of no pixel, and not stored.
  static constexpr int HALF_BLOCKS = divide_up(HALF, 16), ROWS = HALF + HALF_BLOCKS * 16;
  static constexpr int WAVE_N = N / WAVES;
  static constexpr int BLOCKS_M = 2 * HALF_BLOCKS, BLOCKS_N = WAVE_N / Mma<T>::COLUMNS;
  static_assert(CHUNKS % 4 == 0, "a row in LDS has a multiple of 64 bytes");
  static_assert(WAVE_N % Mma<T>::COLUMNS == 0, "waves compute whole blocks");

  static DEVICE int wave_row() { return 0; }
  static DEVICE int wave_column() { return wave_of_workgroup() * WAVE_N; }
  // The operand's first row of block `i`.
  static constexpr DEVICE int row_of_block(int i) { return i / HALF_BLOCKS * HALF + i % HALF_BLOCKS * 16; }
};

// Whether a 7x7 kernel slides along strips that each lie within a row, whose first and last alone reach over its ends.
template <class Tile>
DEVICE bool slides(const Convolution& c) {
  return c.kernel_h == TAPS && c.kernel_w == TAPS && c.stride_h == 1 && c.stride_w == 1 && c.pad_h == MARGIN &&
         c.pad_w == MARGIN && c.out_width % Tile::STRIP == 0;
}

// Which pixels a tile has: two runs of HALF neighbours. Where they can be, the runs are one below the other.
template <class Tile>
struct Halves {
  static constexpr int HALF = Tile::HALF;
  int first[2];
  bool paired;  // all strips have their pair right below

  DEVICE Halves(const Convolution& c, unsigned tile) {
    const unsigned width = c.out_width, across = width / HALF;
    paired = slides<Tile>(c) && c.out_height % 2 == 0 && (width % HALF == 0 || 2 * width == HALF);
    const bool wide = paired && across > 1;
    first[0] = wide ? tile / across * 2 * width + tile % across * HALF : tile * 2 * HALF;
    first[1] = first[0] + (wide ? width : HALF);
  }
  // The first of a strip.
  DEVICE int pixel(int strip) const { return (strip < 4 ? first[0] : first[1]) + strip % 4 * Tile::STRIP; }
};

// What a lane mixes of a step: always the same word of channels of several strips. Sixteen lanes share a strip, and
// with it lines of 64 bytes; the next sixteen have the next strip, which needs nearly the same lines.
template <class Tile>
struct Share {
  using T = typename Tile::T;
  static constexpr int VALUES = CHANNELS_OF_WORD<T>, WORDS = Tile::K / VALUES;
  static constexpr int STRIPS = Tile::LANES / WORDS, TURNS = 8 / STRIPS;
  static_assert(Tile::LANES % WORDS == 0 && 8 % STRIPS == 0, "all lanes mix as much");

  static DEVICE int word() { return lane_of_workgroup() / (16 * STRIPS) * 16 + lane_of_workgroup() % 16; }
  static DEVICE int place() { return lane_of_workgroup() / 16 % STRIPS; }

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
  static constexpr int ABOVE = -TAPS - 1;  // a window's first row from where it does not reach the image
  static_assert(Lane::STRIPS == 4, "a lane has one pair of strips");

 public:
  // The windows of `halves`, of the `pixels` there are; the images they lie in span less than 2 GB.
  // `weight` is [kernel_h, kernel_w, channels], `bias` [channels] or null.
  DEVICE AlignedDepthwise(const T* x, const T* weight, const float* bias, const Convolution& c,
                          const Halves<Tile>& halves, int pixels)
      : c_(c), corner_(c, halves.first[0]), x_(window_origin(x, c, corner_)), weight_(weight), bias_(bias),
        halves_(halves), pixels_(pixels) {
    // Of maps half as wide as a run, a run has two rows.
    const bool narrow = halves.paired && 2 * c.out_width == Tile::HALF;
    number_ = narrow ? Lane::place() / 2 * 4 + Lane::place() % 2 : Lane::place();
    below_ = narrow ? 2 : 4;
    strip_ = strip(number_);
  }

  // Fills the operand with the channels from `start` on. `meanwhile` is done once on the way, where registers are free.
  template <class Meanwhile>
  DEVICE void put(int start, Chunk* operand, Meanwhile meanwhile) const {
    const int channel = start + Lane::word() * VALUES;
    if (halves_.paired) {
      slide<2>(strip_, channel, operand, meanwhile);
    } else if (slides<Tile>(c_)) {
      slide<1>(strip_, channel, operand, [] {});
      // Not kept in registers from step to step, which paired strips have no room for.
      const int second = anew(4);
      slide<1>(strip(number_ + second), channel, operand + second * STRIP * Tile::ROW, meanwhile);
    } else {
      meanwhile();
#pragma unroll 1
      for (int turn = 0; turn < Lane::TURNS; turn++) walk(turn * Lane::STRIPS + Lane::place(), channel, operand);
    }
  }

 private:
  // Where the pixels left of a strip, of it, and right of it begin, in bytes; and the first tap's row of the image.
  struct Strip {
    unsigned left, middle, right;
    int top;
  };

  DEVICE Strip strip(int number) const {
    const int pixel = halves_.pixel(number);
    const Window window(c_, pixel);
    const unsigned pixel_bytes = c_.channels * sizeof(T), begin = offset_of(window);
    const bool rightmost = window.left + (STRIP + TAPS - 1) * c_.channels > c_.line();
    return {window.left < 0 ? Buffer::NOWHERE : begin, begin + MARGIN * pixel_bytes,
            rightmost ? Buffer::NOWHERE : begin + (MARGIN + STRIP) * pixel_bytes, pixel < pixels_ ? window.top : ABOVE};
  }

  // A 7x7 kernel at stride 1: a lane reads each row of the image once for the whole strip, and for the one below it if
  // OUT is 2.
  template <int OUT, class Meanwhile>
  DEVICE void slide(const Strip& strip, int channel, Chunk* operand, Meanwhile meanwhile) const {
    // Moving on from NOWHERE is nowhere, too.
    const unsigned left = strip.left + channel * sizeof(T), middle = strip.middle + channel * sizeof(T);
    const unsigned right = strip.right + channel * sizeof(T);
    const int top = channel < c_.channels ? strip.top : ABOVE;
    const unsigned at = channel < c_.channels ? channel * sizeof(T) : Buffer::NOWHERE;
    // Pixels, and taps, lie `pixel_bytes` apart, the same for all lanes: those distances stay in scalar registers.
    const int pixel_bytes = anew(c_.channels * sizeof(T)), line_bytes = c_.width * pixel_bytes;

    auto load_pixels = [&](int row, StripRow<STRIP>& pixels) {
      const bool in_column = static_cast<unsigned>(top + row) < static_cast<unsigned>(c_.height);
      const int line = anew(row * line_bytes);
#pragma unroll
      for (int j = 0; j < pixels.PIXELS; j++) {
        const unsigned from = j < MARGIN ? left : j < MARGIN + STRIP ? middle : right;
        const int first = j < MARGIN ? 0 : j < MARGIN + STRIP ? MARGIN : MARGIN + STRIP;
        pixels.words[j] = x_.load_word(in_column ? from : Buffer::NOWHERE, line + (j - first) * pixel_bytes);
      }
    };
    auto load_taps = [&](int row, int (&taps)[TAPS]) {
      const int line = anew(row * TAPS * pixel_bytes);
#pragma unroll
      for (int t = 0; t < TAPS; t++) taps[t] = weight_.load_word(at, line + t * pixel_bytes);
    };

    float sums[OUT][STRIP][VALUES];
    start_values(channel, sums[0][0]);
#pragma unroll
    for (int p = 1; p < OUT * STRIP; p++) {
#pragma unroll
      for (int v = 0; v < VALUES; v++) sums[p / STRIP][p % STRIP][v] = sums[0][0][v];
    }
    // A row is on its way while the one above is mixed.
    StripRow<STRIP> pixels, next_pixels;
    int taps[TAPS], next_taps[TAPS];
    load_pixels(0, pixels);
    load_taps(0, taps);
    load_pixels(1, next_pixels);
    load_taps(1, next_taps);
    RowTaps<T> w(taps);
    mix(StripPixels<T, STRIP>(pixels), w, sums[0]);
    auto mix_all = [&] {
      const StripPixels<T, STRIP> x(pixels);
      if constexpr (OUT == 2) mix(x, w, sums[1]);
      w = RowTaps<T>(taps);
      mix(x, w, sums[0]);
    };
    auto take_next = [&] {
      pixels = next_pixels;
#pragma unroll
      for (int t = 0; t < TAPS; t++) taps[t] = next_taps[t];
    };
#pragma unroll 1
    for (int row = 1; row < TAPS - 1; row++) {
      take_next();
      load_pixels(row + 1, next_pixels);
      load_taps(row + 1, next_taps);
      mix_all();
    }
    take_next();
    if constexpr (OUT == 2) load_pixels(TAPS, next_pixels);
    if constexpr (OUT == 1) meanwhile();
    mix_all();
    if constexpr (OUT == 2) {
      meanwhile();
      mix(StripPixels<T, STRIP>(next_pixels), w, sums[1]);
    }
#pragma unroll
    for (int p = 0; p < OUT * STRIP; p++) {
      Lane::put(operand, number_ + p / STRIP * below_, p % STRIP, sums[p / STRIP][p % STRIP]);
    }
  }

  // Any kernel and stride: pixel by pixel, tap by tap.
  DEVICE void walk(int strip, int channel, Chunk* operand) const {
    const unsigned at = channel < c_.channels ? channel * sizeof(T) : Buffer::NOWHERE;
#pragma unroll 1
    for (int p = 0; p < STRIP; p++) {
      const int pixel = halves_.pixel(strip) + p;
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
      Lane::put(operand, strip, p, sums);
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
  Halves<Tile> halves_;
  int pixels_;
  int number_, below_;  // the lane's first strip; how many strips further the one below it is
  Strip strip_;
};

template <class Tile>
class AnyDepthwise {
  using T = typename Tile::T;
  using Lane = Share<Tile>;

 public:
  DEVICE AnyDepthwise(const T* x, const T* weight, const float* bias, const Convolution& c,
                      const Halves<Tile>& halves, int pixels)
      : c_(c), x_(x), weight_(weight), bias_(bias), halves_(halves), pixels_(pixels) {}

  template <class Meanwhile>
  DEVICE void put(int start, Chunk* operand, Meanwhile meanwhile) const {
    meanwhile();
    const int channel = start + Lane::word() * Lane::VALUES;
#pragma unroll 1
    for (int turn = 0; turn < Lane::TURNS; turn++) {
      const int strip = turn * Lane::STRIPS + Lane::place();
#pragma unroll 1
      for (int p = 0; p < Tile::STRIP; p++) {
        float values[Lane::VALUES];
#pragma unroll
        for (int v = 0; v < Lane::VALUES; v++) values[v] = value(halves_.pixel(strip) + p, channel + v);
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
  Halves<Tile> halves_;
  int pixels_;
};
