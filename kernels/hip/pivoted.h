// Rows of a matrix for `accumulate` (gemm.h) that are to be normed: each value less the row's pivot, and what the mean
// and the variance of a row are found from meanwhile, so that the rows are read once.
//
// norm(x) * w^T = (d * w^T - mean(d) * sums of w's rows) / sqrt(variance(d) + eps), d being x less any one value a row.
// The pivot is the mean of a row's first values, those of the first step. It lies within sqrt(k / step) standard
// deviations of the row's mean, whatever the values are, so that nothing cancels that is not the row's own rounding.
#pragma once

#include "lanes.h"
#include "tile.h"

// Pivots one chunk, of which `valid` values are the row's, and adds it up as it is rounded to T. SCALE: d is that much
// of the difference.
template <class T>
struct Pivot {
  static constexpr float SCALE = 1.0f;

  static DEVICE float sum(Chunk chunk) {
    float values[VECTOR<T>], sum = 0.0f;
    unpack<T>(chunk, values);
#pragma unroll
    for (int v = 0; v < VECTOR<T>; v++) sum += values[v];
    return sum;
  }

  DEVICE void set(float mean) { mean_ = mean; }
  template <bool WHOLE>
  DEVICE void take(Chunk& chunk, int valid, float& sum, float& squares) const {
    constexpr int V = VECTOR<T>;
    float values[V];
    unpack<T>(chunk, values);
#pragma unroll
    for (int v = 0; v < V; v++) values[v] = (WHOLE ? 0 : v) < valid ? values[v] - mean_ : 0.0f;
    chunk = pack<T>(values);
    if constexpr (sizeof(T) == 2) unpack<T>(chunk, values);
#pragma unroll
    for (int v = 0; v < V; v++) {
      sum += values[v];
      squares = __builtin_fmaf(values[v], values[v], squares);
    }
  }

 private:
  float mean_;
};

#if defined(__HIP__)
// Two values an instruction. The difference of two halves may overflow; half of it does not.
template <>
struct Pivot<float16> {
  using Half2 = _Float16 __attribute__((ext_vector_type(2)));
  static constexpr float SCALE = 0.5f;

  static DEVICE float sum(Chunk chunk) {
    const int words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) sum = __builtin_amdgcn_fdot2(__builtin_bit_cast(Half2, words[i]), ones(), sum, false);
    return sum;
  }

  DEVICE void set(float mean) {
    const auto shift = static_cast<_Float16>(-SCALE * mean);
    shift_ = {shift, shift};
  }
  template <bool WHOLE>
  DEVICE void take(Chunk& chunk, int valid, float& sum, float& squares) const {
    constexpr _Float16 HALF = 0.5;
    int words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      Half2 pair = __builtin_bit_cast(Half2, words[i]) * Half2{HALF, HALF} + shift_;
      if constexpr (WHOLE) {
        words[i] = valid > 0 ? __builtin_bit_cast(int, pair) : 0;
      } else {
        const int low = 2 * i < valid ? 0xffff : 0, high = 2 * i + 1 < valid ? 0xffff0000 : 0;
        words[i] = __builtin_bit_cast(int, pair) & (low | high);
      }
      pair = __builtin_bit_cast(Half2, words[i]);
      sum = __builtin_amdgcn_fdot2(pair, ones(), sum, false);
      squares = __builtin_amdgcn_fdot2(pair, pair, squares, false);
    }
    chunk = Chunk{words[0], words[1], words[2], words[3]};
  }

 private:
  // In a register: as a constant of its own the instruction takes it for float32.
  static DEVICE Half2 ones() { return __builtin_bit_cast(Half2, opaque(0x3c003c00)); }

  Half2 shift_;  // twice the same: clang 16 keeps single halves in memory
};
#endif

// Of a row: what its sums are multiplied with, and what times a column's sum of weights is added to them then.
struct Scaling {
  float scale, shift;
};

// `Rows` are AlignedRows or AnyRows (rows.h), made from the same arguments. WHOLE: the depth is whole chunks.
template <class Tile, int ROWS, class Rows, bool WHOLE>
class PivotedRows {
  using T = typename Tile::T;
  using Chunks = Staged<Tile, ROWS>;

 public:
  DEVICE PivotedRows(const T* matrix, long long stride, int first, int count, int depth)
      : rows_(matrix, stride, first, count, depth), depth_(depth) {}

  DEVICE void load(int step, Chunks& staged) {
    rows_.load(step, staged);
    left_ = depth_ - step * Tile::K;
  }

  // What `load` asked for last, once it has come.
  DEVICE void finish(Chunks& staged) {
    if (!begun_) set_pivots(staged);
    begun_ = true;
    if (left_ >= Tile::K) {  // nothing to leave out, but in a last step
      take<true>(staged, 1);
    } else {
      take<WHOLE>(staged, left_ - Chunks::chunk() * VECTOR<T>);
    }
  }

  // Writes the scaling of all rows, when all steps are done; whoever reads it waits for a barrier.
  DEVICE void scalings(Scaling* rows, float eps) const {
    constexpr float SCALE = Pivot<T>::SCALE;
    const float part = 1.0f / static_cast<float>(depth_);
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      const float mean = sum_of_lanes<Tile::CHUNKS>(sums_[i]) * part;
      const float square = sum_of_lanes<Tile::CHUNKS>(squares_[i]) * part;
      const float variance = square - mean * mean;
      // A NaN stays.
      const float scale = reciprocal_root((variance < 0.0f ? 0.0f : variance) / (SCALE * SCALE) + eps) / SCALE;
      if (Chunks::chunk() == 0) rows[Chunks::row(i)] = {scale, -mean * scale};
    }
  }

 private:
  template <bool CHUNKS_ARE_WHOLE>
  DEVICE void take(Chunks& staged, int valid) {
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {
      pivots_[i].template take<CHUNKS_ARE_WHOLE>(staged.chunks[i], valid, sums_[i], squares_[i]);
    }
  }

  DEVICE void set_pivots(const Chunks& staged) {
    const float part = reciprocal(static_cast<float>(depth_ < Tile::K ? depth_ : Tile::K));
#pragma unroll
    for (int i = 0; i < Chunks::COUNT; i++) {  // chunks are zeros past the depth's end
      pivots_[i].set(sum_of_lanes<Tile::CHUNKS>(Pivot<T>::sum(staged.chunks[i])) * part);
    }
  }

  Rows rows_;
  int depth_, left_;  // `left_`: of the depth, from the step that was loaded last on
  bool begun_ = false;
  Pivot<T> pivots_[Chunks::COUNT];
  float sums_[Chunks::COUNT] = {}, squares_[Chunks::COUNT] = {};
};

template <class Tile, int ROWS, class Rows, bool WHOLE>
DEVICE void complete(PivotedRows<Tile, ROWS, Rows, WHOLE>& rows, Staged<Tile, ROWS>& staged) {
  rows.finish(staged);
}
