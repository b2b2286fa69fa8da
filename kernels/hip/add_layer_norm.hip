// y = [x + residual, norm(x + residual)], a row at a time; the sum is rounded before it is normed.
#include "norm.h"

// Kernels are named as layer_norm's. Arguments: x and residual [m, n], weight and bias [n] float32 or null, y [m, 2n];
// distances of the rows of x and residual in values.
#define ADD_LAYER_NORM(NAME, T, M, N, WAVES, OCCUPANCY, WHOLE, ACCESS)                                               \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                               \
  NAME(const T* x, const T* residual, const float* weight, const float* bias, T* y, int m, int n,                    \
       long long stride_x, long long stride_residual, float eps) {                                                   \
    layer_norm<T, M, N, WAVES, true, WHOLE, ACCESS>(                                                                 \
        {x, residual, weight, bias, y, y + n, m, n, stride_x, stride_residual, 2ll * n, eps});                       \
  }
#define ALIGNED(T, M, N, WAVES, OCCUPANCY) \
  ADD_LAYER_NORM(add_layer_norm_##T##_##M##x##N##w##WAVES, T, M, N, WAVES, OCCUPANCY, true, AlignedTile)
#define ANY(T, M, N, WAVES, OCCUPANCY) \
  ADD_LAYER_NORM(add_layer_norm_##T##_##M##x##N##w##WAVES##_any, T, M, N, WAVES, OCCUPANCY, false, AnyTile)

#define ALL(T, OCCUPANCY)           \
  ALIGNED(T, 32, 192, 4, OCCUPANCY) \
  ALIGNED(T, 16, 384, 4, OCCUPANCY) \
  ALIGNED(T, 8, 768, 4, OCCUPANCY)  \
  ANY(T, 4, 512, 4, 4)

// With room for four waves a SIMD, clang 16 spills.
#define HALVES (__clang_major__ == 16 ? 3 : 4)

ALL(float32, 2)
ALL(float16, HALVES)
ALL(bfloat16, HALVES)
