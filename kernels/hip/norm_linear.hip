// y = act(norm(x) * weight^T + bias), summed in float32; x is read once.
#include "finish.h"
#include "gemm.h"
#include "pivoted.h"
#include "rows.h"

// What a tile's sums become those of normed rows with: in LDS, in the place of operands that have been read.
template <class Tile>
struct Normed {
  Scaling rows[Tile::M];
  Chunk columns[2][Tile::N / 4];  // sums of the weight's rows, and the bias
};

// Asked for before the product, put into LDS after it: each lane has four columns of one of the two.
template <class Tile, template <class> class Access>
class Columns {
  static constexpr int QUARTER = Tile::N / 4;
  static_assert(2 * QUARTER <= Tile::LANES, "one load a lane");

 public:
  DEVICE Columns(const float* sums, const float* bias, int column, int n) {
    const bool second = lane_of_workgroup() >= QUARTER;
    const int at = (lane_of_workgroup() - (second ? QUARTER : 0)) * 4, valid = n - column - at;
    const Access<float> of_sums(sums, 0, 0, column), of_bias(bias, 0, 0, column);
    const Chunk first = of_sums.load(0, at, second ? 0 : valid);
    const Chunk other = of_bias.load(0, at, second && bias && lane_of_workgroup() < 2 * QUARTER ? valid : 0);
    chunk_ = first | other;  // one of them is zeros
  }
  DEVICE void put(Normed<Tile>& normed) const {
    if (lane_of_workgroup() < 2 * QUARTER) normed.columns[0][lane_of_workgroup()] = chunk_;
  }

 private:
  Chunk chunk_;
};

// Sums of a tile into those of normed rows, with the bias.
template <class Tile>
class Scaled {
  using T = typename Tile::T;
  using Block = typename Mma<T>::Block;
  static constexpr int V = VECTOR<T>, ROWS = Tile::BLOCKS_M * Block::ROWS;

 public:
  DEVICE explicit Scaled(const Normed<Tile>& normed) {
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      rows_[i] = normed.rows[opaque(Tile::wave_row() + i / Block::ROWS * 16 + Block::row(i % Block::ROWS))];
    }
#pragma unroll
    for (int j = 0; j < Tile::BLOCKS_N; j++) {
      const int at = opaque(Tile::wave_column() + j * Mma<T>::COLUMNS + Block::column()) / 4;
#pragma unroll
      for (int v = 0; v < V / 4; v++) {
        unpack<float>(normed.columns[0][at + v], sums_[j] + v * 4);
        unpack<float>(normed.columns[1][at + v], bias_[j] + v * 4);
      }
    }
  }

  // `values` are of the columns of vector `j`, and of this lane's rows from `first` on.
  template <int COUNT>
  DEVICE void operator()(float (&values)[COUNT], int first, int j) const {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const Scaling row = rows_[first + i / V];
      const float added = __builtin_fmaf(row.shift, sums_[j][i % V], bias_[j][i % V]);
      values[i] = __builtin_fmaf(values[i], row.scale, added);
    }
  }

 private:
  Scaling rows_[ROWS];
  float sums_[Tile::BLOCKS_N][V], bias_[Tile::BLOCKS_N][V];
};

template <class Tile, template <class, int, class> class Rows, template <class> class Access, bool WHOLE>
DEVICE void norm_linear(const typename Tile::T* x, const typename Tile::T* weight, const float* sums_of_weight,
                        const float* bias, int m, int n, int k, long long stride_x, float eps,
                        const Finish<typename Tile::T>& with) {
  __shared__ union {
    Operands<Tile> operands;
    Normed<Tile> normed;
  } shared;
  static_assert(sizeof(shared) == sizeof(shared.operands), "what comes later takes no more LDS");
  ask_for(stride_x, eps, with.act, n);
  const Position at = tile_position<Tile>(m, n);
  const Columns<Tile, Access> columns(sums_of_weight, bias, at.column, n);
  PivotedRows<Tile, Tile::M, Rows<Tile, Tile::M, InOrder>, WHOLE> x_rows(x, stride_x, at.row, m, k);
  Rows<Tile, Tile::N, ByColumn<Tile>> w_rows(weight, k, at.column, n, k);
  Sums<Tile> sums;
  accumulate(sums, shared.operands, x_rows, w_rows, divide_up(k, Tile::K));
  barrier();  // the operands have been read
  x_rows.scalings(shared.normed.rows, eps);
  columns.put(shared.normed);
  barrier();
  finish<Access>(sums, at.row, at.column, with, Scaled<Tile>(shared.normed));
}

// Kernels are named as linear's. Arguments: x [m, k], weight [n, k], the sums of the weight's rows [n] float32, bias [n]
// float32 or null, y [m, n]; distances of x's rows in values; an Activation.
#define NORM_LINEAR(NAME, T, M, N, K, WAVES, OCCUPANCY, ROWS, ACCESS, WHOLE)                                           \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                                 \
  NAME(const T* x, const T* weight, const float* sums, const float* bias, T* y, int m, int n, int k,                   \
       long long stride_x, float eps, int act) {                                                                       \
    norm_linear<Tile<T, M, N, K, WAVES>, ROWS, ACCESS, WHOLE>(x, weight, sums, bias, m, n, k, stride_x, eps,           \
                                                              {nullptr, nullptr, y, m, n, n, n, act});                 \
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
ALIGNED(float32, 32, 64, 32, 4, 4)
ANY(float32, 32, 64, 32, 4, 2)

WIDE(float16)
ALIGNED(float16, 128, 128, 32, 4, 2)
ALIGNED(float16, 64, 64, 32, 4, 4)
ALIGNED(float16, 32, 64, 64, 4, 4)
ANY(float16, 32, 64, 64, 4, 2)

WIDE(bfloat16)
ALIGNED(bfloat16, 128, 128, 32, 4, 2)
ALIGNED(bfloat16, 64, 64, 32, 4, 4)
ALIGNED(bfloat16, 32, 64, 64, 4, 4)
ANY(bfloat16, 32, 64, 64, 4, 2)
