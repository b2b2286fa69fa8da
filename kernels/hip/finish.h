// The end of a matrix product: y = act(sums + bias + residual), in that order, rounded once.
#pragma once

#include "activation.h"
#include "tile.h"

// What follows the sums. `bias` (float32, a value a column) and `residual` may be null. Rows of `residual` and of `y` lie
// `stride_residual` and `stride_y` values apart.
template <class T>
struct Finish {
  const float* bias;
  const T* residual;
  T* y;
  int m, n;
  long long stride_residual, stride_y;
  int act;
};

// Chunks of rows, for a tile whose rows are 16-byte aligned and lie within 2 GB.
template <class T>
class AlignedTile {
 public:
  DEVICE AlignedTile(const T* matrix, long long stride, int row, int column)
      : buffer_(matrix + row * stride + column), stride_(static_cast<unsigned>(stride * sizeof(T))) {}

  DEVICE void load(int row, int column, int valid, float (&values)[VECTOR<T>]) const {
    unpack<T>(buffer_.load(offset(row, column, valid)), values);
  }
  DEVICE void store(int row, int column, int valid, const float (&values)[VECTOR<T>]) const {
    buffer_.store(pack<T>(values), offset(row, column, valid));
  }

 private:
  DEVICE unsigned offset(int row, int column, int valid) const {
    return valid > 0 ? static_cast<unsigned>(row) * stride_ + static_cast<unsigned>(column * sizeof(T)) : Buffer::NOWHERE;
  }
  Buffer buffer_;
  unsigned stride_;
};

// Single values of any rows.
template <class T>
class AnyTile {
 public:
  DEVICE AnyTile(const T* matrix, long long stride, int row, int column)
      : matrix_(const_cast<T*>(matrix) + row * stride + column), stride_(stride) {}

  DEVICE void load(int row, int column, int valid, float (&values)[VECTOR<T>]) const {
#pragma unroll
    for (int v = 0; v < VECTOR<T>; v++) values[v] = v < valid ? to_float(matrix_[row * stride_ + column + v]) : 0.0f;
  }
  DEVICE void store(int row, int column, int valid, const float (&values)[VECTOR<T>]) const {
#pragma unroll
    for (int v = 0; v < VECTOR<T>; v++) {
      if (v < valid) matrix_[row * stride_ + column + v] = from_float<T>(values[v]);
    }
  }

 private:
  T* matrix_;
  long long stride_;
};

// Finishes the tile whose first result is (row, column). `Access` is AlignedTile or AnyTile.
template <template <class> class Access, class Tile>
DEVICE void finish(const Sums<Tile>& sums, int row, int column, const Finish<typename Tile::T>& with) {
  using T = typename Tile::T;
  using Block = typename Mma<T>::Block;
  constexpr int V = VECTOR<T>;
  // All of a lane's vectors go through each stage together, so that their memory accesses overlap.
  constexpr int VECTORS = Tile::BLOCKS_N * Tile::BLOCKS_M * Block::ROWS;
  float values[VECTORS * V];
  const int first_row = Tile::wave_row(), first_column = Tile::wave_column() + Block::column();

  // Calls body(first value, row, column, valid) for each vector: its place in the tile, and how many of its values exist.
  auto each_vector = [&](auto&& body) {
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int at_row = first_row + i / Block::ROWS % Tile::BLOCKS_M * 16 + Block::row(i % Block::ROWS);
      const int at_column = first_column + i / (Block::ROWS * Tile::BLOCKS_M) * Mma<T>::COLUMNS;
      body(i * V, at_row, at_column, row + at_row < with.m ? with.n - column - at_column : 0);
    }
  };

#pragma unroll
  for (int i = 0; i < VECTORS * V; i++) {
    const int block = i / V / Block::ROWS;
    values[i] = sums.blocks[block % Tile::BLOCKS_M][block / Tile::BLOCKS_M].value(i / V % Block::ROWS, i % V);
  }
  if (with.bias) {
    const Access<float> access(with.bias, 0, 0, column);
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; j++) {
#pragma unroll
      for (int v = 0; v < V; v += 4) {
        const int at_column = first_column + j * Mma<T>::COLUMNS + v;
        float bias[4];
        access.load(0, at_column, with.n - column - at_column, bias);
#pragma unroll
        for (int i = 0; i < Tile::BLOCKS_M * Block::ROWS * 4; i++) {
          values[(j * Tile::BLOCKS_M * Block::ROWS + i / 4) * V + v + i % 4] += bias[i % 4];
        }
      }
    }
  }
  if (with.residual) {
    const Access<T> access(with.residual, with.stride_residual, row, column);
    each_vector([&](int first, int at_row, int at_column, int valid) {
      float other[V];
      access.load(at_row, at_column, valid, other);
#pragma unroll
      for (int v = 0; v < V; v++) values[first + v] += other[v];
    });
  }
  activate(values, with.act);
  const Access<T> y(with.y, with.stride_y, row, column);
  each_vector([&](int first, int at_row, int at_column, int valid) {
    float vector[V];
#pragma unroll
    for (int v = 0; v < V; v++) vector[v] = values[first + v];
    y.store(at_row, at_column, valid, vector);
  });
}
