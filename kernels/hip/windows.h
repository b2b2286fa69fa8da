// Sources of `accumulate` (gemm.h) for a convolution: the pixels under the kernel's window, and its weight.
//
//   Convolution                    the sizes of one
//   AlignedWindows, AlignedTaps    for channels that are a multiple of VECTOR<T>
//   AnyWindows, AnyTaps            nothing assumed
//
// In channels-last memory the pixels under one row of the kernel are one run of kernel_w * channels values, in x and in
// the weight alike. So the depth is walked run by run, without any division, and few channels (a stem's 3) fill a step
// as well as many do. The run leaves the image at its left or right exactly where its position leaves
// 0 .. width * channels.
#pragma once

#include "tile.h"

struct Convolution {
  int height, width, channels, out_height, out_width;
  int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;

  DEVICE int run() const { return kernel_w * channels; }
  DEVICE int line() const { return width * channels; }
  template <class Tile>
  DEVICE int steps() const {
    return kernel_h * divide_up(run(), Tile::K);
  }
};

// A step's place: which row of the kernel, and where in its run.
template <class Tile>
struct Walk {
  int tap = 0, start = 0;
  DEVICE void advance(int run) {
    start += Tile::K;
    if (start >= run) {
      start = 0;
      tap++;
    }
  }
};

// The window of one output pixel: its image, its first row, and where its runs begin in a row of the image.
struct Window {
  int image, top, left;
  DEVICE Window(const Convolution& c, unsigned pixel) {
    const unsigned row = pixel / static_cast<unsigned>(c.out_width);
    image = row / static_cast<unsigned>(c.out_height);
    top = static_cast<int>(row - image * c.out_height) * c.stride_h - c.pad_h;
    left = (static_cast<int>(pixel - row * c.out_width) * c.stride_w - c.pad_w) * c.channels;
  }
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
      : c_(c), buffer_(window_origin(x, c, Window(c, first))) {
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
    walk_.advance(c_.run());
  }

 private:
  Convolution c_;
  Buffer buffer_;
  Walk<Tile> walk_;
  unsigned offsets_[Chunks::COUNT];
  int tops_[Chunks::COUNT], positions_[Chunks::COUNT];
};

// The weight [out_channels, kernel_h, kernel_w, channels], its rows in the order in which the operand has them.
template <class Tile>
class AlignedTaps {
  using T = typename Tile::T;
  using Chunks = Staged<Tile, Tile::N>;

 public:
  DEVICE AlignedTaps(const T* weight, const Convolution& c, int first, int out_channels)
      : run_(c.run()), buffer_(weight + static_cast<long long>(first) * c.kernel_h * c.run()) {
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const int row = column_of_row<Tile>(Chunks::row(i));
      const unsigned offset = row * c.kernel_h * c.run() * sizeof(T) + Chunks::chunk() * 16;
      offsets_[i] = row < out_channels - first ? offset : Buffer::NOWHERE;
    }
  }

  DEVICE void load(int, Chunks& staged) {
    const int uniform = (walk_.tap * run_ + walk_.start) * sizeof(T);
    const bool in_run = walk_.start + Chunks::chunk() * VECTOR<T> < run_;
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      staged.chunks[i] = buffer_.load(in_run ? offsets_[i] : Buffer::NOWHERE, uniform);
    }
    walk_.advance(run_);
  }

 private:
  int run_;
  Buffer buffer_;
  Walk<Tile> walk_;
  unsigned offsets_[Chunks::COUNT];
};

// VECTOR<T> values from any address on, which gfx9 reads at once.
template <class T>
DEVICE Chunk load_anywhere(const T* from) {
#if defined(__HIP__)
  struct __attribute__((packed, aligned(sizeof(T)))) Anywhere {
    Chunk chunk;
  };
  return reinterpret_cast<const Anywhere*>(from)->chunk;
#else
  T values[VECTOR<T>];
#pragma unroll
  for (int v = 0; v < VECTOR<T>; v++) values[v] = from[v];
  return chunk_of(values);
#endif
}

// The first `count` values of a chunk, then zeros.
template <class T>
DEVICE Chunk first_values(Chunk chunk, int count) {
  constexpr int OF_WORD = 4 / sizeof(T);
  int words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int kept = count - i * OF_WORD;
    words[i] = kept >= OF_WORD ? words[i] : kept == 1 ? words[i] & 0xffff : 0;
  }
  return Chunk{words[0], words[1], words[2], words[3]};
}

// The values from `first` to `end` - 1, at most a chunk of them, of a row that holds those from 0 to `size` - 1; zeros
// where there are none.
template <class T>
DEVICE Chunk load_values(const T* row, int size, int first, int end) {
  constexpr int V = VECTOR<T>;
  const int last = end < size ? end : size;
  if (first >= last || last <= 0 || first + V <= 0) return Chunk{};
  if (first >= 0 && first + V <= size) {
    const Chunk chunk = load_anywhere(row + first);
    return first + V <= end ? chunk : first_values<T>(chunk, end - first);
  }
  T values[V];
#pragma unroll
  for (int v = 0; v < V; v++) {
    const int at = first + v;
    const bool exists = at >= 0 && at < last;
    const T value = row[exists ? at : 0];
    values[v] = exists ? value : T{};
  }
  return chunk_of(values);
}

template <class Tile>
class AnyWindows {
  using T = typename Tile::T;
  using Chunks = Staged<Tile, Tile::M>;

 public:
  DEVICE AnyWindows(const T* x, const Convolution& c, int first, int pixels) : c_(c) {
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const int pixel = first + Chunks::row(i);
      const Window window(c, pixel);
      tops_[i] = pixel < pixels ? window.top : -1 - c.kernel_h;
      lefts_[i] = window.left;
      rows_[i] = x + (static_cast<long long>(window.image) * c.height + window.top) * c.line();
    }
  }

  DEVICE void load(int, Chunks& staged) {
    const int start = walk_.start + Chunks::chunk() * VECTOR<T>;
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const bool in_column = static_cast<unsigned>(tops_[i] + walk_.tap) < static_cast<unsigned>(c_.height);
      const T* row = rows_[i] + static_cast<long long>(walk_.tap) * c_.line();
      staged.chunks[i] = load_values(row, in_column ? c_.line() : 0, lefts_[i] + start, lefts_[i] + c_.run());
    }
    walk_.advance(c_.run());
  }

 private:
  Convolution c_;
  Walk<Tile> walk_;
  int tops_[Chunks::COUNT], lefts_[Chunks::COUNT];
  const T* rows_[Chunks::COUNT];
};

template <class Tile>
class AnyTaps {
  using T = typename Tile::T;
  using Chunks = Staged<Tile, Tile::N>;

 public:
  DEVICE AnyTaps(const T* weight, const Convolution& c, int first, int out_channels)
      : run_(c.run()), depth_(c.kernel_h * c.run()) {
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const int row = first + column_of_row<Tile>(Chunks::row(i));
      // Rows past the last one repeat it; their results are not stored.
      rows_[i] = weight + static_cast<long long>(row < out_channels ? row : out_channels - 1) * depth_;
    }
  }

  DEVICE void load(int, Chunks& staged) {
    const int begin = walk_.tap * run_;
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const int first = begin + walk_.start + Chunks::chunk() * VECTOR<T>;
      staged.chunks[i] = load_values(rows_[i], depth_, first, begin + run_);
    }
    walk_.advance(run_);
  }

 private:
  int run_, depth_;
  Walk<Tile> walk_;
  const T* rows_[Chunks::COUNT];
};
