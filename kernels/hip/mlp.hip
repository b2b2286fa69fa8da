// y = act(norm(x) * w1^T + b1) * w2^T + b2 + residual, summed in float32. Normed values, and those between, are rounded
// to x's type and stay in registers.
#include "panels.h"

template <class Tile, template <class> class Access>
DEVICE void mlp(const typename Tile::T* x, const Chunk* packed, const float* bias, int k, int steps, long long stride_x,
                float eps, int act, const Finish<typename Tile::T>& with) {
  using T = typename Tile::T;
  using Matrix = Mma<T>;
  using Record = ::Record<Tile>;
  // The records of two steps where a second workgroup still has room beside them.
  constexpr int RECORDS = 2 * Record::CHUNKS * sizeof(Chunk) * 8 <= 65536 * Tile::WAVES ? 2 : 1;
  __shared__ Chunk records[RECORDS][Record::CHUNKS];
  const int first = workgroup() * Tile::M;
  Weights<Record, Tile::LANES> weights(packed);
  weights.load(0);
  const Access<T> rows(x, stride_x, first, 0);
  typename Matrix::X x_parts[Tile::BLOCKS_K][Tile::BLOCKS_M];
  take_rows<T>(x_parts, [&](int row, int column) {
    const int at = Tile::wave_row() + row;
    return rows.load(at, column, first + at < with.m ? k - column : 0);
  });
  norm_rows<T>(x_parts, k, eps);
  Sums<Tile> sums;
  begin<Access>(sums, bias, 0, with.n);
  weights.put(records[0]);
  lds_barrier();
#pragma unroll 1
  for (int step = 0;; step++) {
    const bool more = step + 1 < steps;
    if (more) weights.load(step + 1);
    const Chunk* record = records[step % RECORDS];
    Reader<T> panels(record);
    typename Matrix::X made[Tile::BLOCKS_M];
    between<Tile, Record>(made, x_parts, record, panels, act);
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; j++) {
      const int next = j + 1 < Tile::BLOCKS_N ? j + 1 : j;
      multiply_panel<T>([&](int i) -> auto& { return sums.blocks[i][j]; }, made,
                        panels.take(Tile::BLOCKS_K + next));
    }
    if (!more) break;
    if (RECORDS == 1) lds_barrier();
    weights.put(records[(step + 1) % RECORDS]);
    lds_barrier();
  }
  finish<Access>(sums, first, 0, with);
}

// Kernels are named operator_dtype_MxNxKwWAVES, with `_any` where no alignment is assumed, and take up to N columns and K
// values of depth. Arguments: x [m, k], the packed weights and how many records there are, the second bias [n] float32
// or null, residual [m, n] or null, y [m, n]; distances of rows in values; of a layer norm of x, 0 if there is none, eps; an Activation. Workgroups: ceil(m / M).
#define MLP(NAME, T, M, N, K, WAVES, OCCUPANCY, ACCESS)                                                        \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                         \
  NAME(const T* x, const Chunk* packed, const float* bias, const T* residual, T* y, int m, int n, int k,       \
       int steps, long long stride_x, long long stride_residual, float eps, int act) {                                    \
    mlp<ChainTile<T, M, N, K, WAVES>, ACCESS>(x, packed, bias, k, steps, stride_x, eps, act,                        \
                                              {nullptr, residual, y, m, n, stride_residual, n, NONE});         \
  }
#define ALIGNED(T, M, N, K, WAVES, OCCUPANCY) \
  MLP(mlp_##T##_##M##x##N##x##K##w##WAVES, T, M, N, K, WAVES, OCCUPANCY, AlignedTile)
#define ANY(T, M, N, K, WAVES, OCCUPANCY) \
  MLP(mlp_##T##_##M##x##N##x##K##w##WAVES##_any, T, M, N, K, WAVES, OCCUPANCY, AnyTile)

// Two blocks of rows a wave share what it reads of the weights. float32 on sm: its blocks are no rows of another product.
#if defined(__HIP__)
ALIGNED(float32, 128, 96, 96, 4, 2)
ALIGNED(float32, 64, 192, 192, 4, 2)
ANY(float32, 64, 96, 96, 4, 2)
#endif

ALIGNED(float16, 128, 96, 96, 4, 2)
ALIGNED(float16, 128, 192, 192, 4, 2)
ANY(float16, 64, 96, 96, 4, 2)

ALIGNED(bfloat16, 128, 96, 96, 4, 2)
ALIGNED(bfloat16, 64, 192, 192, 4, 2)
ANY(bfloat16, 64, 96, 96, 4, 2)
