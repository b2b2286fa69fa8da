// y = the largest value under a window, on channels-last memory. NaN is larger than any number, as in torch.
#include "finish.h"
#include "windows.h"

// Whether `value` takes the place of the largest so far. A NaN does, and stays.
DEVICE bool surpasses(float value, float largest) { return value > largest || value != value; }

template <class T, int M, int N, int WAVES>
struct PoolTile {
  static constexpr int V = VECTOR<T>, ACROSS = N / V, DOWN = WAVES * WAVE_LANES / ACROSS, COUNT = M / DOWN;
  static_assert(N % V == 0 && M % DOWN == 0, "every lane has the same number of vectors");
};

// A lane has one vector of channels of COUNT pixels; neighbouring lanes go along the channels. Windows reach over the
// image by half of their size at most: where they do, they are given a pixel twice that lies in both.
template <class T, int M, int N, int WAVES, template <class> class Access>
DEVICE void max_pool(const T* x, T* y, const Convolution& c) {
  using Tile = PoolTile<T, M, N, WAVES>;
  constexpr int V = Tile::V, COUNT = Tile::COUNT;
  const int pixels = c.batch * c.out_height * c.out_width;
  const unsigned tiles_n = divide_up(c.channels, N);
  const int first = workgroup() / tiles_n * M, column = workgroup() % tiles_n * N;
  const int row = lane_of_workgroup() / Tile::ACROSS, at = lane_of_workgroup() % Tile::ACROSS * V;
  const int valid = c.channels - column - at;
  const Pixels places(c, first);
  // The workgroup's first image, as a matrix of pixels.
  const Access<T> image(x + static_cast<long long>(places.first.image) * c.height * c.line(), c.channels, 0, column);
  const Access<T> result(y, c.channels, first, column);

  int tops[COUNT], lefts[COUNT], starts[COUNT], counts[COUNT];
  float largest[COUNT][V];
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    const Pixel pixel = places.after(row + i * Tile::DOWN);
    tops[i] = pixel.row * c.stride_h - c.pad_h;
    lefts[i] = pixel.column * c.stride_w - c.pad_w;
    starts[i] = (pixel.image - places.first.image) * c.height;
    counts[i] = first + row + i * Tile::DOWN < pixels ? valid : 0;
#pragma unroll
    for (int v = 0; v < V; v++) largest[i][v] = -__builtin_inff();
  }
  auto within = [](int value, int size) { return value < 0 ? 0 : value < size ? value : size - 1; };
  for (int tap = 0; tap < c.kernel_h; tap++) {
    for (int t = 0; t < c.kernel_w; t++) {
      Chunk chunks[COUNT];
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        const int line = (starts[i] + within(tops[i] + tap, c.height)) * c.width;
        chunks[i] = image.load(line + within(lefts[i] + t, c.width), at, counts[i]);
      }
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        float values[V];
        unpack<T>(chunks[i], values);
#pragma unroll
        for (int v = 0; v < V; v++) largest[i][v] = surpasses(values[v], largest[i][v]) ? values[v] : largest[i][v];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++) result.store(row + i * Tile::DOWN, at, counts[i], largest[i]);
}

// Kernels are named operator_dtype_MxNwWAVES, M being pixels, with `_any` where no alignment is assumed. Arguments: x
// [batch, height, width, channels], y [batch, out_height, out_width, channels]; sizes.
#define MAX_POOL(NAME, T, M, N, WAVES, OCCUPANCY, ACCESS)                                                              \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                                 \
  NAME(const T* x, T* y, int batch, int height, int width, int channels, int out_height, int out_width, int kernel_h,  \
       int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w) {                                               \
    max_pool<T, M, N, WAVES, ACCESS>(x, y, {batch, height, width, channels, out_height, out_width, kernel_h, kernel_w, \
                                            stride_h, stride_w, pad_h, pad_w});                                        \
  }
#define ALIGNED(T, M, N, WAVES, OCCUPANCY) \
  MAX_POOL(max_pool_##T##_##M##x##N##w##WAVES, T, M, N, WAVES, OCCUPANCY, AlignedTile)
#define ANY(T, M, N, WAVES, OCCUPANCY) \
  MAX_POOL(max_pool_##T##_##M##x##N##w##WAVES##_any, T, M, N, WAVES, OCCUPANCY, AnyTile)

ALIGNED(float32, 32, 64, 4, 4)
ALIGNED(float16, 64, 64, 4, 4)
ALIGNED(bfloat16, 64, 64, 4, 4)

ANY(float32, 32, 64, 4, 4)
ANY(float16, 32, 64, 4, 4)
ANY(bfloat16, 32, 64, 4, 4)
