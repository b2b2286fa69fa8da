// A convolution whose taps side by side share pixels in LDS: rows of x are read once for a whole row of the kernel.
//
//   Slide            how a tile's windows lie in LDS
//   slide            the loop over the depth, as `accumulate` (gemm.h) is one that reads each tap's pixels anew
//
// With stride 1, the window of a pixel begins one pixel after its left neighbour's. So LDS holds each row of the image
// under the tile's windows once, each a little wider than its row of results, and for the next tap lanes read what lies
// one pixel further. Such rows are the windows of a convolution of their own: of a kernel one tap wide, and with more
// columns in its result.
#pragma once

#include "gemm.h"
#include "windows.h"

// A tile of M results of which each row of pixels, in LDS, needs one of SLOTS places.
template <class Tile, int SLOTS>
class Slide {
 public:
  // `first` is the tile's first pixel, of the `pixels` there are.
  DEVICE Slide(const Convolution& of, int first, int pixels) : c(of), of_width_(reciprocal(of.out_width)) {
    const int row = uniform(static_cast<unsigned>(first) / of.out_width);
    column_ = first - row * of.out_width;
    const int rows = uniform(quotient(column_ + Tile::M - 1, of_width_)) + 1;
    const bool fits = Tile::M + rows * (of.kernel_w - 1) <= SLOTS && of.out_width < 1 << 19 && pixels < 1 << 29;
    taps = uniform(of.stride_w == 1 && fits ? of.kernel_w : 1);
    c.kernel_w -= taps - 1;
    c.out_width += taps - 1;
    this->first = row * c.out_width + column_;
    const int last = this->first + Tile::M + rows * (taps - 1), all = c.batch * c.out_height * c.out_width;
    end = last < all ? last : all;
  }

  // Where the window of the tile's pixel `row` begins.
  DEVICE int slot(int row) const { return row + quotient(column_ + row, of_width_) * (taps - 1); }

  Convolution c;   // whose windows are to be put into LDS
  int first, end;  // its pixels
  int taps;        // that share them: those of a row of the kernel, or only one where that would take more room

 private:
  int column_;
  float of_width_;
};

template <class Tile, int SLOTS>
struct Patch {
  using Rows = ::Tile<typename Tile::T, SLOTS, Tile::N, Tile::K, Tile::WAVES>;
  Chunk x[SLOTS * Tile::CHUNKS];
  Chunk w[2][Tile::N * Tile::CHUNKS];
};

template <class Tile, int SLOTS, class SourceX, class SourceW>
DEVICE void slide(Sums<Tile>& sums, Patch<Tile, SLOTS>& patch, const Slide<Tile, SLOTS>& by, SourceX& x, SourceW& w,
                  unsigned steps) {
  using X = typename Mma<typename Tile::T>::X;
  Staged<typename Patch<Tile, SLOTS>::Rows, SLOTS> staged_x;
  Staged<Tile, Tile::N> staged_w;
  x.load(0, staged_x);
  w.load(0, staged_w);
  int slots[Tile::BLOCKS_M][X::COUNT];
#pragma unroll
  for (int i = 0; i < Tile::BLOCKS_M; i++) {
#pragma unroll
    for (int k = 0; k < X::COUNT; k++) slots[i][k] = by.slot(Tile::wave_row() + i * 16 + X::row(k));
  }
  staged_x.put(patch.x);
  staged_w.put(patch.w[0]);
  barrier();
  const Chunk* wave_w = patch.w[0] + Tile::wave_column() * Tile::CHUNKS;
  int tap = 0;
  auto multiply = [&](unsigned step) {
    auto take_x = [&](int i, int chunk) {
      X part;
#pragma unroll
      for (int k = 0; k < X::COUNT; k++) part.chunks[k] = patch.x[place<Tile>(slots[i][k] + tap, chunk + X::chunk())];
      return part;
    };
    multiply_step(sums, take_x, wave_w + step % 2 * Tile::N * Tile::CHUNKS);
  };
  for (unsigned step = 0; step + 1 < steps; step++) {
    // Asked for as early as can be, and put into LDS after the last tap.
    if (tap == 0 && step + by.taps < steps) x.load(step + by.taps, staged_x);
    w.load(step + 1, staged_w);
    loads_begin();  // else the weight is read when its registers are free again, in the middle of the products
    multiply(step);
    tap++;
    if (tap == by.taps) {
      tap = 0;
      barrier();
      staged_x.put(patch.x);
    }
    staged_w.put(patch.w[(step + 1) % 2]);
    barrier();
  }
  multiply(steps - 1);
}
