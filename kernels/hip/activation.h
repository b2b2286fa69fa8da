// The activations an epilogue ends with, on float32. NaN stays NaN, as in torch: no comparison with it is true.
#pragma once

#include "device.h"

// The numbers that launches pass.
enum Activation { NONE, RELU, RELU6, GELU, SILU };

// x * (1 + erf(x / sqrt 2)) / 2 = x / 2 + |x| * (1 / 2 - Phi(-|x|)), where Phi(-t) = exp(-t^2 / 2) * P(s), s = 1 / (1 + 0.28 t),
// as in Abramowitz and Stegun 7.1.26, with P fitted to |x| * Phi over all t (off by 1.1e-8 at most).
DEVICE float gelu(float x) {
  const float t = __builtin_fabsf(x);
  const float s = reciprocal(__builtin_fmaf(0.28f, t, 1.0f));
  float p = -0.106327712f;
  p = __builtin_fmaf(p, s, 0.392063676f);
  p = __builtin_fmaf(p, s, -0.240664184f);
  p = __builtin_fmaf(p, s, 0.271968218f);
  p = __builtin_fmaf(p, s, 0.066231107f);
  p = __builtin_fmaf(p, s, 0.116728884f);
  // exp(-t^2 / 2) as a power of 2: t^2 times log2(e) / 2.
  const float tail = p * s * exp2_fast(t * -0.721347520f * t);
  return __builtin_fmaf(t, 0.5f - tail, 0.5f * x);
}

DEVICE float silu(float x) { return x * reciprocal(1.0f + exp2_fast(x * -1.44269504088896341f)); }

template <int COUNT, class Function>
DEVICE void apply(float (&values)[COUNT], Function function) {
#pragma unroll COUNT
  for (int i = 0; i < COUNT; i++) values[i] = function(values[i]);
}

// `values` through the activation `act`, which is the same for all lanes.
template <int COUNT>
DEVICE void activate(float (&values)[COUNT], int act) {
  if (act == RELU) {
    apply(values, [](float x) { return x < 0.0f ? 0.0f : x; });
  } else if (act == RELU6) {
    apply(values, [](float x) { return x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x; });
  } else if (act == GELU) {
    apply(values, [](float x) { return gelu(x); });
  } else if (act == SILU) {
    apply(values, [](float x) { return silu(x); });
  }
}
