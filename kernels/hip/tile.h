// A tile of a matrix product: how a workgroup shares it, its operands in LDS, one step of its depth.
//
//   Tile<T, M, N, K, WAVES>   M x N results, K values of depth a step, WAVES waves (two side by side, the others below)
//   Operand<Tile, ROWS>       ROWS x K values in LDS; lanes put in and take out chunks of 16 bytes
//   Staged<Tile, ROWS>        the chunks of an operand that one lane carries from memory to LDS
//   Sums<Tile>                float32 sums of a wave's part of the tile
//   multiply_step             sums += x * w^T over the K values in LDS; x and w are this wave's rows of the operands
#pragma once

#include "mma.h"

template <class T_, int M_, int N_, int K_, int WAVES_>
struct Tile {
  using T = T_;
  static constexpr int M = M_, N = N_, K = K_, WAVES = WAVES_;
  static constexpr int LANES = WAVES * WAVE_LANES;
  static constexpr int CHUNKS = K / VECTOR<T>;  // of a row
  static constexpr int WAVE_M = M / (WAVES / 2), WAVE_N = N / 2;
  static constexpr int BLOCKS_M = WAVE_M / 16, BLOCKS_N = WAVE_N / Mma<T>::COLUMNS;
  static_assert(CHUNKS == 4 || CHUNKS == 8, "a row in LDS has 64 or 128 bytes");
  static_assert(WAVE_M % 16 == 0 && WAVE_N % Mma<T>::COLUMNS == 0, "waves compute whole blocks");

  // First row and column of this wave's part, within the tile.
  static DEVICE int wave_row() { return wave_of_workgroup() / 2 * WAVE_M; }
  static DEVICE int wave_column() { return wave_of_workgroup() % 2 * WAVE_N; }
};

// Where chunk `chunk` of a row lies among an operand's chunks. Neighbouring rows have their chunks in other orders, so
// that eight lanes that read the same chunk of eight rows, or write a row or two, touch each of the 32 banks once.
template <class Tile>
DEVICE int place(unsigned row, unsigned chunk) {
  return row * Tile::CHUNKS + (chunk ^ (Tile::CHUNKS == 8 ? row : row / 2) % Tile::CHUNKS);
}

template <class Tile, int ROWS>
struct Staged {
  static constexpr int COUNT = ROWS * Tile::CHUNKS / Tile::LANES;
  static_assert(ROWS * Tile::CHUNKS % Tile::LANES == 0, "all lanes carry the same number of chunks");

  // The row of the operand that chunk `i` of this lane belongs to, and which chunk of the row it is.
  static DEVICE int row(int i) { return i * (Tile::LANES / Tile::CHUNKS) + lane_of_workgroup() / Tile::CHUNKS; }
  static DEVICE int chunk() { return lane_of_workgroup() % Tile::CHUNKS; }

  DEVICE void put(Chunk* operand) const {
    // Rows of one lane lie so far apart that they share the order of their chunks.
    static_assert(Tile::LANES / Tile::CHUNKS % 8 == 0);
    Chunk* first = operand + place<Tile>(row(0), chunk());
#pragma unroll
    for (int i = 0; i < COUNT; i++) first[i * Tile::LANES] = chunks[i];
  }

  Chunk chunks[COUNT];
};

// The column of the tile whose weight belongs in row `row` of the weight's operand.
template <class Tile>
DEVICE int column_of_row(int row) {
  constexpr int COLUMNS = Mma<typename Tile::T>::COLUMNS;
  return row / COLUMNS * COLUMNS + Mma<typename Tile::T>::column_of(row % COLUMNS);
}

// The row that holds a column's.
template <class T>
DEVICE int row_of_column(int column) {
  constexpr int COLUMNS = Mma<T>::COLUMNS;
  return column / COLUMNS * COLUMNS + Mma<T>::row_of(column % COLUMNS);
}

template <class Tile>
struct Sums {
  typename Mma<typename Tile::T>::Block blocks[Tile::BLOCKS_M][Tile::BLOCKS_N];
};

// Has a block's sums lie in accumulators at this point: left to itself, the compiler moves all sums elsewhere at once.
template <class Block>
DEVICE void keep_in_accumulators(Block& block) {
#if defined(__gfx908__)
#pragma unroll
  for (auto& part : block.sums) asm volatile("" : "+a"(part));
#endif
}

// What a lane holds of 16 rows of x or COLUMNS rows of w, `rows` pointing to the operand's chunks of the first.
template <class Tile, class Part>
DEVICE Part take(const Chunk* rows, int chunk) {
  Part part;
#pragma unroll
  for (int i = 0; i < Part::COUNT; i++) part.chunks[i] = rows[place<Tile>(Part::row(i), chunk + Part::chunk())];
  return part;
}

// `take_x` gives 16 rows of x: which of this wave's, and the first chunk of the depth.
template <class Tile, class TakeX>
DEVICE void multiply_step(Sums<Tile>& sums, TakeX take_x, const Chunk* w) {
  using Matrix = Mma<typename Tile::T>;
#pragma unroll
  for (int chunk = 0; chunk < Tile::CHUNKS; chunk += Matrix::DEPTH / 16) {
    typename Matrix::X x_parts[Tile::BLOCKS_M];
    typename Matrix::W w_parts[Tile::BLOCKS_N];
#pragma unroll
    for (int i = 0; i < Tile::BLOCKS_M; i++) x_parts[i] = take_x(i, chunk);
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; j++) {
      w_parts[j] = take<Tile, typename Matrix::W>(w + j * Matrix::COLUMNS * Tile::CHUNKS, chunk);
    }
    // Blocks within words: instructions on the same sums lie far apart.
#pragma unroll
    for (int word = 0; word < 4; word += Matrix::WORDS) {
#pragma unroll
      for (int i = 0; i < Tile::BLOCKS_M; i++) {
#pragma unroll
        for (int j = 0; j < Tile::BLOCKS_N; j++) Matrix::multiply(sums.blocks[i][j], x_parts[i], w_parts[j], word);
      }
    }
  }
}

template <class Tile>
DEVICE void multiply_step(Sums<Tile>& sums, const Chunk* x, const Chunk* w) {
  using X = typename Mma<typename Tile::T>::X;
  multiply_step(sums, [&](int i, int chunk) { return take<Tile, X>(x + i * 16 * Tile::CHUNKS, chunk); }, w);
}
