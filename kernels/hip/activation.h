// The activations an epilogue ends with, on float32. NaN stays NaN, as in torch: no comparison with it is true.
#pragma once

#include "device.h"

// The numbers that launches pass.
enum Activation { NONE, RELU, RELU6, GELU, SILU };

// Within 4 ulp of 1: a ratio of polynomials, with the coefficients that Eigen uses.
DEVICE float erf_fast(float x) {
  // Beyond 4, erf is 1 in float32.
  x = __builtin_fminf(__builtin_fmaxf(x, -4.0f), 4.0f);
  float square = x * x;
  float p = -2.72614225801306e-10f;
  p = __builtin_fmaf(p, square, 2.77068142495902e-08f);
  p = __builtin_fmaf(p, square, -2.10102402082508e-06f);
  p = __builtin_fmaf(p, square, -5.69250639462346e-05f);
  p = __builtin_fmaf(p, square, -7.34990630326855e-04f);
  p = __builtin_fmaf(p, square, -2.95459980854025e-03f);
  p = __builtin_fmaf(p, square, -1.60960333262415e-02f);
  float q = -1.45660718464996e-05f;
  q = __builtin_fmaf(q, square, -2.13374055278905e-04f);
  q = __builtin_fmaf(q, square, -1.68282697438203e-03f);
  q = __builtin_fmaf(q, square, -7.37332916720468e-03f);
  q = __builtin_fmaf(q, square, -1.42647390514189e-02f);
  return x * p * reciprocal(q);
}

DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erf_fast(x * 0.70710678118654752f)); }

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
