// y = act(x * w_x^T + a * w_a^T + bias), summed in float32 without a rounding between the two products.
#include "finish.h"
#include "gemm.h"
#include "rows.h"

template <class Tile, template <class, int, class> class Rows, template <class> class Access>
DEVICE void dual_linear(const typename Tile::T* x, const typename Tile::T* a, const typename Tile::T* w_x,
                        const typename Tile::T* w_a, const float* bias, int m, int n, int k_x, int k_a,
                        long long stride_x, long long stride_a, const Finish<typename Tile::T>& with) {
  __shared__ Operands<Tile> operands;
  const Position at = tile_position<Tile>(m, n);
  Sums<Tile> sums;
  begin<Access>(sums, bias, at.column, n);
  {
    Rows<Tile, Tile::M, InOrder> rows(x, stride_x, at.row, m, k_x);
    Rows<Tile, Tile::N, ByColumn<Tile>> weights(w_x, k_x, at.column, n, k_x);
    accumulate(sums, operands, rows, weights, divide_up(k_x, Tile::K));
  }
  // The second product fills the buffer that the first one may still be read from.
  barrier();
  Rows<Tile, Tile::M, InOrder> rows(a, stride_a, at.row, m, k_a);
  Rows<Tile, Tile::N, ByColumn<Tile>> weights(w_a, k_a, at.column, n, k_a);
  accumulate(sums, operands, rows, weights, divide_up(k_a, Tile::K));
  finish<Access>(sums, at.row, at.column, with);
}

// Kernels are named as linear's. Arguments: x [m, k_x], a [m, k_a], w_x [n, k_x], w_a [n, k_a], bias [n] float32 or
// null, y [m, n]; distances of rows in values; an Activation.
#define DUAL_LINEAR(NAME, T, M, N, K, WAVES, OCCUPANCY, ROWS, ACCESS)                                                  \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                                 \
  NAME(const T* x, const T* a, const T* w_x, const T* w_a, const float* bias, T* y, int m, int n, int k_x, int k_a,    \
       long long stride_x, long long stride_a, int act) {                                                              \
    dual_linear<Tile<T, M, N, K, WAVES>, ROWS, ACCESS>(x, a, w_x, w_a, bias, m, n, k_x, k_a, stride_x, stride_a,       \
                                                       {nullptr, nullptr, y, m, n, n, n, act});                        \
  }
#define ALIGNED(T, M, N, K, WAVES, OCCUPANCY) \
  DUAL_LINEAR(dual_linear_##T##_##M##x##N##x##K##w##WAVES, T, M, N, K, WAVES, OCCUPANCY, AlignedRows, AlignedTile)
#define ANY(T, M, N, K, WAVES, OCCUPANCY) \
  DUAL_LINEAR(dual_linear_##T##_##M##x##N##x##K##w##WAVES##_any, T, M, N, K, WAVES, OCCUPANCY, AnyRows, AnyTile)

// 192 columns divide the widths of DeiT and ConvNeXt. Warps of 32 lanes have no room for as many rows.
#if defined(__HIP__)
#define WIDE(T) ALIGNED(T, 128, 192, 32, 4, 2)
#else
#define WIDE(T) ALIGNED(T, 64, 192, 32, 4, 2)
#endif

ALIGNED(float32, 64, 64, 16, 4, 4)
ANY(float32, 32, 64, 32, 4, 4)

WIDE(float16)
ALIGNED(float16, 64, 64, 32, 4, 4)
ANY(float16, 32, 64, 64, 4, 4)

WIDE(bfloat16)
ALIGNED(bfloat16, 64, 64, 32, 4, 4)
ANY(bfloat16, 32, 64, 64, 4, 4)
