// The activations an epilogue ends with, on float32. NaN stays NaN, as in torch: no comparison with it is true.
#pragma once

#include "device.h"

// The numbers that launches pass.
enum Activation { NONE, RELU, RELU6, GELU, SILU };

// x * Phi(x) = x / 2 + |x| * (1 / 2 - Phi(-|x|)), Phi(x) being (1 + erf(x / sqrt 2)) / 2. The logarithm of Phi(-t) to
// base 2 is close to a parabola: this polynomial was fitted to it so that t * Phi(-t) is off by 1.5e-8 at most, and
// falls for all t.
DEVICE float gelu(float x) {
  const float t = __builtin_fabsf(x);
  float log_tail = -2.27591383e-06f;
  log_tail = __builtin_fmaf(log_tail, t, 3.29686215e-05f);
  log_tail = __builtin_fmaf(log_tail, t, -1.57282233e-04f);
  log_tail = __builtin_fmaf(log_tail, t, -2.02468904e-04f);
  log_tail = __builtin_fmaf(log_tail, t, 7.14276584e-03f);
  log_tail = __builtin_fmaf(log_tail, t, -5.25464222e-02f);
  log_tail = __builtin_fmaf(log_tail, t, -4.59193063e-01f);
  log_tail = __builtin_fmaf(log_tail, t, -1.15110694e+00f);
  log_tail = __builtin_fmaf(log_tail, t, -9.99999959e-01f);
  return __builtin_fmaf(t, 0.5f - exp2_fast(log_tail), 0.5f * x);
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
