// Two products in a row, x * w1^T and then act(...) * w2^T, whose values between never leave the registers: what a lane
// gets of a block of the first product is, rounded and packed, what it has to give of x to the second.
//
//   ChainTile<T, M, N, K, WAVES>  M rows, of which a wave has its own; N columns and K values of depth, or fewer
//   Record<Tile, EXTRA>  the weights of one step in LDS: those of SIDE values between the products
//   Weights              carries records from memory to LDS, one step ahead
//   take_rows            a lane's part of rows of x, in registers
//   norm_rows            a layer norm of them
//   between              a step's block of the first product, through the activation
//   multiply_panel       block += x * panel^T
//
// Weights are packed once, by panels.py: a record a step, of panels of SIDE rows and SIDE values of depth each. First
// come those of w1 along its depth (SIDE rows each), then those of w2 along its rows, then the first bias. What lies
// past the matrices' ends is zero.
#pragma once

#include "finish.h"

// Of a panel: rows, and values of depth in 64 bytes.
template <class T>
constexpr int SIDE = 64 / sizeof(T);
// In chunks.
constexpr int PANEL_ROW = 4;
template <class T>
constexpr int PANEL = SIDE<T>* PANEL_ROW;

template <class T_, int M_, int N_, int K_, int WAVES_>
struct ChainTile {
  using T = T_;
  static constexpr int M = M_, N = N_, K = K_, WAVES = WAVES_, LANES = WAVES * WAVE_LANES;
  static constexpr int WAVE_M = M / WAVES, BLOCKS_M = WAVE_M / 16, BLOCKS_N = N / SIDE<T>, BLOCKS_K = K / SIDE<T>;
  static_assert(WAVE_M % 16 == 0 && N % SIDE<T> == 0 && K % SIDE<T> == 0, "waves compute whole blocks");
  static_assert(Mma<T>::DEPTH == 64, "a chunk of a lane's block is its chunk of the next product's x");

  static DEVICE int wave_row() { return wave_of_workgroup() * WAVE_M; }
  static DEVICE int wave_column() { return 0; }
};

// EXTRA: chunks beside the panels and the first bias.
template <class Tile, int EXTRA = 0>
struct Record {
  using T = typename Tile::T;
  static constexpr int PANELS = Tile::BLOCKS_K + Tile::BLOCKS_N, BIAS = PANELS * PANEL<T>, REST = BIAS + SIDE<T> / 4;
  static constexpr int CHUNKS = REST + EXTRA, COUNT = divide_up(CHUNKS, Tile::LANES);
};

template <class Record, int LANES>
class Weights {
 public:
  // Of all records.
  DEVICE explicit Weights(const Chunk* packed) : buffer_(packed) {}

  // This lane's chunks of a step's record.
  DEVICE void load(int step) {
    const int start = step * Record::CHUNKS * static_cast<int>(sizeof(Chunk));
#pragma unroll
    for (int i = 0; i < Record::COUNT; i++) chunks_[i] = buffer_.load(exists(i) ? at(i) * 16 : Buffer::NOWHERE, start);
  }
  DEVICE void put(Chunk* record) const {
#pragma unroll
    for (int i = 0; i < Record::COUNT; i++) {
      if (exists(i)) record[at(i)] = chunks_[i];
    }
  }

 private:
  static DEVICE int at(int i) { return i * LANES + lane_of_workgroup(); }
  static DEVICE bool exists(int i) { return (i + 1) * LANES <= Record::CHUNKS || at(i) < Record::CHUNKS; }

  Buffer buffer_;
  Chunk chunks_[Record::COUNT];
};

// Rows of panels lie in such an order of their chunks that eight lanes of W that read a chunk touch each bank once.
template <class T>
DEVICE typename Mma<T>::W take_panel(const Chunk* panel) {
  typename Mma<T>::W part;
#pragma unroll
  for (int i = 0; i < part.COUNT; i++) {
    const int row = Mma<T>::column_of(part.row(i));
    const int turn = sizeof(T) == 2 ? row / 2 % 2 + row / 8 % 2 * 2 : row / 2 % 4;
    part.chunks[i] = panel[row * PANEL_ROW + (part.chunk() ^ turn)];
  }
  return part;
}

// Reads the panels of a record in order, one ahead of what is multiplied.
template <class T>
class Reader {
 public:
  DEVICE explicit Reader(const Chunk* record) : record_(record), ahead_(take_panel<T>(record)) {}

  // Panel `number`; reads `next`, the number of the one that is taken after it.
  DEVICE typename Mma<T>::W take(int next) {
    const typename Mma<T>::W panel = ahead_;
    ahead_ = take_panel<T>(record_ + next * PANEL<T>);
    asm volatile("" ::: "memory");
    return panel;
  }

 private:
  const Chunk* record_;
  typename Mma<T>::W ahead_;
};

// `sums` gives the block of row block i.
template <class T, int BLOCKS, class Sums>
DEVICE void multiply_panel(Sums sums, const typename Mma<T>::X (&x)[BLOCKS], const typename Mma<T>::W& w) {
#pragma unroll
  for (int word = 0; word < 4; word += Mma<T>::WORDS) {
#pragma unroll
    for (int i = 0; i < BLOCKS; i++) Mma<T>::multiply(sums(i), x[i], w, word);
  }
}

// `rows` gives the chunk at a row and column of x, and how many of its values exist.
template <class T, int BLOCKS, int DEPTH, class Rows>
DEVICE void take_rows(typename Mma<T>::X (&x)[DEPTH][BLOCKS], Rows rows) {
  using X = typename Mma<T>::X;
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
#pragma unroll
    for (int i = 0; i < BLOCKS; i++) {
#pragma unroll
      for (int c = 0; c < X::COUNT; c++) {
        x[k][i].chunks[c] = rows(i * 16 + X::row(c), k * SIDE<T> + X::chunk() * VECTOR<T>);
      }
    }
  }
}

// The sum of what the lanes have that hold the same rows.
template <class T>
DEVICE float sum_of_row(float value) {
  constexpr int APART = WAVE_LANES == 64 ? 16 : 1;
  value += from_lane(value, lane_of_wave() ^ APART);
  return value + from_lane(value, lane_of_wave() ^ 2 * APART);
}

// Rows of `columns` values become (x - mean) / sqrt(var + eps); where eps is 0 they stay, and registers are those that
// are best in the loop to come, which a branch here would change.
template <class T, int BLOCKS, int DEPTH>
DEVICE void norm_rows(typename Mma<T>::X (&x)[DEPTH][BLOCKS], int columns, float eps) {
  using X = typename Mma<T>::X;
  constexpr int V = VECTOR<T>;
  const float of_columns = 1.0f / columns;
#pragma unroll
  for (int i = 0; i < BLOCKS * X::COUNT; i++) {
    auto part = [&](int k) -> Chunk& { return x[k][i / X::COUNT].chunks[i % X::COUNT]; };
    float mean = 0.0f, square = 0.0f, values[V];
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      unpack<T>(part(k), values);
#pragma unroll
      for (int v = 0; v < V; v++) mean += values[v];
    }
    mean = eps > 0 ? sum_of_row<T>(mean) * of_columns : 0.0f;
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      unpack<T>(part(k), values);
      // Zeros past the last column are no values. What tells them is not kept from row to row.
      const int count = anew(columns) - k * SIDE<T> - X::chunk() * V;
#pragma unroll
      for (int v = 0; v < V; v++) {
        const float off = v < count ? values[v] - mean : 0.0f;
        square = __builtin_fmaf(off, off, square);
      }
    }
    const float scale = eps > 0 ? reciprocal_root(__builtin_fmaf(sum_of_row<T>(square), of_columns, eps)) : 1.0f;
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      unpack<T>(part(k), values);
#pragma unroll
      for (int v = 0; v < V; v++) values[v] = (values[v] - mean) * scale;
      part(k) = pack<T>(values);
    }
  }
}

// The values between, SIDE of them for each of BLOCKS times 16 rows: act(x * w1^T + b1), as rows of the second product.
template <class Tile, class Record, int BLOCKS>
DEVICE void between(typename Mma<typename Tile::T>::X (&made)[BLOCKS],
                    const typename Mma<typename Tile::T>::X (&x)[Tile::BLOCKS_K][BLOCKS], const Chunk* record,
                    Reader<typename Tile::T>& panels, int act) {
  using T = typename Tile::T;
  using Block = typename Mma<T>::Block;
  constexpr int V = VECTOR<T>, VALUES = Block::ROWS * V;
  Block sums[BLOCKS];
#pragma unroll
  for (int v = 0; v < V; v += 4) {
    float bias[4];
    unpack<float>(record[Record::BIAS + (Block::column() + v) / 4], bias);
#pragma unroll
    for (int i = 0; i < BLOCKS * Block::ROWS * 4; i++) {
      sums[i / 4 / Block::ROWS].set(i / 4 % Block::ROWS, v + i % 4, bias[i % 4]);
    }
  }
#pragma unroll
  for (int k = 0; k < Tile::BLOCKS_K; k++) {
    multiply_panel<T>([&](int i) -> Block& { return sums[i]; }, x[k], panels.take(k + 1));
  }
#pragma unroll
  for (int i = 0; i < BLOCKS; i++) {
    float values[VALUES];
#pragma unroll
    for (int v = 0; v < VALUES; v++) values[v] = sums[i].value(v / V, v % V);
    activate(values, act);
#pragma unroll
    for (int r = 0; r < Block::ROWS; r++) made[i].chunks[r] = pack<T>(values + r * V);
  }
}
