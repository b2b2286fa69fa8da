// The 1x1 half of depthwise_pointwise. No two waves share columns, so a wave's weight goes from memory into registers.
//
//   AlignedPointwise, AnyPointwise  rows of the weight; `load` reads what a lane needs of them for DEPTH values
//   multiply_parts                  sums += x * w^T over DEPTH values, x in LDS
//   Rest                            16 columns of a wave that fill no block
//   finish_pieces                   finishes a tile, some rows at a time
#pragma once

#include "finish.h"

template <class Tile>
struct PointwiseParts {
  using T = typename Tile::T;
  using W = typename Mma<T>::W;
  static constexpr int STEPS = Tile::CHUNKS * 16 / Mma<T>::DEPTH;
  static constexpr int DEPTH = Mma<T>::DEPTH / sizeof(T);  // values

  // The column, within the tile, of chunk `i` of block `j`.
  static DEVICE int column(int j, int i) {
    return Tile::wave_column() + j * Mma<T>::COLUMNS + Mma<T>::column_of(W::row(i));
  }

  // That of a lane's row of the rest: of a block's columns, two waves have alternate fours.
  static DEVICE int rest_column() {
    const int wave = wave_of_workgroup(), row = lane_of_wave() % 16;
    return Tile::BLOCKS_N * Tile::WAVES * Mma<T>::COLUMNS + wave / 2 * Mma<T>::COLUMNS + row / 4 * VECTOR<T> +
           wave % 2 * 4 + row % 4;
  }

  W blocks[Tile::BLOCKS_N];
  Chunk rest;
};

template <class Tile>
class AlignedPointwise {
  using T = typename Tile::T;
  using W = typename Mma<T>::W;

 public:
  using Parts = PointwiseParts<Tile>;

  // `weight` is [out_channels, channels], of which the tile takes rows from `first` on.
  DEVICE AlignedPointwise(const T* weight, int channels, int first, int out_channels)
      : buffer_(weight + static_cast<long long>(first) * channels), channels_(channels),
        columns_(out_channels - first) {
#pragma unroll
    for (int i = 0; i < W::COUNT; i++) offsets_[i] = Parts::column(0, i) * channels * sizeof(T) + W::chunk() * 16;
    rest_ = Parts::rest_column() < columns_ ? Parts::rest_column() * channels * sizeof(T) + W::chunk() * 16
                                            : Buffer::NOWHERE;
  }

  DEVICE void load(int start, Parts& parts) const {
    const bool exists = start + W::chunk() * VECTOR<T> < channels_;
    const int columns = anew(columns_);
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; j++) {
      const int uniform = (start + j * Mma<T>::COLUMNS * channels_) * sizeof(T);
#pragma unroll
      for (int i = 0; i < W::COUNT; i++) {
        const bool in_columns = Parts::column(0, i) < columns - j * Mma<T>::COLUMNS;
        parts.blocks[j].chunks[i] = buffer_.load(exists && in_columns ? offsets_[i] : Buffer::NOWHERE, uniform);
      }
    }
    if constexpr (Tile::REST) parts.rest = buffer_.load(exists ? rest_ : Buffer::NOWHERE, start * sizeof(T));
  }

 private:
  Buffer buffer_;
  int channels_, columns_;
  unsigned offsets_[W::COUNT], rest_;
};

template <class Tile>
class AnyPointwise {
  using T = typename Tile::T;
  using W = typename Mma<T>::W;

 public:
  using Parts = PointwiseParts<Tile>;

  DEVICE AnyPointwise(const T* weight, int channels, int first, int out_channels)
      : weight_(weight), channels_(channels), first_(first), out_channels_(out_channels) {}

  DEVICE void load(int start, Parts& parts) const {
    const int at = start + W::chunk() * VECTOR<T>;
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; j++) {
#pragma unroll
      for (int i = 0; i < W::COUNT; i++) {
        const int row = first_ + Parts::column(j, i);
        // Rows past the last one repeat it; their results are not stored.
        const T* values = weight_ + static_cast<long long>(row < out_channels_ ? row : out_channels_ - 1) * channels_;
        float chunk[VECTOR<T>];
#pragma unroll
        for (int v = 0; v < VECTOR<T>; v++) {
          const T value = values[at + v < channels_ ? at + v : 0];
          chunk[v] = at + v < channels_ ? to_float(value) : 0.0f;
        }
        parts.blocks[j].chunks[i] = pack<T>(chunk);
      }
    }
  }

 private:
  const T* weight_;
  int channels_, first_, out_channels_;
};

// The 16 columns of each wave beside its whole blocks, if there are any.
template <class Tile, bool SOME = Tile::REST>
struct Rest {
  DEVICE void multiply(int, const typename Mma<typename Tile::T>::X&, Chunk, int) {}
  template <template <class> class Access>
  DEVICE void finish(Chunk*, int, int, const Finish<typename Tile::T>&) const {}
};

#if defined(__HIP__)

// A wave multiplies them for all rows. Then two waves exchange halves, so that each has all of 32 columns for one half
// of the rows, and stores whole lines.
template <class Tile>
struct Rest<Tile, true> {
  using T = typename Tile::T;
  static constexpr int HALF = divide_up(Tile::BLOCKS_M, 2);
  static_assert(Tile::WAVES * HALF * WAVE_LANES <= Tile::BUFFERS * Tile::BUFFER, "operands' LDS holds the exchange");

  struct Half : Tile {
    static constexpr int BLOCKS_M = HALF, BLOCKS_N = 1;
    static DEVICE int wave_row() { return wave_of_workgroup() % 2 * HALF * 16; }
    static DEVICE int wave_column() {
      return (Tile::BLOCKS_N * Tile::WAVES + wave_of_workgroup() / 2) * Mma<T>::COLUMNS;
    }
  };

  DEVICE void multiply(int block, const typename Mma<T>::X& x, Chunk w, int word) {
    Mma<T>::multiply_part(sums[block], x, w, word);
  }

  // `operand` is free, but other waves may still read it.
  template <template <class> class Access>
  DEVICE void finish(Chunk* operand, int row, int column, const Finish<T>& with) const {
    const bool second = wave_of_workgroup() % 2;
    Float4* exchange = reinterpret_cast<Float4*>(operand) + lane_of_wave();
    auto of_half = [&](bool later, int i) {
      return choose(later, sums[HALF + i < Tile::BLOCKS_M ? HALF + i : i], sums[i]);
    };
    lds_barrier();
#pragma unroll
    for (int i = 0; i < HALF; i++) exchange[(wave_of_workgroup() * HALF + i) * WAVE_LANES] = of_half(!second, i);
    lds_barrier();
    Sums<Half> whole;
#pragma unroll
    for (int i = 0; i < HALF; i++) {
      const Float4 own = of_half(second, i), other = exchange[((wave_of_workgroup() ^ 1) * HALF + i) * WAVE_LANES];
      whole.blocks[i][0].sums[0] = choose(second, other, own);
      whole.blocks[i][0].sums[1] = choose(second, own, other);
    }
    ::finish<Access>(whole, row, column, with);
  }

  Float4 sums[Tile::BLOCKS_M] = {};

 private:
  static DEVICE Float4 choose(bool first, Float4 one, Float4 other) {
    Float4 chosen;
#pragma unroll
    for (int i = 0; i < 4; i++) chosen[i] = first ? one[i] : other[i];
    return chosen;
  }
};

#endif

// `x` is the operand, of which the wave takes the `step`-th DEPTH of all rows.
template <class Tile>
DEVICE void multiply_parts(Sums<Tile>& sums, Rest<Tile>& rest, const Chunk* x, int step,
                           const PointwiseParts<Tile>& parts) {
  using Matrix = Mma<typename Tile::T>;
  typename Matrix::X x_parts[Tile::BLOCKS_M];
#pragma unroll
  for (int i = 0; i < Tile::BLOCKS_M; i++) {
#pragma unroll
    for (int k = 0; k < Matrix::X::COUNT; k++) {
      const Chunk* row = x + (i * 16 + Matrix::X::row(k)) * Tile::ROW;
      x_parts[i].chunks[k] = row[step * (Matrix::DEPTH / 16) + Matrix::X::chunk()];
    }
  }
#pragma unroll
  for (int word = 0; word < 4; word += Matrix::WORDS) {
#pragma unroll
    for (int i = 0; i < Tile::BLOCKS_M; i++) {
#pragma unroll
      for (int j = 0; j < Tile::BLOCKS_N; j++) Matrix::multiply(sums.blocks[i][j], x_parts[i], parts.blocks[j], word);
      rest.multiply(i, x_parts[i], parts.rest, word);
    }
  }
}
