// Sources of `accumulate` (gemm.h): rows of a matrix whose values along the depth are neighbours in memory.
//
//   AlignedRows  rows 16-byte aligned, the depth a whole number of chunks, ROWS rows within 2 GB
//   AnyRows      nothing assumed; a value at a time
//
// Both are made from the matrix's address, the distance of its rows in values, the first row (from 0 to `count` - 1),
// how many rows the matrix has, its depth, and `Order`: which row, after the first, the operand's row r is.
#pragma once

#include "tile.h"

struct InOrder {
  static DEVICE int row(int r) { return r; }
};

// The order in which the weight lies in LDS.
template <class Tile>
struct ByColumn {
  static DEVICE int row(int r) { return column_of_row<Tile>(r); }
};

template <class Tile, int ROWS, class Order>
class AlignedRows {
  using T = typename Tile::T;
  using Chunks = Staged<Tile, ROWS>;

 public:
  DEVICE AlignedRows(const T* matrix, long long stride, int first, int count, int depth)
      : buffer_(matrix + first * stride), end_(depth - Chunks::chunk() * VECTOR<T>) {
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const unsigned row = Order::row(Chunks::row(i));
      const unsigned offset = row * static_cast<unsigned>(stride * sizeof(T)) + Chunks::chunk() * 16;
      offsets_[i] = static_cast<int>(row) < count - first ? offset : Buffer::NOWHERE;
    }
  }

  DEVICE void load(int step, Chunks& staged) {
    const int start = step * Tile::K;
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      // Only the last step passes the end, so the offset need not be kept.
      offsets_[i] = start < end_ ? offsets_[i] : Buffer::NOWHERE;
      staged.chunks[i] = buffer_.load(offsets_[i], start * sizeof(T));
    }
  }

 private:
  Buffer buffer_;
  int end_;  // of the depth, seen from this lane's chunk
  unsigned offsets_[Chunks::COUNT];
};

template <class Tile, int ROWS, class Order>
class AnyRows {
  using T = typename Tile::T;
  using Chunks = Staged<Tile, ROWS>;

 public:
  DEVICE AnyRows(const T* matrix, long long stride, int first, int count, int depth) : depth_(depth) {
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const int row = first + Order::row(Chunks::row(i));
      // Rows past the last one repeat it; their results are not stored.
      rows_[i] = matrix + (row < count ? row : count - 1) * stride;
    }
  }

  DEVICE void load(int step, Chunks& staged) const {
    const int start = step * Tile::K + Chunks::chunk() * VECTOR<T>;
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      T values[VECTOR<T>];
#pragma unroll
      for (int v = 0; v < VECTOR<T>; v++) {
        const int k = start + v;
        values[v] = rows_[i][k < depth_ ? k : depth_ - 1];
        if (k >= depth_) values[v] = T{};
      }
      staged.chunks[i] = chunk_of(values);
    }
  }

 private:
  int depth_;
  const T* rows_[Chunks::COUNT];
};
