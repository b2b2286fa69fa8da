// y = act(pointwise(depthwise(x, w_dw) + b_dw, w_pw) + b_pw + residual) on channels-last memory, summed in float32. The
// depthwise result is rounded to x's type and goes through LDS into the 1x1 product; nothing between goes to memory.
#include "depthwise.h"
#include "pointwise.h"

template <class Tile, template <class> class Depthwise, template <class> class Pointwise, template <class> class Access>
DEVICE void depthwise_pointwise(const typename Tile::T* x, const typename Tile::T* w_dw, const float* b_dw,
                                const typename Tile::T* w_pw, const Convolution& c,
                                const Finish<typename Tile::T>& with) {
  __shared__ Chunk operands[Tile::BUFFERS * Tile::BUFFER + Tile::BEYOND];
  // Tiles of the same pixels are neighbours, and find their images in L2.
  const unsigned tiles_n = divide_up(with.n, Tile::N);
  const int column = workgroup() % tiles_n * Tile::N;
  const int first = workgroup() / tiles_n * Tile::M;
  const Depthwise<Tile> depthwise(x, w_dw, b_dw, c, first, with.m);
  const Pointwise<Tile> pointwise(w_pw, c.channels, column, with.n);
  Sums<Tile> sums;
  Rest<Tile> rest;
  begin<Access>(sums, with.bias, column, with.n);
  __shared__ Kept<Finish<typename Tile::T>> finishing;
  if constexpr (Tile::REST) finishing.put(with);  // a rest takes more scalar registers than there are
  const int steps = divide_up(c.channels, Tile::K);
  // The operands of two steps lie in LDS where there is room: waves then mix one while others multiply the other. What
  // a step begins with is on its way while the one before is multiplied.
  typename Depthwise<Tile>::Ahead ahead;
  depthwise.ask(0, ahead);
  int step = 0;
  do {
    typename Pointwise<Tile>::Parts parts, next;
    // Places in the only buffer, were they known to stay, would take registers from step to step.
    Chunk* operand = operands + (Tile::BUFFERS == 1 ? anew(0) : step % Tile::BUFFERS * Tile::BUFFER);
    depthwise.put(step * Tile::K, ahead, operand, [&] { pointwise.load(step * Tile::K, parts); });
    lds_barrier();
#pragma unroll
    for (int part = 0; part < parts.STEPS; part++) {
      if (part + 1 < parts.STEPS) {
        pointwise.load(step * Tile::K + (part + 1) * parts.DEPTH, next);
      } else if (step + 1 < steps) {
        depthwise.ask((step + 1) * Tile::K, ahead);
      }
      multiply_parts<Tile>(sums, rest, operand, part, parts);
      parts = next;
    }
    if (Tile::BUFFERS == 1) lds_barrier();
  } while (++step < steps);
  Finish<typename Tile::T> within = with;
  if constexpr (Tile::REST) within = finishing.take();
  within.m = first + Tile::M < within.m ? first + Tile::M : within.m;
  rest.template finish<Access>(operands, first, column, within);
  within.bias = nullptr;  // which the other sums have begun with
  finish_pieces<Access, (Tile::WAVE_N > 64 ? 2 : 4)>(sums, first, column, within);
}

// Kernels are named operator_dtype_MxNxKwWAVES, M being pixels, with `_any` where no alignment is assumed: the others
// take channels and out_channels that are multiples of 16 bytes, and addresses that are. They are fast where the kernel
// is 7x7 at stride 1 with padding 3, and the width a multiple of 7, or of 8 if M is 64; fastest if also the height is
// even, and the width M / 2, M / 4 or M / 8. Arguments: x [batch, height, width, channels], w_dw [kernel_h, kernel_w,
// channels], w_pw [out_channels, channels], b_dw and b_pw float32 or null, residual and y [batch, out_height,
// out_width, out_channels], residual or null; sizes; an Activation.
// Workgroups: ceil(batch * out_height * out_width / M) * ceil(out_channels / N).
#define MIXED(NAME, T, M, N, K, WAVES, OCCUPANCY, DEPTHWISE, POINTWISE, ACCESS)                                       \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                                \
  NAME(const T* x, const T* w_dw, const float* b_dw, const T* w_pw, const float* b_pw, const T* residual, T* y,       \
       int batch, int height, int width, int channels, int out_height, int out_width, int out_channels, int kernel_h, \
       int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w, int act) {                                     \
    const Convolution convolution{batch,    height,   width,    channels, out_height, out_width,                      \
                                  kernel_h, kernel_w, stride_h, stride_w, pad_h,      pad_w};                         \
    depthwise_pointwise<MixedTile<T, M, N, K, WAVES>, DEPTHWISE, POINTWISE, ACCESS>(                                  \
        x, w_dw, b_dw, w_pw, convolution,                                                                             \
        {b_pw, residual, y, batch * out_height * out_width, out_channels, out_channels, out_channels, act});          \
  }
#define ALIGNED(T, M, N, K, WAVES, OCCUPANCY)                                                                \
  MIXED(depthwise_pointwise_##T##_##M##x##N##x##K##w##WAVES, T, M, N, K, WAVES, OCCUPANCY, AlignedDepthwise, \
        AlignedPointwise, AlignedTile)
#define ANY(T, M, N, K, WAVES, OCCUPANCY)                                                                       \
  MIXED(depthwise_pointwise_##T##_##M##x##N##x##K##w##WAVES##_any, T, M, N, K, WAVES, OCCUPANCY, AnyDepthwise, \
        AnyPointwise, AnyTile)

#if defined(__HIP__)

ALIGNED(float32, 56, 384, 64, 4, 2)
ALIGNED(float32, 112, 96, 16, 2, 2)
ALIGNED(float32, 112, 192, 32, 4, 2)
ALIGNED(float32, 64, 128, 32, 2, 2)

ALIGNED(float16, 56, 384, 128, 4, 2)
ALIGNED(float16, 112, 96, 32, 2, 2)
ALIGNED(float16, 112, 192, 64, 4, 2)
ALIGNED(float16, 64, 128, 64, 2, 2)

ALIGNED(bfloat16, 56, 384, 128, 4, 2)
ALIGNED(bfloat16, 112, 96, 32, 2, 2)
ALIGNED(bfloat16, 112, 192, 64, 4, 2)
ALIGNED(bfloat16, 64, 128, 64, 2, 2)

#else  // waves have half the lanes, and each twice the sums

ALIGNED(float32, 56, 64, 32, 4, 1)
ALIGNED(float32, 56, 128, 64, 8, 1)
ALIGNED(float32, 64, 64, 32, 4, 1)

ALIGNED(float16, 56, 128, 64, 4, 1)
ALIGNED(float16, 56, 256, 128, 8, 1)
ALIGNED(float16, 64, 128, 64, 4, 1)

ALIGNED(bfloat16, 56, 128, 64, 4, 1)
ALIGNED(bfloat16, 56, 256, 128, 8, 1)
ALIGNED(bfloat16, 64, 128, 64, 4, 1)

#endif

ANY(float32, 64, 64, 16, 2, 2)
ANY(float16, 64, 64, 32, 2, 2)
ANY(bfloat16, 64, 64, 32, 2, 2)
