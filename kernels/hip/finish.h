// The end of a matrix product: y = act(sums + bias + residual), in that order, rounded once.
#pragma once

#include "activation.h"
#include "tile.h"

// What follows the sums. `bias` (float32, a value a column) and `residual` may be null. Rows of `residual` and of `y`
// lie `stride_residual` and `stride_y` values apart.
template <class T>
struct Finish {
  const float* bias;
  const T* residual;
  T* y;
  int m, n;
  long long stride_residual, stride_y;
  int act;
};

// Reads and writes vectors of a tile of a matrix: place of the first value in the tile, how many of the values exist.
// Those that do not are read as zeros, or not written. This one is for a tile whose rows are 16-byte aligned and lie
// within 2 GB.
template <class T>
class AlignedTile {
 public:
  DEVICE AlignedTile(const T* matrix, long long stride, int row, int column)
      : buffer_(matrix + row * stride + column), stride_(static_cast<unsigned>(stride * sizeof(T))) {}

  DEVICE Chunk load(int row, int column, int valid) const { return buffer_.load(offset(row, column, valid)); }
  DEVICE void store(int row, int column, int valid, const float* values) const {
    buffer_.store(pack<T>(values), offset(row, column, valid));
  }

 private:
  DEVICE unsigned offset(int row, int column, int valid) const {
    const unsigned place = static_cast<unsigned>(row) * stride_ + static_cast<unsigned>(column * sizeof(T));
    return valid > 0 ? place : Buffer::NOWHERE;
  }
  Buffer buffer_;
  unsigned stride_;
};

// The same for any tile, value by value.
template <class T>
class AnyTile {
 public:
  DEVICE AnyTile(const T* matrix, long long stride, int row, int column)
      : matrix_(const_cast<T*>(matrix) + row * stride + column), stride_(stride) {}

  DEVICE Chunk load(int row, int column, int valid) const {
    T values[VECTOR<T>] = {};
#pragma unroll
    for (int v = 0; v < VECTOR<T>; v++) {
      if (v < valid) values[v] = matrix_[row * stride_ + column + v];
    }
    return chunk_of(values);
  }
  DEVICE void store(int row, int column, int valid, const float* values) const {
#pragma unroll
    for (int v = 0; v < VECTOR<T>; v++) {
      if (v < valid) matrix_[row * stride_ + column + v] = from_float<T>(values[v]);
    }
  }

 private:
  T* matrix_;
  long long stride_;
};

// Sums of the tile whose first result is in column `column` of n, before anything was multiplied: the bias, which may
// be null. So it comes from memory together with the first operands, and no register holds it till the end. Such sums
// are finished without it.
template <template <class> class Access, class Tile>
DEVICE void begin(Sums<Tile>& sums, const float* bias, int column, int n) {
  using T = typename Tile::T;
  using Block = typename Mma<T>::Block;
  const Access<float> access(bias, 0, 0, column);
#pragma unroll
  for (int i = 0; i < Tile::BLOCKS_N * VECTOR<T>; i += 4) {
    const int j = i / VECTOR<T>, v = i % VECTOR<T>;
    const int at_column = Tile::wave_column() + j * Mma<T>::COLUMNS + Block::column() + v;
    // No branch if there is none: so the compiler may ask for all of it at once, and for the operands.
    float values[4];
    unpack<float>(access.load(0, at_column, bias ? n - column - at_column : 0), values);
#pragma unroll
    for (int k = 0; k < Tile::BLOCKS_M * Block::ROWS * 4; k++) {
      sums.blocks[k / 4 / Block::ROWS][j].set(k / 4 % Block::ROWS, v + k % 4, values[k % 4]);
    }
  }
}

// Leaves sums as they are.
struct Unchanged {
  template <class Values>
  DEVICE void operator()(Values&, int, int) const {}
};

// Finishes the tile whose first result is (row, column). `Access` is AlignedTile or AnyTile. `change` is given values of
// some of this lane's rows and one vector of its columns before anything is added: which row is the first, which vector.
// KEPT: the sums have been kept in accumulators till now.
template <template <class> class Access, bool KEPT = false, class Tile, class Change = Unchanged>
DEVICE void finish(const Sums<Tile>& sums, int row, int column, const Finish<typename Tile::T>& with,
                   const Change& change = {}) {
  using T = typename Tile::T;
  using Block = typename Mma<T>::Block;
  constexpr int V = VECTOR<T>, ROWS = Tile::BLOCKS_M * Block::ROWS, VECTORS = Tile::BLOCKS_N;  // of this lane
  auto at_row = [](int i) { return Tile::wave_row() + i / Block::ROWS * 16 + Block::row(i % Block::ROWS); };
  auto at_column = [](int j) { return Tile::wave_column() + j * Mma<T>::COLUMNS + Block::column(); };
  auto valid = [&](int i, int j) { return row + at_row(i) < with.m ? with.n - column - at_column(j) : 0; };

  // All is asked for before any of it is waited for.
  Chunk biases[VECTORS][V / 4], residuals[VECTORS][ROWS];
  if (with.bias) {
    const Access<float> bias(with.bias, 0, 0, column);
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
#pragma unroll
      for (int v = 0; v < V; v += 4) {
        biases[j][v / 4] = bias.load(0, at_column(j) + v, with.n - column - at_column(j) - v);
      }
    }
  }
  if (with.residual) {
    const Access<T> residual(with.residual, with.stride_residual, row, column);
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
#pragma unroll
      for (int i = 0; i < ROWS; i++) residuals[j][i] = residual.load(at_row(i), at_column(j), valid(i, j));
    }
  }
  const Access<T> y(with.y, with.stride_y, row, column);
  // Rows that share the branches of the activation: as many as leave registers free.
  constexpr int SHARING = ROWS % 4 == 0 ? 4 : ROWS % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int j = 0; j < VECTORS; j++) {
#pragma unroll
    for (int first = 0; first < ROWS; first += SHARING) {
      float values[SHARING * V];
#pragma unroll
      for (int i = 0; i < SHARING; i++) {
        const int r = first + i;
        Block block = sums.blocks[r / Block::ROWS][j];
        if constexpr (!KEPT) keep_in_accumulators(block);
#pragma unroll
        for (int v = 0; v < V; v++) values[i * V + v] = block.value(r % Block::ROWS, v);
      }
      change(values, first, j);
      if (with.bias) {
        float bias[V];
#pragma unroll
        for (int v = 0; v < V; v += 4) unpack<float>(biases[j][v / 4], bias + v);
#pragma unroll
        for (int i = 0; i < SHARING * V; i++) values[i] += bias[i % V];
      }
      if (with.residual) {
#pragma unroll
        for (int i = 0; i < SHARING; i++) {
          float residual[V];
          unpack<T>(residuals[j][first + i], residual);
#pragma unroll
          for (int v = 0; v < V; v++) values[i * V + v] += residual[v];
        }
      }
      activate(values, with.act);
#pragma unroll
      for (int i = 0; i < SHARING; i++) {
        y.store(at_row(first + i), at_column(j), valid(first + i, j), values + i * V);
      }
    }
  }
}

// MOST of a wave's blocks below each other, from FIRST on.
template <class Tile, int MOST, int FIRST>
struct Piece : Tile {
  static constexpr int BLOCKS_M = Tile::BLOCKS_M - FIRST < MOST ? Tile::BLOCKS_M - FIRST : MOST;
  static DEVICE int wave_row() { return Tile::wave_row() + FIRST * 16; }
};

template <int MOST, int FIRST, class Tile>
DEVICE Sums<Piece<Tile, MOST, FIRST>> piece_of(const Sums<Tile>& sums) {
  Sums<Piece<Tile, MOST, FIRST>> found;
#pragma unroll
  for (int i = 0; i < Piece<Tile, MOST, FIRST>::BLOCKS_M; i++) {
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; j++) {
      found.blocks[i][j] = sums.blocks[FIRST + i][j];
      keep_in_accumulators(found.blocks[i][j]);
    }
  }
  return found;
}

// Finishes the tile piece by piece, for fewer registers: MOST blocks below each other at once, from block FIRST on.
template <template <class> class Access, int MOST, int FIRST = 0, class Tile>
DEVICE void finish_pieces(const Sums<Tile>& sums, int row, int column, const Finish<typename Tile::T>& with) {
  if constexpr (FIRST < Tile::BLOCKS_M) {
    finish<Access, true>(piece_of<MOST, FIRST>(sums), row, column, with);
    finish_pieces<Access, MOST, FIRST + Piece<Tile, MOST, FIRST>::BLOCKS_M>(sums, row, column, with);
  }
}
