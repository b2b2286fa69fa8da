// y = (x - mean) / sqrt(variance + eps) * weight + bias, a row at a time.
#include "norm.h"

// Kernels are named operator_dtype_MxNwWAVES, with `_any` where no alignment is assumed: M rows a workgroup, N columns
// that their lanes hold at once; rows may have any number. Arguments: x [m, n], weight and bias [n] float32 or null,
// y [m, n]; distances of x's rows in values.
#define LAYER_NORM(NAME, T, M, N, WAVES, OCCUPANCY, WHOLE, ACCESS)                                                 \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                             \
  NAME(const T* x, const float* weight, const float* bias, T* y, int m, int n, long long stride_x, float eps) {    \
    layer_norm<T, M, N, WAVES, false, WHOLE, ACCESS>(                                                              \
        {x, nullptr, weight, bias, nullptr, y, m, n, stride_x, 0, n, eps});                                        \
  }
#define ALIGNED(T, M, N, WAVES, OCCUPANCY) \
  LAYER_NORM(layer_norm_##T##_##M##x##N##w##WAVES, T, M, N, WAVES, OCCUPANCY, true, AlignedTile)
#define ANY(T, M, N, WAVES, OCCUPANCY) \
  LAYER_NORM(layer_norm_##T##_##M##x##N##w##WAVES##_any, T, M, N, WAVES, OCCUPANCY, false, AnyTile)

// Widths of ConvNeXt and DeiT, and one for others.
#define ALL(T, OCCUPANCY)           \
  ALIGNED(T, 64, 96, 4, OCCUPANCY)  \
  ALIGNED(T, 32, 192, 4, OCCUPANCY) \
  ALIGNED(T, 16, 384, 4, OCCUPANCY) \
  ALIGNED(T, 8, 768, 4, OCCUPANCY)  \
  ALIGNED(T, 4, 2048, 4, 2)         \
  ANY(T, 4, 512, 4, 4)

ALL(float32, 3)
ALL(float16, 4)
ALL(bfloat16, 4)
