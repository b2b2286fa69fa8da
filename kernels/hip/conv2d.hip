// y = act(conv2d(x, weight) + bias + residual) on channels-last memory, summed in float32: an implicit matrix product
// whose rows are output pixels.
#include "finish.h"
#include "gemm.h"
#include "slide.h"

// Whether rows of the result and of the residual are made of whole chunks, as AlignedTile takes them.
template <class T>
DEVICE bool has_whole_chunks(const Finish<T>& with) {
  const auto addresses =
      reinterpret_cast<unsigned long long>(with.y) | reinterpret_cast<unsigned long long>(with.residual);
  return with.n % VECTOR<T> == 0 && addresses % 16 == 0;
}

template <class Tile, template <class> class Windows, template <class> class Taps, bool WHOLE_CHUNKS>
DEVICE void conv2d(const typename Tile::T* x, const typename Tile::T* weight, const float* bias, const Convolution& c,
                   const Finish<typename Tile::T>& with) {
  __shared__ Operands<Tile> operands;
  const Position at = tile_position<Tile>(with.m, with.n);
  Windows<Tile> windows(x, c, at.row, with.m);
  Taps<Tile> taps(weight, windows.walk(), c, at.column, with.n);
  Sums<Tile> sums;
  if constexpr (WHOLE_CHUNKS) {
    begin<AlignedTile>(sums, bias, at.column, with.n);
  } else {
    begin<AnyTile>(sums, bias, at.column, with.n);
  }
  accumulate(sums, operands, windows, taps, windows.walk().steps());
  // A stem has 3 channels, but writes many.
  if constexpr (WHOLE_CHUNKS) {
    finish<AlignedTile>(sums, at.row, at.column, with);
  } else if (has_whole_chunks(with)) {
    finish_pieces<AlignedTile, 2>(sums, at.row, at.column, with);
  } else {
    finish_pieces<AnywhereTile, 2>(sums, at.row, at.column, with);
  }
}

// The same, for channels and addresses that AlignedWindows takes, with SLOTS pixels of a row of taps in LDS.
template <class Tile, int SLOTS>
DEVICE void conv2d_sliding(const typename Tile::T* x, const typename Tile::T* weight, const float* bias,
                           const Convolution& c, const Finish<typename Tile::T>& with) {
  __shared__ Patch<Tile, SLOTS> patch;
  const Position at = tile_position<Tile>(with.m, with.n);
  const Slide<Tile, SLOTS> by(c, at.row, with.m);
  AlignedWindows<typename Patch<Tile, SLOTS>::Rows> windows(x, by.c, by.first, by.end);
  AlignedTaps<Tile> taps(weight, windows.walk(), c, at.column, with.n, by.taps);
  Sums<Tile> sums;
  begin<AlignedTile>(sums, bias, at.column, with.n);
  slide(sums, patch, by, windows, taps, windows.walk().steps() * by.taps);
  finish<AlignedTile>(sums, at.row, at.column, with);
}

// Kernels are named operator_dtype_MxNxKwWAVES, with `_any` where no alignment is assumed: the others take channels and
// out_channels that are multiples of 16 bytes, and addresses that are. Arguments: x [batch, height, width, channels],
// weight [out_channels, kernel_h, kernel_w, channels], bias [out_channels] float32 or null, residual and y [batch,
// out_height, out_width, out_channels], residual or null; sizes; an Activation.
// Workgroups: ceil(batch * out_height * out_width / M) * ceil(out_channels / N).
#define CONV2D(NAME, T, WAVES, OCCUPANCY, ...)                                                                    \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                            \
  NAME(const T* x, const T* weight, const float* bias, const T* residual, T* y, int batch, int height, int width, \
       int channels, int out_height, int out_width, int out_channels, int kernel_h, int kernel_w, int stride_h,   \
       int stride_w, int pad_h, int pad_w, int act) {                                                             \
    const Convolution convolution{batch,    height,   width,    channels, out_height, out_width,                  \
                                  kernel_h, kernel_w, stride_h, stride_w, pad_h,      pad_w};                     \
    const int pixels = batch * out_height * out_width;                                                            \
    __VA_ARGS__(x, weight, bias, convolution,                                                                     \
                {nullptr, residual, y, pixels, out_channels, out_channels, out_channels, act});                   \
  }
#define ALIGNED(T, M, N, K, WAVES, OCCUPANCY)                         \
  CONV2D(conv2d_##T##_##M##x##N##x##K##w##WAVES, T, WAVES, OCCUPANCY, \
         conv2d<Tile<T, M, N, K, WAVES>, AlignedWindows, AlignedTaps, true>)
#define SLIDING(T, M, N, K, WAVES, OCCUPANCY, SLOTS) \
  CONV2D(conv2d_##T##_##M##x##N##x##K##w##WAVES, T, WAVES, OCCUPANCY, conv2d_sliding<Tile<T, M, N, K, WAVES>, SLOTS>)
#define ANY(T, M, N, K, WAVES, OCCUPANCY)                                   \
  CONV2D(conv2d_##T##_##M##x##N##x##K##w##WAVES##_any, T, WAVES, OCCUPANCY, \
         conv2d<Tile<T, M, N, K, WAVES>, AnyWindows, AnyTaps, false>)

#if defined(__HIP__)

ALIGNED(float32, 128, 128, 16, 4, 2)
ALIGNED(float32, 192, 64, 16, 4, 2)

ALIGNED(float16, 128, 128, 32, 4, 2)
ALIGNED(float16, 128, 192, 32, 4, 2)
SLIDING(float16, 320, 64, 32, 4, 2, 384)
SLIDING(float16, 224, 64, 32, 4, 2, 320)

ALIGNED(bfloat16, 128, 128, 32, 4, 2)
ALIGNED(bfloat16, 192, 64, 32, 4, 2)

ANY(float32, 256, 64, 16, 4, 2)
ANY(float16, 128, 192, 32, 4, 2)
ANY(float16, 256, 64, 32, 4, 3)
// Of four instructions in a row on the same sums, clang 17 and later put some into other accumulators.
#if __clang_major__ >= 17
ANY(bfloat16, 256, 64, 32, 4, 2)
#else
ANY(bfloat16, 256, 64, 32, 4, 3)
#endif

#else  // waves have half the lanes, and each twice the sums

ALIGNED(float32, 128, 128, 16, 8, 1)
ALIGNED(float32, 128, 64, 16, 4, 1)

ALIGNED(float16, 128, 128, 32, 8, 1)
ALIGNED(float16, 128, 64, 32, 4, 1)

ALIGNED(bfloat16, 128, 128, 32, 8, 1)
ALIGNED(bfloat16, 128, 64, 32, 4, 1)

#endif

ALIGNED(float32, 64, 64, 16, 4, 4)
ALIGNED(float16, 64, 64, 32, 4, 4)
ALIGNED(bfloat16, 64, 64, 32, 4, 4)

ANY(float32, 64, 64, 16, 4, 2)
ANY(float16, 64, 64, 32, 4, 2)
ANY(bfloat16, 64, 64, 32, 4, 2)
