// Sources of `accumulate` (gemm.h) and of `slide` (slide.h) for a convolution: the pixels under the kernel's window,
// and its weight.
//
//   Convolution                    the sizes of one
//   AlignedWindows, AlignedTaps    for channels that are a multiple of VECTOR<T>
//   AnyWindows, AnyTaps            nothing assumed: chunks begin anywhere, and are cut where a row or run ends
//
// In channels-last memory the pixels under one row of the kernel are one run of kernel_w * channels values, in x and in
// the weight alike. So the depth is walked run by run, without any division, and few channels (a stem's 3) fill a step
// as well as many do. The run leaves the image at its left or right exactly where its position leaves
// 0 .. width * channels. Runs of whole chunks take whole steps each; others only as many chunks as hold them.
#pragma once

#include "runs.h"

struct Convolution {
  int batch, height, width, channels, out_height, out_width;
  int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;

  DEVICE int run() const { return kernel_w * channels; }
  DEVICE int line() const { return width * channels; }
  template <class Tile>
  DEVICE int steps() const {
    return kernel_h * divide_up(run(), Tile::K);
  }
};

// A step's place: which row of the kernel, and where in its run.
template <int K>
struct Walk {
  int taps, run;
  int tap = 0, start = 0;
  DEVICE int steps() const { return taps * divide_up(run, K); }
  DEVICE void advance() {
    start += K;
    if (start >= run) {
      start = 0;
      tap++;
    }
  }
};

// Where an output pixel lies.
struct Pixel {
  int image, row, column;
  DEVICE Pixel(int image, int row, int column) : image(image), row(row), column(column) {}
  DEVICE Pixel(const Convolution& c, unsigned pixel) {
    const unsigned rows = pixel / static_cast<unsigned>(c.out_width);
    image = rows / static_cast<unsigned>(c.out_height);
    row = rows - image * c.out_height;
    column = pixel - rows * c.out_width;
  }
};

// Its window: the image, the first row, and where the window's runs begin in a row of the image.
struct Window {
  int image, top, left;
  DEVICE Window(const Convolution& c, const Pixel& pixel)
      : image(pixel.image),
        top(pixel.row * c.stride_h - c.pad_h),
        left((pixel.column * c.stride_w - c.pad_w) * c.channels) {}
  DEVICE Window(const Convolution& c, unsigned pixel) : Window(c, Pixel(c, pixel)) {}
};

// Places of pixels after one that a tile begins with, at a fraction of what dividing integers takes.
class Pixels {
 public:
  DEVICE Pixels(const Convolution& c, unsigned pixel)
      : first(c, pixel),
        height_(c.out_height),
        width_(c.out_width),
        of_height_(reciprocal(c.out_height)),
        of_width_(reciprocal(c.out_width)) {
    first = {uniform(first.image), uniform(first.row), uniform(first.column)};
  }

  // The pixel `count` pixels after the first: fewer than 2^20 together with the width of the result.
  DEVICE Pixel after(int count) const {
    Pixel pixel = first;
    pixel.column += count;
    const int rows = quotient(pixel.column, of_width_);
    pixel.column -= small_product(rows, width_);
    pixel.row += rows;
    const int images = quotient(pixel.row, of_height_);
    pixel.row -= small_product(images, height_);
    pixel.image += images;
    return pixel;
  }

  Pixel first;

 private:
  int height_, width_;
  float of_height_, of_width_;
};

// Where 32-bit offsets to the windows of a tile start, `corner` being its first: before all of them, so that none is
// negative. With more padding than kernel, an image's first windows lie above its predecessor's last, by less than
// twice the padding.
template <class T>
DEVICE const T* window_origin(const T* x, const Convolution& c, const Window& corner) {
  const long long rows = static_cast<long long>(corner.image) * c.height + corner.top - 2 * c.pad_h;
  return x + rows * c.line() - c.pad_w * c.channels;
}

// In values.
DEVICE unsigned window_offset(const Convolution& c, const Window& corner, const Window& window) {
  const unsigned rows = (window.image - corner.image) * c.height + window.top - corner.top + 2 * c.pad_h;
  return rows * c.line() + window.left + c.pad_w * c.channels;
}

template <class Tile>
class AlignedWindows {
  using T = typename Tile::T;
  using Chunks = Staged<Tile, Tile::M>;

 public:
  // The windows of pixels from `first` on, of the `pixels` there are; the images they lie in span less than 2 GB.
  DEVICE AlignedWindows(const T* x, const Convolution& c, int first, int pixels)
      : c_(c), buffer_(window_origin(x, c, Window(c, first))), walk_{c.kernel_h, c.run()} {
    const Window corner(c, first);
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const int pixel = first + Chunks::row(i);
      const Window window(c, pixel);
      offsets_[i] = window_offset(c, corner, window) * sizeof(T) + Chunks::chunk() * 16;
      // A pixel past the last one sees only rows outside the image.
      tops_[i] = pixel < pixels ? window.top : -1 - c.kernel_h;
      positions_[i] = window.left + Chunks::chunk() * VECTOR<T>;
    }
  }

  DEVICE const Walk<Tile::K>& walk() const { return walk_; }

  DEVICE void load(int, Chunks& staged) {
    const int uniform = (walk_.tap * c_.line() + walk_.start) * sizeof(T);
    const bool in_run = walk_.start + Chunks::chunk() * VECTOR<T> < c_.run();
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const bool in_row = static_cast<unsigned>(positions_[i] + walk_.start) < static_cast<unsigned>(c_.line());
      const bool in_column = static_cast<unsigned>(tops_[i] + walk_.tap) < static_cast<unsigned>(c_.height);
      const bool exists = in_run & in_row & in_column;
      staged.chunks[i] = buffer_.load(exists ? offsets_[i] : Buffer::NOWHERE, uniform);
    }
    walk_.advance();
  }

 private:
  Convolution c_;
  Buffer buffer_;
  Walk<Tile::K> walk_;
  unsigned offsets_[Chunks::COUNT];
  int tops_[Chunks::COUNT], positions_[Chunks::COUNT];
};

// The weight [out_channels, kernel_h, kernel_w, channels], its rows in the order in which the operand has them, from
// where the windows begin their walk. Each of the windows' steps is followed by as many of the weight as taps `share`
// the windows.
template <class Tile>
class AlignedTaps {
  using T = typename Tile::T;
  using Chunks = Staged<Tile, Tile::N>;

 public:
  DEVICE AlignedTaps(const T* weight, const Walk<Tile::K>& walk, const Convolution& c, int first, int out_channels,
                     int share = 1)
      : walk_(walk), share_(share), buffer_(weight + static_cast<long long>(first) * c.kernel_h * c.run()) {
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const int row = column_of_row<Tile>(Chunks::row(i));
      const unsigned offset = row * c.kernel_h * c.run() * sizeof(T) + Chunks::chunk() * 16;
      offsets_[i] = row < out_channels - first ? offset : Buffer::NOWHERE;
    }
  }

  DEVICE void load(int, Chunks& staged) {
    const int uniform = ((walk_.tap * share_ + beside_) * walk_.run + walk_.start) * sizeof(T);
    const bool in_run = walk_.start + Chunks::chunk() * VECTOR<T> < walk_.run;
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      staged.chunks[i] = buffer_.load(in_run ? offsets_[i] : Buffer::NOWHERE, uniform);
    }
    if (++beside_ == share_) {
      beside_ = 0;
      walk_.advance();
    }
  }

 private:
  Walk<Tile::K> walk_;
  int share_, beside_ = 0;
  Buffer buffer_;
  unsigned offsets_[Chunks::COUNT];
};

template <class Tile>
class AnyWindows {
  using T = typename Tile::T;
  using Chunks = Staged<Tile, Tile::M>;
  static constexpr int V = VECTOR<T>;

 public:
  // As AlignedWindows; images have fewer than 2^24 rows, columns and channels.
  DEVICE AnyWindows(const T* x, const Convolution& c, int first, int pixels)
      : height_(c.height), line_(c.line()), walk_(c.kernel_h, c.run()), trail_(walk_, line_) {
    const Pixels place(c, first);
    const Window corner(c, place.first);
    // The origin: before all windows of the tile, as for window_origin, but within x.
    const int top = corner.image * c.height + corner.top - 2 * c.pad_h;
    const long long start = static_cast<long long>(top) * c.line() - c.pad_w * c.channels;
    const long long origin = start > 0 ? start & -V : 0;  // as aligned as x
    const int margin = static_cast<int>(start - origin) + c.pad_w * c.channels;
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const int row = Chunks::row(i);
      const Pixel pixel = place.after(row);
      const int above = small_product(pixel.row, c.stride_h) - c.pad_h;
      // A pixel past the last one sees only rows outside the image.
      tops_[i] = first + row < pixels ? above : -1 - c.kernel_h;
      lefts_[i] = small_product(small_product(pixel.column, c.stride_w), c.channels) - c.pad_w * c.channels;
      const int rows = small_product(pixel.image - corner.image, c.height) + above - corner.top + 2 * c.pad_h;
      offsets_[i] = (rows * line_ + lefts_[i] + margin) * sizeof(T);
    }
    x_ = Span<T>(x + origin, x + static_cast<long long>(c.batch) * c.height * c.line());
    places_ = c.line() < V ? 0 : c.line() - V + 1;
  }

  // Where the step lies that was loaded last: the weight's is loaded after the windows'.
  DEVICE const ChunkWalk<Tile>& walk() const { return walk_; }

  DEVICE void load(int step, Chunks& staged) {
    if (step > 0) {
      walk_.advance();
      trail_.follow(walk_);
    }
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      staged.chunks[i] = x_.load(in_column(i) ? offsets_[i] + trail_.at : Buffer::NOWHERE);
    }
  }

  // Makes zeros of what lies outside of the image or the run.
  DEVICE void complete(Chunks& staged) const {
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const int at = lefts_[i] + walk_.start;
      // Rows outside of the image were read as zeros.
      if (in_column(i) & (static_cast<unsigned>(at) >= places_)) {
        staged.chunks[i] = x_.part(staged.chunks[i], offsets_[i] + trail_.at, -at, line_ - at);
      }
    }
    walk_.cut(staged);
  }

 private:
  // Whether the window's row is one of the image; past the depth's end, none is.
  DEVICE bool in_column(int i) const {
    const int tap = walk_.in_depth() ? walk_.tap : FAR;
    return static_cast<unsigned>(tops_[i] + tap) < static_cast<unsigned>(height_);
  }

  static constexpr int FAR = 1 << 30;

  int height_, line_;
  ChunkWalk<Tile> walk_;
  Trail<Tile> trail_;
  Span<T> x_;
  unsigned places_;             // in a row of the image where a whole chunk may begin
  int offsets_[Chunks::COUNT];  // of the windows, in bytes
  int tops_[Chunks::COUNT], lefts_[Chunks::COUNT];
};

template <class Tile>
class AnyTaps {
  using T = typename Tile::T;
  using Chunks = Staged<Tile, Tile::N>;

 public:
  DEVICE AnyTaps(const T* weight, const ChunkWalk<Tile>& walk, const Convolution& c, int first, int out_channels)
      : walk_(walk),
        trail_(walk, c.run()),
        weight_(weight + first * depth_of(c), weight + out_channels * depth_of(c)) {
    const int depth = c.kernel_h * c.run(), rows = out_channels - first;
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const int row = column_of_row<Tile>(Chunks::row(i));
      // Rows past the last one repeat it; their results are not stored.
      offsets_[i] = (row < rows ? row : rows - 1) * depth * static_cast<int>(sizeof(T));
    }
  }

  DEVICE void load(int step, Chunks& staged) {
    if (step > 0) trail_.follow(walk_);
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      staged.chunks[i] = weight_.load(walk_.in_depth() ? offsets_[i] + trail_.at : Buffer::NOWHERE);
    }
  }

  // Makes zeros of what lies outside of the run.
  DEVICE void complete(Chunks& staged) const {
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const unsigned offset = offsets_[i] + trail_.at;
      if (walk_.in_depth() & !weight_.has_chunk(offset)) {
        staged.chunks[i] = weight_.part(staged.chunks[i], offset, 0, walk_.run - walk_.start);
      }
    }
    walk_.cut(staged);
  }

 private:
  static DEVICE long long depth_of(const Convolution& c) { return c.kernel_h * c.run(); }

  const ChunkWalk<Tile>& walk_;
  Trail<Tile> trail_;
  Span<T> weight_;
  int offsets_[Chunks::COUNT];
};

// For accumulate.
template <class Tile, class Chunks>
DEVICE void complete(const AnyWindows<Tile>& windows, Chunks& staged) {
  windows.complete(staged);
}
template <class Tile, class Chunks>
DEVICE void complete(const AnyTaps<Tile>& taps, Chunks& staged) {
  taps.complete(staged);
}
