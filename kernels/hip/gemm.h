// The matrix product of a tile, x * w^T, over the whole depth.
//
//   tile_position  which tile a workgroup computes
//   Operands       the operands in LDS, to be __shared__
//   accumulate     the loop over the depth, for any two sources: rows.h has those of matrices
//
// A source of ROWS rows has `load(int step, Staged<Tile, ROWS>&)`, which reads this lane's chunks of that step, with
// zeros past the depth's end. Steps come in order, each once. What can be done only when the chunks have come, an
// overload of `complete` does.
#pragma once

#include "tile.h"

struct Position {
  int row, column;  // of the tile's first result
};

// Eight tiles of rows go over the columns together, so that they share the weight in L2.
template <class Tile>
DEVICE Position tile_position(int m, int n) {
  constexpr unsigned GROUP = 8;
  const unsigned tiles_m = divide_up(m, Tile::M), tiles_n = divide_up(n, Tile::N);
  const unsigned first = workgroup() / (GROUP * tiles_n) * GROUP, within = workgroup() % (GROUP * tiles_n);
  const unsigned height = tiles_m - first < GROUP ? tiles_m - first : GROUP;
  return {uniform((first + within % height) * Tile::M), uniform(within / height * Tile::N)};
}

// Operands of the loop: two of each, so that one can be filled while the other is read, unless that would leave no room
// for a second workgroup in the 64 KB of a gfx9 compute unit.
template <class Tile>
struct Operands {
  static constexpr int COUNT = 2 * (Tile::M + Tile::N) * Tile::CHUNKS * sizeof(Chunk) <= 32768 ? 2 : 1;
  Chunk x[COUNT][Tile::M * Tile::CHUNKS];
  Chunk w[COUNT][Tile::N * Tile::CHUNKS];
};

template <class Source, class Chunks>
DEVICE void complete(const Source&, Chunks&) {}

template <class Tile, class SourceX, class SourceW>
DEVICE void accumulate(Sums<Tile>& sums, Operands<Tile>& operands, SourceX& x, SourceW& w, unsigned steps) {
  constexpr unsigned COUNT = Operands<Tile>::COUNT;
  Staged<Tile, Tile::M> staged_x;
  Staged<Tile, Tile::N> staged_w;
  x.load(0, staged_x);
  w.load(0, staged_w);
  complete(x, staged_x);
  complete(w, staged_w);
  staged_x.put(operands.x[0]);
  staged_w.put(operands.w[0]);
  barrier();
#pragma unroll
  for (auto& row : sums.blocks) {
#pragma unroll
    for (auto& block : row) keep_in_accumulators(block);
  }
  const Chunk* wave_x = operands.x[0] + Tile::wave_row() * Tile::CHUNKS;
  const Chunk* wave_w = operands.w[0] + Tile::wave_column() * Tile::CHUNKS;
  for (unsigned step = 0;; step++) {
    const bool more = step + 1 < steps;
    if (more) {
      x.load(step + 1, staged_x);
      w.load(step + 1, staged_w);
    }
    const unsigned now = step % COUNT, next = (step + 1) % COUNT;
    multiply_step(sums, wave_x + now * Tile::M * Tile::CHUNKS, wave_w + now * Tile::N * Tile::CHUNKS);
    if (!more) return;
    complete(x, staged_x);
    complete(w, staged_w);
    if constexpr (COUNT == 1) barrier();
    staged_x.put(operands.x[next]);
    staged_w.put(operands.w[next]);
    barrier();
  }
}
