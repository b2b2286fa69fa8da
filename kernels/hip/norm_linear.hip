// y = act(norm(x) * weight^T + bias), summed in float32; x is read once.
#include "finish.h"
#include "gemm.h"
#include "pivoted.h"
#include "rows.h"

// Sums of a tile into those of normed rows.
template <class Tile, template <class> class Access>
class Scaled {
  using T = typename Tile::T;
  using Block = typename Mma<T>::Block;
  static constexpr int V = VECTOR<T>, ROWS = Tile::BLOCKS_M * Block::ROWS;

 public:
  // `sums` of the weight's rows, of which the tile's first column is `column` of n.
  DEVICE Scaled(const Scaling* rows, const float* sums, int column, int n) {
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      rows_[i] = rows[opaque(Tile::wave_row() + i / Block::ROWS * 16 + Block::row(i % Block::ROWS))];
    }
    const Access<float> access(sums, 0, 0, column);
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; j++) {
      const int at_column = Tile::wave_column() + j * Mma<T>::COLUMNS + Block::column();
#pragma unroll
      for (int v = 0; v < V; v += 4) sums_[j][v / 4] = access.load(0, at_column + v, n - column - at_column - v);
    }
  }

  // `values` are of the columns of vector `j`, and of this lane's rows from `first` on.
  template <int COUNT>
  DEVICE void operator()(float (&values)[COUNT], int first, int j) const {
    float sums[V];
#pragma unroll
    for (int v = 0; v < V; v += 4) unpack<float>(sums_[j][v / 4], sums + v);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const Scaling row = rows_[first + i / V];
      values[i] = __builtin_fmaf(values[i], row.scale, row.shift * sums[i % V]);
    }
  }

 private:
  Scaling rows_[ROWS];
  Chunk sums_[Tile::BLOCKS_N][V / 4];
};

template <class Tile, template <class, int, class> class Rows, template <class> class Access, bool WHOLE>
DEVICE void norm_linear(const typename Tile::T* x, const typename Tile::T* weight, const float* sums_of_weight, int m,
                        int n, int k, long long stride_x, float eps, const Finish<typename Tile::T>& with) {
  __shared__ Operands<Tile> operands;
  const Position at = tile_position<Tile>(m, n);
  PivotedRows<Tile, Tile::M, Rows<Tile, Tile::M, InOrder>, WHOLE> x_rows(x, stride_x, at.row, m, k);
  Rows<Tile, Tile::N, ByColumn<Tile>> w_rows(weight, k, at.column, n, k);
  Sums<Tile> sums;
  accumulate(sums, operands, x_rows, w_rows, divide_up(k, Tile::K));
  barrier();  // the operands have been read: their place takes the scalings
  auto scalings = reinterpret_cast<Scaling*>(operands.x[0]);
  static_assert(sizeof(operands.x[0]) >= Tile::M * sizeof(Scaling));
  x_rows.scalings(scalings, eps);
  barrier();
  finish<Access>(sums, at.row, at.column, with, Scaled<Tile, Access>(scalings, sums_of_weight, at.column, n));
}

// Kernels are named as linear's. Arguments: x [m, k], weight [n, k], the sums of the weight's rows [n] float32, bias [n]
// float32 or null, y [m, n]; distances of x's rows in values; an Activation.
#define NORM_LINEAR(NAME, T, M, N, K, WAVES, OCCUPANCY, ROWS, ACCESS, WHOLE)                                           \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                                 \
  NAME(const T* x, const T* weight, const float* sums, const float* bias, T* y, int m, int n, int k,                   \
       long long stride_x, float eps, int act) {                                                                       \
    norm_linear<Tile<T, M, N, K, WAVES>, ROWS, ACCESS, WHOLE>(x, weight, sums, m, n, k, stride_x, eps,                 \
                                                              {bias, nullptr, y, m, n, n, n, act});                    \
  }
#define ALIGNED(T, M, N, K, WAVES, OCCUPANCY)                                                                      \
  NORM_LINEAR(norm_linear_##T##_##M##x##N##x##K##w##WAVES, T, M, N, K, WAVES, OCCUPANCY, AlignedRows, AlignedTile, \
              true)
#define ANY(T, M, N, K, WAVES, OCCUPANCY) \
  NORM_LINEAR(norm_linear_##T##_##M##x##N##x##K##w##WAVES##_any, T, M, N, K, WAVES, OCCUPANCY, AnyRows, AnyTile, false)

// As linear's.
#if defined(__HIP__)
#define WIDE(T) ALIGNED(T, 128, 192, 32, 4, 2)
#else
#define WIDE(T) ALIGNED(T, 64, 192, 32, 4, 2)
#endif

ALIGNED(float32, 128, 128, 16, 8, 4)
ALIGNED(float32, 64, 64, 16, 4, 4)
ANY(float32, 32, 64, 32, 4, 4)

WIDE(float16)
ALIGNED(float16, 128, 128, 32, 4, 2)
ALIGNED(float16, 64, 64, 32, 4, 4)
ANY(float16, 32, 64, 64, 4, 4)

WIDE(bfloat16)
ALIGNED(bfloat16, 128, 128, 32, 4, 2)
ALIGNED(bfloat16, 64, 64, 32, 4, 4)
ANY(bfloat16, 32, 64, 64, 4, 4)
