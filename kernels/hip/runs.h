// Chunks that begin at any address, and rows and runs that end within one.
//
//   keep          some values of a chunk
//   Span          what of a tensor a tile may read
//   ChunkWalk     a lane's place in a depth of runs, each padded to whole chunks
//   Trail         that place in memory
//   AnywhereTile  the tile of a matrix (finish.h) whose rows lie anywhere
#pragma once

#include "tile.h"

// The values of a chunk from `first` to `end` - 1, zeros in place of the others.
template <class T>
DEVICE Chunk keep(Chunk chunk, int first, int end) {
  constexpr int OF_WORD = 4 / sizeof(T);
  int words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int mask = 0;
#pragma unroll
    for (int v = 0; v < OF_WORD; v++) {
      const bool kept = first <= i * OF_WORD + v && i * OF_WORD + v < end;
      mask |= kept ? (OF_WORD == 1 ? -1 : 0xffff << 16 * v) : 0;
    }
    words[i] &= mask;
  }
  return Chunk{words[0], words[1], words[2], words[3]};
}

// value / divisor, of_divisor being 1 / divisor, for values below 2^20: exact, since value + 0.5 is at least half
// a unit away from the divisor's multiples.
DEVICE int quotient(int value, float of_divisor) { return static_cast<int>((value + 0.5f) * of_divisor); }

// Of values below 2^24: on gfx9 at a quarter of what multiplying takes.
DEVICE int small_product(unsigned a, unsigned b) { return (a & 0xffffff) * (b & 0xffffff); }

template <class T>
class Span {
 public:
  DEVICE Span() : Span(nullptr, 0u) {}
  // `origin` is uniform; the tensor's values from `origin` to `end` - 1 may be read.
  DEVICE Span(const T* origin, const T* end) : Span(origin, within_reach((end - origin) * sizeof(T))) {}

  // Whether a whole chunk may be read `offset` bytes after the origin.
  DEVICE bool has_chunk(unsigned offset) const { return offset < places_; }

  // The chunk there; zeros at Buffer::NOWHERE, and anything where there is no whole one.
  DEVICE Chunk load(unsigned offset) const { return buffer_.template load_anywhere<sizeof(T)>(offset); }

  // Its values from `first` to `end` - 1, zeros in place of the others. `chunk` is what `load` made of it.
  DEVICE Chunk part(Chunk chunk, int offset, int first, int end) const {
    if (has_chunk(offset)) return keep<T>(chunk, first, end);
    const T* from = origin_ + offset / static_cast<int>(sizeof(T));
    T values[VECTOR<T>] = {};
#pragma unroll
    for (int v = 0; v < VECTOR<T>; v++) {
      if (first <= v && v < end) values[v] = from[v];
    }
    return chunk_of(values);
  }

 private:
  DEVICE Span(const T* origin, unsigned bytes)
      : origin_(origin), buffer_(uniform(origin), uniform(bytes)), places_(bytes < 16 ? 0 : bytes - 15) {}
  static DEVICE unsigned within_reach(unsigned long long bytes) {
    return bytes < Buffer::REACH ? static_cast<unsigned>(bytes) : Buffer::REACH;
  }

  const T* origin_;
  Buffer buffer_;
  unsigned places_;  // bytes after the origin where a whole chunk may begin
};

template <class Tile>
class ChunkWalk {
  using T = typename Tile::T;
  static constexpr int V = VECTOR<T>;

 public:
  DEVICE ChunkWalk(int taps, int run_of) : run(run_of), padded(divide_up(run, V) * V), taps_(taps) {
    const float of_padded = reciprocal(padded);
    runs = uniform(quotient(Tile::K, of_padded));
    rest = Tile::K - runs * padded;
    const int first = lane_of_workgroup() % Tile::CHUNKS * V;
    tap = quotient(first, of_padded);
    start = first - tap * padded;
    last_ = keep<T>(Chunk{-1, -1, -1, -1}, 0, V - (padded - run));
  }

  DEVICE int steps() const { return divide_up(taps_ * padded, Tile::K); }
  DEVICE bool in_depth() const { return tap < taps_; }

  // Makes zeros of what the run has not of this lane's chunks.
  template <class Chunks>
  DEVICE void cut(Chunks& staged) const {
    const int all = start + V > run ? 0 : -1;
    const Chunk mask{last_.x | all, last_.y | all, last_.z | all, last_.w | all};
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      Chunk& chunk = staged.chunks[i];
      chunk = Chunk{chunk.x & mask.x, chunk.y & mask.y, chunk.z & mask.z, chunk.w & mask.w};
    }
  }

  DEVICE void advance() {
    start += rest;
    crossed = start >= padded;
    start -= crossed ? padded : 0;
    tap += runs + crossed;
  }

  int run, padded;
  int runs, rest;  // of a step: whole runs, and the values beyond them
  int tap, start;
  bool crossed;  // whether the last step passed the end of one run more

 private:
  int taps_;
  Chunk last_;
};

// Follows a walk, without a product, through memory where a run begins `distance` values after the one before it.
template <class Tile>
class Trail {
  static constexpr int SIZE = sizeof(typename Tile::T);

 public:
  DEVICE Trail(const ChunkWalk<Tile>& walk, int distance)
      : at((walk.tap * distance + walk.start) * SIZE),
        step_((walk.runs * distance + walk.rest) * SIZE),
        crossing_(step_ + (distance - walk.padded) * SIZE) {}

  // To be called after each of the walk's steps.
  DEVICE void follow(const ChunkWalk<Tile>& walk) { at += walk.crossed ? crossing_ : step_; }

  int at;  // in bytes from the first run

 private:
  int step_, crossing_;
};

template <class T>
class AnywhereTile {
 public:
  DEVICE AnywhereTile(const T* matrix, long long stride, int row, int column)
      : matrix_(const_cast<T*>(matrix) + row * stride + column), stride_(static_cast<unsigned>(stride)) {}

  DEVICE Chunk load(int row, int column, int valid) const {
    const T* from = at(row, column);
    if (valid >= VECTOR<T>) return load_anywhere<sizeof(T)>(from);
    T values[VECTOR<T>] = {};
#pragma unroll
    for (int v = 0; v < VECTOR<T>; v++) {
      if (v < valid) values[v] = from[v];
    }
    return chunk_of(values);
  }

  DEVICE void store(int row, int column, int valid, const float* values) const {
    T* to = at(row, column);
    if (valid >= VECTOR<T>) {
      store_anywhere<sizeof(T)>(to, pack<T>(values));
    } else {
#pragma unroll
      for (int v = 0; v < VECTOR<T>; v++) {
        if (v < valid) to[v] = from_float<T>(values[v]);
      }
    }
  }

 private:
  DEVICE T* at(int row, int column) const { return matrix_ + (static_cast<unsigned>(row) * stride_ + column); }

  T* matrix_;
  unsigned stride_;
};
