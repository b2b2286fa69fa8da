// y = max_pool2d(act(conv2d(x, weight) + bias)) of a ResNet's stem, on channels-last memory: what lies between goes to
// no memory. The kernel is 7x7 over three channels, at stride 2, the image padded by 3; the window 3x3, at stride 2,
// padded by 1. Activations are those that give no negative values: zeros may stand for what lies beside the map, and
// numbers compare as their bits do.
//
// A workgroup has the image's rows under a band of the result in LDS, and goes down the band. A wave has 16 channels,
// and of each row of the convolution the sums of all its pixels: even ones and odd ones in blocks of their own, so that
// those of a window meet in one lane but for the window's first, which its neighbour has.
#include "activation.h"
#include "mma.h"

#if defined(__HIP__)

template <class T_, int ROWS_>
struct Stem {
  using T = T_;
  static constexpr int ROWS = ROWS_, WAVES = 4, LANES = WAVES * WAVE_LANES, N = WAVES * 16;
  static constexpr int CHANNELS = 3, TAPS = 7, STRIDE = 2;

  // A row of the kernel is RUN values of a row of the image. In LDS they begin at a word: with a value of the pixel
  // before, where two share a word.
  static constexpr int OF_WORD = 4 / sizeof(T), RUN = TAPS * CHANNELS, LEAD = OF_WORD - 1;
  static constexpr int WORDS = divide_up(LEAD + RUN, OF_WORD);
  // A lane multiplies two words of the run in a step: the first and third 16 lanes from words at even places, the
  // others from words at odd ones, which lie in other banks. Both take HALF times two words of each run, and meet in
  // its middle, where some come twice.
  static constexpr int HALF = divide_up(WORDS, 4), ODD = WORDS - 2 * HALF, STEPS = divide_up(TAPS * HALF, 2);
  static_assert(ODD % 2 == 1, "two halves begin at words of either kind");

  // Pixels of the result that are computed side by side: four blocks and four of their right neighbours, but that the
  // last of both share one. There, a lane is left for the left neighbour of the first pixel, where an image is too wide
  // for one such row.
  static constexpr int ACROSS = 56, OF_SEVERAL = 54, BLOCKS = 7;
  // In LDS, a row begins BEFORE values before the first pixel's.
  static constexpr int OF_PIXEL = 2 * STRIDE * CHANNELS, BEFORE = 16;
  static constexpr int CHUNKS = divide_up(BEFORE + ACROSS * OF_PIXEL + RUN, VECTOR<T>), LINE = CHUNKS * 4;  // words
  static constexpr int LINES = 2 * STRIDE * ROWS + TAPS;

  // Which of a run's words lanes begin with at a step, and in which run.
  static constexpr DEVICE int number(int step, int group) { return 2 * step + group / 2; }
  static constexpr DEVICE int row(int step, int group) { return number(step, group) / HALF; }
  static constexpr DEVICE int word(int step, int group) { return group % 2 * ODD + number(step, group) % HALF * 2; }
  // What of a word is to be multiplied.
  static constexpr DEVICE int mask(int step, int group, int i) {
    const int at = word(step, group) + i;
    const bool twice = group % 2 == 1 && at < 2 * HALF;
    if (row(step, group) >= TAPS || twice) return 0;
    return at == 0 && LEAD ? static_cast<int>(0xffff0000) : -1;
  }
};

// Of four values the one for this lane's 16 of the wave.
DEVICE int of_group(int a, int b, int c, int d) {
  const int group = lane_of_wave() / 16;
  return group < 2 ? (group == 0 ? a : b) : (group == 2 ? c : d);
}

// Of lanes 16 by 16: the value of the lane BY to the right; that of the one to the left, for the first the last one's;
// and for the first `first`.
template <int BY>
DEVICE unsigned from_right(unsigned value) {
  return __builtin_amdgcn_update_dpp(0, value, 0x100 + BY, 0xf, 0xf, true);
}
DEVICE unsigned turned(unsigned value) { return __builtin_amdgcn_update_dpp(0, value, 0x121, 0xf, 0xf, true); }
DEVICE unsigned from_left(unsigned value, unsigned first) {
  return __builtin_amdgcn_update_dpp(first, value, 0x111, 0xf, 0xf, false);
}

// The bits of a value that is not negative, nor a negative zero: in their order, and any NaN above all numbers.
DEVICE unsigned ordered(float value) { return float_bits(!(value <= 0.0f) ? value : 0.0f); }
DEVICE unsigned largest(unsigned a, unsigned b) { return a > b ? a : b; }

struct StemSizes {
  int batch, height, width, conv_height, out_height, out_width, out_channels;
};

template <class Stem>
class StemBand {
  using T = typename Stem::T;

 public:
  DEVICE StemBand(const T* x, const T* weight, const float* bias, T* y, const StemSizes& sizes, int act)
      : sizes_(sizes), act_(act) {
    const bool several = sizes.out_width > Stem::ACROSS;
    const unsigned tiles_n = divide_up(sizes.out_channels, Stem::N), bands = divide_up(sizes.out_height, Stem::ROWS);
    const unsigned across = several ? Stem::OF_SEVERAL : Stem::ACROSS, columns = divide_up(sizes.out_width, across);
    const unsigned strip = workgroup() / tiles_n, band = strip / columns;
    first_row_ = uniform(band % bands * Stem::ROWS);
    first_column_ = uniform(strip % columns * across);
    image_ = uniform(band / bands);
    width_ = sizes.out_width - first_column_ < static_cast<int>(across) ? sizes.out_width - first_column_ : across;
    channel_ = uniform(workgroup() % tiles_n * Stem::N + wave_of_workgroup() * 16);
    before_ = several && first_column_ > 0 ? -1 : 0;
    y_ = y;

    const int place = lane_of_wave() % 16, group = lane_of_wave() / 16;
    using Piece = Int2;
    const Piece* pieces =
        reinterpret_cast<const Piece*>(weight) + static_cast<long long>(channel_ + place) * Stem::STEPS * 4 + group;
#pragma unroll
    for (int s = 0; s < Stem::STEPS; s++) {
      const Piece piece = pieces[s * 4];
      weight_[s][0] = piece.x;
      weight_[s][1] = piece.y;
    }
#pragma unroll
    for (int s = 0; s < 3; s++) {
      const int word = of_group(line_word(s, 0), line_word(s, 1), line_word(s, 2), line_word(s, 3));
      words_[s] = word + place * OF_LANE + FIRST;
    }
#pragma unroll
    for (int v = 0; v < 4; v++) {
      const int channel = channel_ + group * 4 + v;
      start_[v] = bias && channel < sizes.out_channels ? bias[channel] : 0.0f;
    }
    // Where the block that has the last even and odd pixels lies, from where one of even ones would.
    const int shared = place < 8 ? 3 * 16 * OF_LANE : (3 * 16 - 8) * OF_LANE + OF_LANE / 2;
    shared_ = several && place == 7 ? -place * OF_LANE - OF_LANE / 2 : shared;
    read(x);
  }

  DEVICE void run() const {
    unsigned above[Stem::BLOCKS][4];
    Float4 first[Stem::BLOCKS], second[Stem::BLOCKS];
    // In place of a row that lies outside of the map, the one beside it, which changes no window's largest.
    multiply(first_row_ > 0 ? 0 : 1, second);
#pragma unroll
    for (int b = 0; b < Stem::BLOCKS; b++) {
      keep_in_accumulators(second[b]);
#pragma unroll
      for (int v = 0; v < 4; v++) above[b][v] = ordered(second[b][v]);
    }
    const int rows = sizes_.out_height - first_row_ < Stem::ROWS ? sizes_.out_height - first_row_ : Stem::ROWS;
#pragma unroll 1
    for (int row = 0; row < rows; row++) {
      const int out = first_row_ + row;
      multiply(2 * row + 1, first);
      multiply(2 * out + 1 < sizes_.conv_height ? 2 * row + 2 : 2 * row + 1, second);
      unsigned most[Stem::BLOCKS][4];
#pragma unroll
      for (int b = 0; b < Stem::BLOCKS; b++) {
        keep_in_accumulators(first[b]);
        keep_in_accumulators(second[b]);
#pragma unroll
        for (int v = 0; v < 4; v++) {
          const unsigned below = ordered(second[b][v]);
          most[b][v] = largest(largest(above[b][v], ordered(first[b][v])), below);
          above[b][v] = below;
        }
      }
      pool(out, most);
    }
  }

 private:
  // Words between the even pixels of neighbouring lanes, and from the row's begin to the first.
  static constexpr int OF_LANE = Stem::OF_PIXEL / Stem::OF_WORD;
  static constexpr int FIRST = (Stem::BEFORE - 3 * Stem::CHANNELS - Stem::LEAD) / Stem::OF_WORD;

  static constexpr DEVICE int line_word(int step, int group) {
    const int row = Stem::row(step, group);
    return row * Stem::LINE + Stem::word(step, group);
  }

  static DEVICE int* lines() {
    __shared__ Chunk lines[Stem::LINES * Stem::CHUNKS];
    return reinterpret_cast<int*>(lines);
  }

  static DEVICE void keep_in_accumulators(Float4& sums) {
#if defined(__gfx908__)
    asm volatile("" : "+a"(sums));
#endif
  }

  // The image's rows into LDS, with zeros around the image.
  DEVICE void read(const T* x) const {
    constexpr int ALL = Stem::LINES * Stem::CHUNKS, COUNT = divide_up(ALL, Stem::LANES);
    const int line = sizes_.width * Stem::CHANNELS, top = 4 * first_row_ - 5;
    const Buffer rows(x + (static_cast<long long>(image_) * sizes_.height + top) * line);
    const int left = first_column_ * Stem::OF_PIXEL - Stem::BEFORE;
    Chunk chunks[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int number = i * Stem::LANES + lane_of_workgroup();
      const int row = number / Stem::CHUNKS, at = left + number % Stem::CHUNKS * VECTOR<T>;
      const bool in_column = static_cast<unsigned>(top + row) < static_cast<unsigned>(sizes_.height);
      const bool exists = in_column && static_cast<unsigned>(at) < static_cast<unsigned>(line);
      chunks[i] = rows.load(exists ? (row * line + at) * sizeof(T) : Buffer::NOWHERE);
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int number = i * Stem::LANES + lane_of_workgroup();
      if (number < ALL) reinterpret_cast<Chunk*>(lines())[number] = chunks[i];
    }
    barrier();
  }

  // Sums of the band's row `row`: of even pixels in three blocks, of odd ones in three, of the last of both in one.
  DEVICE void multiply(int row, Float4 (&sums)[Stem::BLOCKS]) const {
    const int line = row * Stem::STRIDE * Stem::LINE;
    int pixels[2][Stem::BLOCKS][2];
    load(line, 0, pixels[0]);
#pragma unroll
    for (int s = 0; s < Stem::STEPS; s++) {
      if (s + 1 < Stem::STEPS) load(line, s + 1, pixels[(s + 1) % 2]);
      in_this_order();
#pragma unroll
      for (int b = 0; b < Stem::BLOCKS; b++) {
        int (&words)[2] = pixels[s % 2][b];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int masks[] = {Stem::mask(s, 0, i), Stem::mask(s, 1, i), Stem::mask(s, 2, i), Stem::mask(s, 3, i)};
          const int all = masks[0] & masks[1] & masks[2] & masks[3];
          if (all != -1) words[i] &= of_group(masks[0], masks[1], masks[2], masks[3]);
        }
#pragma unroll
        for (int word = 0; word < 2; word += Instruction<T>::WORDS) {
          sums[b] = Instruction<T>::apply(weight_[s] + word, words + word, s + word == 0 ? start_ : sums[b]);
        }
      }
      in_this_order();
    }
  }

  DEVICE void load(int line, int step, int (&words)[Stem::BLOCKS][2]) const {
    // After three steps, numbers are six further.
    int at = words_[step % 3] + line + step / 3 * (6 / Stem::HALF) * Stem::LINE;
    if (Stem::row(step, 3) >= Stem::TAPS && lane_of_wave() >= 32) at -= Stem::LINE;
    const int* even = lines() + at;
#pragma unroll
    for (int b = 0; b < Stem::BLOCKS; b++) {
      const int* from = even + (b == 6 ? shared_ : b % 3 * 16 * OF_LANE + b / 3 * (OF_LANE / 2));
#pragma unroll
      for (int i = 0; i < 2; i++) words[b][i] = from[i];
    }
  }

  // The largest of three neighbours across, through what of the activation is left, to memory.
  DEVICE void pool(int out, const unsigned (&most)[Stem::BLOCKS][4]) const {
    const int place = lane_of_wave() % 16, channel = channel_ + lane_of_wave() / 16 * 4;
    const long long row = static_cast<long long>(image_) * sizes_.out_height + out;
    T* const first = y_ + (row * sizes_.out_width + first_column_) * sizes_.out_channels + channel;
    float pooled[4][4];
#pragma unroll
    for (int v = 0; v < 4; v++) {
      // Where all lanes are: each asks others.
      const unsigned shared = most[6][v], next = from_right<7>(shared), last = turned(most[5][v]);
#pragma unroll
      for (int b = 0; b < 3; b++) {
        // The first lane's is that of the block before, and the first block's is the last even place of the shared one.
        const unsigned left = from_left(most[3 + b][v], b > 0 ? turned(most[2 + b][v]) : next & before_);
        pooled[b][v] = float_of_bits(largest(largest(most[b][v], most[3 + b][v]), left));
      }
      const unsigned left = place == 0 ? last : next;
      pooled[3][v] = float_of_bits(largest(largest(shared, from_right<8>(shared)), left));
    }
#pragma unroll
    for (int b = 0; b < 4; b++) {
      activate(pooled[b], act_ == RELU6 ? RELU6 : NONE);
      const int column = b * 16 + place;
      if (column < width_ && (b < 3 || place < 8) && channel < sizes_.out_channels) {
        store(first + static_cast<long long>(column) * sizes_.out_channels, pooled[b]);
      }
    }
  }

  static DEVICE void store(T* to, const float (&values)[4]) {
    if constexpr (sizeof(T) == 4) {
      *reinterpret_cast<Float4*>(to) = Float4{values[0], values[1], values[2], values[3]};
    } else {
      unsigned words[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const unsigned low = from_float<T>(values[2 * i]).bits, high = from_float<T>(values[2 * i + 1]).bits;
        words[i] = low | high << 16;
      }
      *reinterpret_cast<Int2*>(to) = Int2{static_cast<int>(words[0]), static_cast<int>(words[1])};
    }
  }

  StemSizes sizes_;
  int act_;
  T* y_;
  int image_, first_row_, first_column_, width_, channel_;
  int before_;  // all bits where the first pixel has a left neighbour, else none
  int weight_[Stem::STEPS][2];
  int words_[3];  // where in LDS a lane begins at the first steps
  int shared_;
  Float4 start_;
};

// Kernels are named operator_dtype_MxNwWAVES, M being rows of the result. Arguments: x [batch, height, width, 3],
// weight packed by conv2d_max_pool.py, bias [out_channels] float32 or null, y [batch, out_height, out_width,
// out_channels]; sizes; an Activation. Rows of x, and out_channels, are multiples of 16 bytes.
#define STEM(T, M, OCCUPANCY)                                                                                      \
  KERNEL(4 * WAVE_LANES, OCCUPANCY)                                                                                \
  conv2d_max_pool_##T##_##M##x64w4(const T* x, const T* weight, const float* bias, T* y, int batch, int height,    \
                                   int width, int conv_height, int out_height, int out_width, int out_channels,    \
                                   int act) {                                                                      \
    StemBand<Stem<T, M>> band(x, weight, bias, y,                                                                  \
                              {batch, height, width, conv_height, out_height, out_width, out_channels}, act);      \
    band.run();                                                                                                    \
  }

STEM(float32, 1, 2)
STEM(float16, 4, 2)
STEM(bfloat16, 4, 2)

#endif
