// y = act(y + bias + residual), in place: what follows a vendor's convolution. Nothing but memory to wait for.
#include "finish.h"

// A lane has one vector of columns in COUNT rows; neighbouring lanes go along a row.
template <class T, int M, int N, int WAVES, template <class> class Access>
DEVICE void epilogue(const Finish<T>& with) {
  constexpr int V = VECTOR<T>, ACROSS = N / V, DOWN = WAVES * WAVE_LANES / ACROSS, COUNT = M / DOWN;
  static_assert(N % V == 0 && M % DOWN == 0, "every lane has the same number of vectors");
  // Neighbouring workgroups, too, go along the rows.
  const unsigned tiles_n = divide_up(with.n, N);
  const int row = workgroup() / tiles_n * M, column = workgroup() % tiles_n * N;
  const int at_row = lane_of_workgroup() / ACROSS, at_column = lane_of_workgroup() % ACROSS * V;
  const int in_row = with.n - column - at_column;

  const Access<T> y(with.y, with.stride_y, row, column), residual(with.residual, with.stride_residual, row, column);
  const Access<float> bias(with.bias, 0, 0, column);
  auto valid = [&](int i) { return row + at_row + i * DOWN < with.m ? in_row : 0; };

  // No branches but around the activation: all loads are under way before the first is waited for.
  Chunk chunks[COUNT], residuals[COUNT], biases[V / 4];
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    chunks[i] = y.load(at_row + i * DOWN, at_column, valid(i));
    residuals[i] = residual.load(at_row + i * DOWN, at_column, with.residual ? valid(i) : 0);
  }
#pragma unroll
  for (int v = 0; v < V; v += 4) biases[v / 4] = bias.load(0, at_column + v, with.bias ? in_row - v : 0);

  float values[COUNT * V], others[COUNT * V], added[V];
#pragma unroll
  for (int v = 0; v < V; v += 4) unpack<float>(biases[v / 4], added + v);
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    unpack<T>(chunks[i], values + i * V);
    unpack<T>(residuals[i], others + i * V);
  }
#pragma unroll
  for (int i = 0; i < COUNT * V; i++) values[i] = values[i] + added[i % V] + others[i];
  activate(values, with.act);
#pragma unroll
  for (int i = 0; i < COUNT; i++) y.store(at_row + i * DOWN, at_column, valid(i), values + i * V);
}

// Kernels are named operator_dtype_MxNwWAVES, with `_any` where no alignment is assumed. Arguments: y [m, n], bias [n]
// float32 or null, residual [m, n] or null; distances of rows in values; an Activation.
#define EPILOGUE(NAME, T, M, N, WAVES, OCCUPANCY, ACCESS)                                                              \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                                 \
  NAME(T* y, const float* bias, const T* residual, int m, int n, long long stride_y, long long stride_residual,        \
       int act) {                                                                                                      \
    epilogue<T, M, N, WAVES, ACCESS>({bias, residual, y, m, n, stride_residual, stride_y, act});                       \
  }
#define ALIGNED(T, M, N, WAVES, OCCUPANCY) \
  EPILOGUE(epilogue_##T##_##M##x##N##w##WAVES, T, M, N, WAVES, OCCUPANCY, AlignedTile)
#define ANY(T, M, N, WAVES, OCCUPANCY) \
  EPILOGUE(epilogue_##T##_##M##x##N##w##WAVES##_any, T, M, N, WAVES, OCCUPANCY, AnyTile)

ALIGNED(float32, 64, 64, 4, 4)
ANY(float32, 64, 64, 4, 4)

ALIGNED(float16, 128, 64, 4, 2)
ANY(float16, 64, 64, 4, 4)

ALIGNED(bfloat16, 128, 64, 4, 2)
ANY(bfloat16, 64, 64, 4, 4)
