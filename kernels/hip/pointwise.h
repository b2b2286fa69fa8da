// The 1x1 half of depthwise_pointwise. No two waves share columns, so a wave's weight goes from memory into registers.
//
//   AlignedPointwise, AnyPointwise  rows of the weight; `load` reads what a lane needs of them for DEPTH values
//   multiply_parts                  sums += x * w^T over DEPTH values, x in LDS
//   half_of                         the sums of one of a tile's halves
#pragma once

#include "tile.h"

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

  W blocks[Tile::BLOCKS_N];
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
  }

 private:
  Buffer buffer_;
  int channels_, columns_;
  unsigned offsets_[W::COUNT];
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

// `x` is the operand, of which the wave takes the `step`-th DEPTH of all rows.
template <class Tile>
DEVICE void multiply_parts(Sums<Tile>& sums, const Chunk* x, int step, const PointwiseParts<Tile>& parts) {
  using Matrix = Mma<typename Tile::T>;
  typename Matrix::X x_parts[Tile::BLOCKS_M];
#pragma unroll
  for (int i = 0; i < Tile::BLOCKS_M; i++) {
#pragma unroll
    for (int k = 0; k < Matrix::X::COUNT; k++) {
      const Chunk* row = x + (Tile::row_of_block(i) + Matrix::X::row(k)) * Tile::ROW;
      x_parts[i].chunks[k] = row[step * (Matrix::DEPTH / 16) + Matrix::X::chunk()];
    }
  }
#pragma unroll
  for (int word = 0; word < 4; word += Matrix::WORDS) {
#pragma unroll
    for (int i = 0; i < Tile::BLOCKS_M; i++) {
#pragma unroll
      for (int j = 0; j < Tile::BLOCKS_N; j++) Matrix::multiply(sums.blocks[i][j], x_parts[i], parts.blocks[j], word);
    }
  }
}

template <class Tile>
struct HalfTile : Tile {
  static constexpr int BLOCKS_M = Tile::HALF_BLOCKS;
};

// The sums of one of a tile's halves.
template <class Tile>
DEVICE Sums<HalfTile<Tile>> half_of(const Sums<Tile>& sums, int half) {
  Sums<HalfTile<Tile>> found;
#pragma unroll
  for (int i = 0; i < Tile::HALF_BLOCKS; i++) {
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; j++) {
      found.blocks[i][j] = sums.blocks[half * Tile::HALF_BLOCKS + i][j];
#if defined(__gfx908__)
      // Left to itself, the compiler moves all sums out of the accumulators at once.
#pragma unroll
      for (auto& part : found.blocks[i][j].sums) asm volatile("" : "+a"(part));
#endif
    }
  }
  return found;
}
