// y = act(x * weight^T + bias + residual), summed in float32.
#include "finish.h"
#include "gemm.h"
#include "rows.h"

template <class Tile, template <class, int, class> class Rows, template <class> class Access>
DEVICE void linear(const typename Tile::T* x, const typename Tile::T* weight, const float* bias, int m, int n, int k,
                   long long stride_x, const Finish<typename Tile::T>& with) {
  __shared__ Operands<Tile> operands;
  const Position at = tile_position<Tile>(m, n);
  Rows<Tile, Tile::M, InOrder> x_rows(x, stride_x, at.row, m, k);
  Rows<Tile, Tile::N, ByColumn<Tile>> w_rows(weight, k, at.column, n, k);
  Sums<Tile> sums;
  begin<Access>(sums, bias, at.column, n);
  accumulate(sums, operands, x_rows, w_rows, divide_up(k, Tile::K));
  finish<Access>(sums, at.row, at.column, with);
}

// Kernels are named operator_dtype_MxNxKwWAVES, with `_any` where no alignment is assumed. Arguments: x [m, k], weight
// [n, k], bias [n] float32 or null, residual [m, n] or null, y [m, n]; distances of rows in values; an Activation.
#define LINEAR(NAME, T, M, N, K, WAVES, OCCUPANCY, ROWS, ACCESS)                                                       \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                                 \
  NAME(const T* x, const T* weight, const float* bias, const T* residual, T* y, int m, int n, int k,                   \
       long long stride_x, long long stride_residual, int act) {                                                       \
    linear<Tile<T, M, N, K, WAVES>, ROWS, ACCESS>(x, weight, bias, m, n, k, stride_x,                                  \
                                                  {nullptr, residual, y, m, n, stride_residual, n, act});              \
  }
#define ALIGNED(T, M, N, K, WAVES, OCCUPANCY) \
  LINEAR(linear_##T##_##M##x##N##x##K##w##WAVES, T, M, N, K, WAVES, OCCUPANCY, AlignedRows, AlignedTile)
#define ANY(T, M, N, K, WAVES, OCCUPANCY) \
  LINEAR(linear_##T##_##M##x##N##x##K##w##WAVES##_any, T, M, N, K, WAVES, OCCUPANCY, AnyRows, AnyTile)

// 192 columns divide the widths of DeiT and ConvNeXt. Warps of 32 lanes have no room for as many rows.
#if defined(__HIP__)
#define WIDE(T) ALIGNED(T, 128, 192, 32, 4, 2)
#else
#define WIDE(T) ALIGNED(T, 64, 192, 32, 4, 2)
#endif

ALIGNED(float32, 128, 128, 16, 8, 4)
ALIGNED(float32, 64, 64, 16, 4, 4)
ALIGNED(float32, 32, 64, 32, 4, 4)
ANY(float32, 32, 64, 32, 4, 4)

WIDE(float16)
ALIGNED(float16, 128, 128, 32, 4, 2)
ALIGNED(float16, 64, 64, 32, 4, 4)
ALIGNED(float16, 32, 64, 64, 4, 4)
ANY(float16, 32, 64, 64, 4, 4)

WIDE(bfloat16)
ALIGNED(bfloat16, 128, 128, 32, 4, 2)
ALIGNED(bfloat16, 64, 64, 32, 4, 4)
ALIGNED(bfloat16, 32, 64, 64, 4, 4)
ANY(bfloat16, 32, 64, 64, 4, 4)
