// y = the mean of each channel over an image's pixels, on channels-last memory, summed in float32.
#include "finish.h"

// A workgroup has N channels of one image. A lane sums a vector of channels over every DOWN-th pixel; the sums of lanes
// meet in LDS.
template <class T, int N, int WAVES, template <class> class Access>
DEVICE void average_pool(const T* x, T* y, int pixels, int channels) {
  constexpr int V = VECTOR<T>, ACROSS = N / V, DOWN = WAVES * WAVE_LANES / ACROSS, TOGETHER = 4;
  static_assert(N % V == 0 && N <= WAVES * WAVE_LANES, "a lane has one vector, and at most one result");
  __shared__ float sums[DOWN * N];
  const unsigned tiles_n = divide_up(channels, N);
  const int image = workgroup() / tiles_n, column = workgroup() % tiles_n * N;
  const int row = lane_of_workgroup() / ACROSS, at = lane_of_workgroup() % ACROSS * V, valid = channels - column - at;
  const Access<T> source(x + static_cast<long long>(image) * pixels * channels, channels, 0, column);
  float sum[V] = {};
  for (int first = row; first < pixels; first += TOGETHER * DOWN) {
    Chunk chunks[TOGETHER];
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
      const int pixel = first + i * DOWN;
      chunks[i] = source.load(pixel, at, pixel < pixels ? valid : 0);
    }
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
      float values[V];
      unpack<T>(chunks[i], values);
#pragma unroll
      for (int v = 0; v < V; v++) sum[v] += values[v];
    }
  }
#pragma unroll
  for (int v = 0; v < V; v++) sums[row * N + at + v] = sum[v];
  barrier();
  const int channel = lane_of_workgroup();
  if (channel >= N || column + channel >= channels) return;
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < DOWN; i++) total += sums[i * N + channel];
  y[static_cast<long long>(image) * channels + column + channel] = from_float<T>(total / static_cast<float>(pixels));
}

// Kernels are named operator_dtype_1xNwWAVES, of one image and N channels, with `_any` where no alignment is assumed.
// Arguments: x [batch, pixels, channels], y [batch, channels]; sizes.
#define AVERAGE_POOL(NAME, T, N, WAVES, OCCUPANCY, ACCESS)     \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                         \
  NAME(const T* x, T* y, int pixels, int channels) {           \
    average_pool<T, N, WAVES, ACCESS>(x, y, pixels, channels); \
  }
#define ALIGNED(T, N, WAVES, OCCUPANCY) \
  AVERAGE_POOL(average_pool_##T##_1x##N##w##WAVES, T, N, WAVES, OCCUPANCY, AlignedTile)
#define ANY(T, N, WAVES, OCCUPANCY) \
  AVERAGE_POOL(average_pool_##T##_1x##N##w##WAVES##_any, T, N, WAVES, OCCUPANCY, AnyTile)

ALIGNED(float32, 64, 4, 4)
ALIGNED(float16, 128, 4, 4)
ALIGNED(bfloat16, 128, 4, 4)

ANY(float32, 64, 4, 4)
ANY(float16, 64, 4, 4)
ANY(bfloat16, 64, 4, 4)
