// y = act(depthwise(x, w) + bias + residual) on channels-last memory, summed in float32.
//
// A lane has 4 bytes of channels of a patch of pixels, ROWS rows of a strip. Kernels of 3x3, 5x5 and 7x7 at stride 1 or
// 2 read each row of the image under it once; others go pixel by pixel, tap by tap.
#include "activation.h"
#include "patch.h"
#include "windows.h"

template <class T>
struct Depthwise {
  const T* x;
  const T* weight;
  const float* bias;
  const T* residual;
  T* y;
  Convolution c;
  int act;
};

// Where a lane's patch lies. Four lanes side by side have the same channels of four patches; sixteen such fours of a
// wave have neighbouring channels, and the patches after those where channels end.
template <class T, int ROWS, int STRIP, int WAVES>
struct PatchPlace {
  static constexpr int VALUES = CHANNELS_OF_WORD<T>, FOURS = WAVES * WAVE_LANES / 4;

  DEVICE explicit PatchPlace(const Convolution& c)
      : PatchPlace(c, divide_up(c.channels, VALUES), workgroup() * FOURS) {}

  Pixel corner, pixel;  // the first of the workgroup's first patch, the first of this lane's
  int channel;
  bool exists;

 private:
  DEVICE PatchPlace(const Convolution& c, unsigned words, unsigned first)
      : PatchPlace(c, words, uniform(first / words), uniform(first % words)) {}
  DEVICE PatchPlace(const Convolution& c, int words, int first, int first_word)
      : corner(0, 0, 0), pixel(0, 0, 0) {
    Convolution patches = c;
    patches.out_height = divide_up(c.out_height, ROWS);
    patches.out_width = divide_up(c.out_width, STRIP);
    const Pixels places(patches, static_cast<unsigned>(first) * 4);
    const int word = first_word + lane_of_workgroup() / 4;
    const int fours = quotient(word, reciprocal(words));
    corner = scaled(places.first);
    pixel = scaled(places.after(fours * 4 + lane_of_workgroup() % 4));
    channel = (word - fours * words) * VALUES;
    exists = pixel.image < c.batch;
  }
  static DEVICE Pixel scaled(const Pixel& p) { return {p.image, p.row * ROWS, p.column * STRIP}; }
};

template <class T_, int ROWS_, int STRIP_, int WAVES>
class AlignedPatches {
  using T = T_;
  static constexpr int ROWS = ROWS_, STRIP = STRIP_, VALUES = CHANNELS_OF_WORD<T>, COUNT = ROWS * STRIP;
  static constexpr int AHEAD = 2;  // rows of the image on their way

 public:
  // The images that the patches of a workgroup lie in span less than 2 GB.
  DEVICE explicit AlignedPatches(const Depthwise<T>& of)
      : c_(of.c), act_(of.act), place_(of.c), corner_(c_, place_.corner), window_(c_, place_.pixel),
        x_(window_origin(of.x, c_, corner_)), weight_(of.weight), bias_(of.bias),
        biased_(of.bias ? c_.channels : 0), residual_(results(of.residual)), y_(results(of.y)),
        remains_(of.residual != nullptr) {
    const bool exists = place_.exists;
    begin_ = window_offset(c_, corner_, window_) * static_cast<unsigned>(sizeof(T)) + at();
    rows_ = exists ? c_.out_height - place_.pixel.row : 0;
    columns_ = exists ? c_.out_width - place_.pixel.column : 0;
    const int below = (place_.pixel.image - place_.corner.image) * c_.out_height + place_.pixel.row - place_.corner.row;
    result_ = (below * c_.out_width + place_.pixel.column) * pixel_bytes() + at();
  }

  DEVICE void run() const {
    const int kernel = c_.kernel_h == c_.kernel_w ? c_.kernel_h : 0;
    const int stride = c_.stride_h == c_.stride_w ? c_.stride_h : 0;
    StripSums<T, STRIP> sums[ROWS];
    start(sums);
    bool mixed = true;
    if (kernel == 3 && stride == 1) {
      mix_rows<3, 1>(sums);
    } else if (kernel == 3 && stride == 2) {
      mix_rows<3, 2>(sums);
    } else if (kernel == 5 && stride == 1) {
      mix_rows<5, 1>(sums);
    } else if (kernel == 5 && stride == 2) {
      mix_rows<5, 2>(sums);
    } else if (kernel == 7 && stride == 1) {
      mix_rows<7, 1>(sums);
    } else {
      mixed = false;
    }
    bool spoiled = false;
#pragma unroll
    for (auto& row : sums) spoiled |= row.spoiled();
    if (mixed && !any_of_wave(spoiled)) {
      finish(sums);
    } else {
      walk();
    }
  }

 private:
  DEVICE unsigned at() const { return place_.channel * static_cast<unsigned>(sizeof(T)); }
  DEVICE int pixel_bytes() const { return c_.channels * static_cast<int>(sizeof(T)); }

  // The results from the workgroup's first row on.
  DEVICE Buffer results(const T* tensor) const {
    const long long rows = static_cast<long long>(place_.corner.image) * c_.out_height + place_.corner.row;
    return Buffer(tensor + rows * c_.out_width * c_.channels);
  }

  DEVICE void bias(float (&values)[VALUES]) const {
    const unsigned from = place_.channel < biased_ ? place_.channel * sizeof(float) : Buffer::NOWHERE;
#pragma unroll
    for (int v = 0; v < VALUES; v++) values[v] = float_of_bits(bias_.load_word(from, v * sizeof(float)));
  }

  DEVICE void start(StripSums<T, STRIP> (&sums)[ROWS]) const {
    float values[VALUES];
    bias(values);
#pragma unroll
    for (auto& row : sums) row.start(values);
  }

  template <int TAPS, int STRIDE>
  DEVICE void mix_rows(StripSums<T, STRIP> (&sums)[ROWS]) const {
    using Of = Patch<T, TAPS, STRIDE, STRIP>;
    // Of the pixels of a row under the windows, those that the image lacks.
    int outside = 0;
#pragma unroll
    for (int j = 0; j < Of::PIXELS; j++) {
      const bool in_row = static_cast<unsigned>(window_.left + j * c_.channels) < static_cast<unsigned>(c_.line());
      outside |= in_row && place_.exists ? 0 : 1 << j;
    }
    // Further apart, windows of neighbouring rows share too few rows of the image to keep their taps for.
    constexpr int TOGETHER = STRIDE == 1 ? ROWS : 2;
#pragma unroll
    for (int first = 0; first < ROWS; first += TOGETHER) mix_rows<Of, TOGETHER>(outside, first, sums);
  }

  template <class Of, int TOGETHER>
  DEVICE void mix_rows(int outside, int first, StripSums<T, STRIP> (&sums)[ROWS]) const {
    int pixels[AHEAD][Of::PIXELS], read[AHEAD][Of::TAPS];
    PatchTaps<Of> taps[Of::TAPS];
#pragma unroll
    for (int row = 0; row < AHEAD; row++) {
      load_pixels<Of>(outside, first * Of::STRIDE + row, pixels[row]);
      load_taps<Of>(row, read[row]);
    }
#pragma unroll
    for (int row = 0; row < Of::span(TOGETHER); row++) {
      // Rows are on their way while those above are mixed.
      const PatchPixels<Of> x(pixels[row % AHEAD]);
      if (row + AHEAD < Of::span(TOGETHER)) {
        load_pixels<Of>(outside, first * Of::STRIDE + row + AHEAD, pixels[row % AHEAD]);
      }
      if (row < Of::TAPS) {
        taps[row] = PatchTaps<Of>(read[row % AHEAD]);
        if (row + AHEAD < Of::TAPS) load_taps<Of>(row + AHEAD, read[row % AHEAD]);
      }
#pragma unroll
      for (int r = 0; r < TOGETHER; r++) {
        const int tap = row - r * Of::STRIDE;
        if (0 <= tap && tap < Of::TAPS) mix(x, taps[tap], sums[first + r]);
      }
    }
  }

  template <class Of>
  DEVICE void load_pixels(int outside, int row, int (&pixels)[Of::PIXELS]) const {
    const bool in_column = static_cast<unsigned>(window_.top + row) < static_cast<unsigned>(c_.height);
    const unsigned absent = in_column ? outside : -1;
    const int bytes = anew(pixel_bytes()), line = row * c_.width * bytes;
#pragma unroll
    for (int j = 0; j < Of::PIXELS; j++) {
      pixels[j] = x_.load_word(begin_ | (absent << (31 - j) & Buffer::NOWHERE), line + j * bytes);
    }
  }

  template <class Of>
  DEVICE void load_taps(int row, int (&taps)[Of::TAPS]) const {
    const int bytes = anew(pixel_bytes());
#pragma unroll
    for (int t = 0; t < Of::TAPS; t++) taps[t] = weight_.load_word(at(), (row * Of::TAPS + t) * bytes);
  }

  // Where the patch's first result lies, if that `row` rows below it and `column` to the right exists.
  DEVICE unsigned result(int row, int column) const {
    return row < rows_ && column < columns_ ? result_ : Buffer::NOWHERE;
  }
  DEVICE int beyond(int row, int column) const { return (row * c_.out_width + column) * pixel_bytes(); }

  DEVICE void finish(const StripSums<T, STRIP> (&sums)[ROWS]) const {
    int residuals[COUNT];
    if (remains_) {
#pragma unroll
      for (int p = 0; p < COUNT; p++) {
        residuals[p] = residual_.load_word(result(p / STRIP, p % STRIP), beyond(p / STRIP, p % STRIP));
      }
    }
    float values[COUNT * VALUES];
#pragma unroll
    for (int i = 0; i < COUNT * VALUES; i++) {
      values[i] = sums[i / VALUES / STRIP].value(i / VALUES % STRIP, i % VALUES);
    }
    if (remains_) {
#pragma unroll
      for (int p = 0; p < COUNT; p++) {
        float added[VALUES];
        unpack_word<T>(residuals[p], added);
#pragma unroll
        for (int v = 0; v < VALUES; v++) values[p * VALUES + v] += added[v];
      }
    }
    activate(values, act_);
#pragma unroll
    for (int p = 0; p < COUNT; p++) {
      y_.store_word(pack_word<T>(values + p * VALUES), result(p / STRIP, p % STRIP), beyond(p / STRIP, p % STRIP));
    }
  }

  // Any kernel and stride: pixel by pixel, tap by tap.
  DEVICE void walk() const {
#pragma unroll 1
    for (int row = 0; row < ROWS; row++) {
#pragma unroll 1
      for (int column = 0; column < STRIP; column++) walk(row, column);
    }
  }

  DEVICE void walk(int row, int column) const {
    const unsigned to = result(row, column);
    const int top = window_.top + row * c_.stride_h, left = window_.left + column * c_.stride_w * c_.channels;
    const unsigned begin = begin_ + (row * c_.stride_h * c_.width + column * c_.stride_w) * pixel_bytes();
    float sums[VALUES];
    bias(sums);
    for (int tap = 0; tap < c_.kernel_h; tap++) {
      const bool exists = to != Buffer::NOWHERE;
      const bool in_column = exists && static_cast<unsigned>(top + tap) < static_cast<unsigned>(c_.height);
      for (int t = 0; t < c_.kernel_w; t++) {
        const bool in_row = static_cast<unsigned>(left + t * c_.channels) < static_cast<unsigned>(c_.line());
        const int x = x_.load_word(in_column && in_row ? begin : Buffer::NOWHERE, (tap * c_.width + t) * pixel_bytes());
        add_product<T>(sums, x, weight_.load_word(at(), (tap * c_.kernel_w + t) * pixel_bytes()));
      }
    }
    if (remains_) {
      float added[VALUES];
      unpack_word<T>(residual_.load_word(to, beyond(row, column)), added);
#pragma unroll
      for (int v = 0; v < VALUES; v++) sums[v] += added[v];
    }
    activate(sums, act_);
    y_.store_word(pack_word<T>(sums), to, beyond(row, column));
  }

  Convolution c_;
  int act_;
  PatchPlace<T, ROWS, STRIP, WAVES> place_;
  Window corner_, window_;
  Buffer x_, weight_, bias_;
  int biased_;  // channels that have a bias: all or none
  Buffer residual_, y_;
  bool remains_;     // a residual
  unsigned begin_;   // of the patch's first window, in bytes
  int rows_, columns_;  // of results, from the patch's first on
  unsigned result_;  // where that lies, in bytes
};

// Nothing assumed; a value at a time.
template <class T, int ROWS, int STRIP, int WAVES>
class AnyPatches {
 public:
  DEVICE explicit AnyPatches(const Depthwise<T>& of) : of_(of), place_(of.c) {}

  DEVICE void run() const {
    if (!place_.exists) return;
#pragma unroll 1
    for (int p = 0; p < ROWS * STRIP; p++) {
      const int row = place_.pixel.row + p / STRIP, column = place_.pixel.column + p % STRIP;
      if (row >= of_.c.out_height || column >= of_.c.out_width) continue;
#pragma unroll 1
      for (int v = 0; v < CHANNELS_OF_WORD<T>; v++) {
        if (place_.channel + v < of_.c.channels) value({place_.pixel.image, row, column}, place_.channel + v);
      }
    }
  }

 private:
  DEVICE void value(const Pixel& pixel, int channel) const {
    const Convolution& c = of_.c;
    const Window window(c, pixel);
    const long long origin = (static_cast<long long>(window.image) * c.height + window.top) * c.line() + window.left;
    float sum[1] = {of_.bias ? of_.bias[channel] : 0.0f};
    for (int tap = 0; tap < c.kernel_h; tap++) {
      if (static_cast<unsigned>(window.top + tap) >= static_cast<unsigned>(c.height)) continue;
      const T* row = of_.x + origin + static_cast<long long>(tap) * c.line() + channel;
      const T* taps = of_.weight + static_cast<long long>(tap) * c.run() + channel;
      for (int t = 0; t < c.run(); t += c.channels) {
        if (static_cast<unsigned>(window.left + t) >= static_cast<unsigned>(c.line())) continue;
        sum[0] = __builtin_fmaf(to_float(row[t]), to_float(taps[t]), sum[0]);
      }
    }
    const long long rows = static_cast<long long>(pixel.image) * c.out_height + pixel.row;
    const long long at = (rows * c.out_width + pixel.column) * c.channels + channel;
    if (of_.residual) sum[0] += to_float(of_.residual[at]);
    activate(sum, of_.act);
    of_.y[at] = from_float<T>(sum[0]);
  }

  Depthwise<T> of_;
  PatchPlace<T, ROWS, STRIP, WAVES> place_;
};

// Kernels are named operator_dtype_ROWSxSTRIPxCHANNELSwWAVES after a lane's patch, with `_any` where no alignment is
// assumed: the others take channels that are multiples of 16 bytes, and addresses that are. Arguments: x [batch,
// height, width, channels], weight [kernel_h, kernel_w, channels], bias float32 or null, residual and y [batch,
// out_height, out_width, channels], residual or null; sizes; an Activation. Lanes: 4 * ceil(P / 4) * ceil(channels / CHANNELS),
// where P patches are batch * ceil(out_height / ROWS) * ceil(out_width / STRIP).
#define DEPTHWISE(NAME, T, ROWS, STRIP, WAVES, OCCUPANCY, PATCHES)                                                     \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                                 \
  NAME(const T* x, const T* weight, const float* bias, const T* residual, T* y, int batch, int height, int width,      \
       int channels, int out_height, int out_width, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, \
       int pad_w, int act) {                                                                                           \
    const Convolution convolution{batch,    height,   width,    channels, out_height, out_width,                       \
                                  kernel_h, kernel_w, stride_h, stride_w, pad_h,      pad_w};                          \
    PATCHES<T, ROWS, STRIP, WAVES>({x, weight, bias, residual, y, convolution, act}).run();                            \
  }
#define ALIGNED(T, ROWS, STRIP, CHANNELS, WAVES, OCCUPANCY)                                                    \
  DEPTHWISE(depthwise_conv2d_##T##_##ROWS##x##STRIP##x##CHANNELS##w##WAVES, T, ROWS, STRIP, WAVES, OCCUPANCY, \
            AlignedPatches)
#define ANY(T, ROWS, STRIP, CHANNELS, WAVES, OCCUPANCY)                                                              \
  DEPTHWISE(depthwise_conv2d_##T##_##ROWS##x##STRIP##x##CHANNELS##w##WAVES##_any, T, ROWS, STRIP, WAVES, OCCUPANCY, \
            AnyPatches)

ALIGNED(float32, 2, 7, 1, 4, 3)
ALIGNED(float32, 4, 7, 1, 4, 2)
ALIGNED(float16, 4, 7, 2, 4, 2)
ALIGNED(bfloat16, 4, 7, 2, 4, 2)

ANY(float32, 1, 1, 1, 4, 2)
ANY(float16, 1, 1, 2, 4, 2)
ANY(bfloat16, 1, 1, 2, 4, 2)
