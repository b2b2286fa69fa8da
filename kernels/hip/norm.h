// Layer norm of rows, of sums of rows too: mean and variance in float32, in two passes over what a lane holds.
#pragma once

#include "finish.h"
#include "lanes.h"

// `residual` and `total`, where the sum goes, are for a norm of sums alone. `weight` and `bias` (float32) may be null.
// Rows lie their strides apart, in values.
template <class T>
struct Norm {
  const T* x;
  const T* residual;
  const float* weight;
  const float* bias;
  T* total;
  T* y;
  int m, n;
  long long stride_x, stride_residual, stride_y;
  float eps;
};

// M rows a workgroup; a row's lanes hold N columns at once. Rows of more columns are read once for the mean, once for
// the variance and once for the result. WHOLE: rows are whole vectors.
template <class T, int M, int N, int WAVES, bool SUM, bool WHOLE, template <class> class Access>
DEVICE void layer_norm(const Norm<T>& with) {
  constexpr int V = VECTOR<T>, ACROSS = WAVES * WAVE_LANES / M, COUNT = N / (ACROSS * V);
  static_assert(ACROSS <= WAVE_LANES && N % (ACROSS * V) == 0, "a wave holds whole rows, a lane whole vectors");
  const int row = workgroup() * M, at_row = lane_of_workgroup() / ACROSS;
  const int at_column = lane_of_workgroup() % ACROSS * V;
  const int n = row + at_row < with.m ? with.n : 0;  // columns of this lane's row

  const Access<T> x(with.x, with.stride_x, row, 0), residual(with.residual, with.stride_residual, row, 0);
  const Access<T> total(with.total, with.stride_y, row, 0), y(with.y, with.stride_y, row, 0);
  const Access<float> weight(with.weight, 0, 0, 0), bias(with.bias, 0, 0, 0);

  float values[COUNT * V];
  auto column = [&](int base, int i) { return base + at_column + i * ACROSS * V; };
  auto is_inside = [&](int base, int i) { return column(base, i / V) + (WHOLE ? 0 : i % V) < n; };
  auto load = [&](int base) {
    Chunk chunks[COUNT], others[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int at = column(base, i);
      chunks[i] = x.load(at_row, at, n - at);
      if constexpr (SUM) others[i] = residual.load(at_row, at, n - at);
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      unpack<T>(chunks[i], values + i * V);
      if constexpr (SUM) {
        float other[V];
        unpack<T>(others[i], other);
#pragma unroll
        for (int v = 0; v < V; v++) values[i * V + v] += other[v];
        unpack<T>(pack<T>(values + i * V), values + i * V);  // rounded, as it is stored
      }
    }
  };

  const bool once = with.n <= N;
  float sum = 0.0f, rest = 0.0f, squares = 0.0f;
  for (int base = 0; base < with.n; base += N) {
    load(base);
#pragma unroll
    for (int i = 0; i < COUNT * V; i++) sum += values[i];  // zeros past the row's end
  }
  const float mean = sum_of_lanes<ACROSS>(sum) / static_cast<float>(with.n);
  for (int base = 0; base < with.n; base += N) {
    if (!once) load(base);
#pragma unroll
    for (int i = 0; i < COUNT * V; i++) {
      const float away = is_inside(base, i) ? values[i] - mean : 0.0f;
      rest += away;
      squares = __builtin_fmaf(away, away, squares);
    }
  }
  // The mean was rounded: this much of it is missing, which counts where it is large beside the deviation.
  const float missing = sum_of_lanes<ACROSS>(rest) / static_cast<float>(with.n);
  const float square = sum_of_lanes<ACROSS>(squares) / static_cast<float>(with.n);
  const float variance = square - missing * missing;  // no less than 0 but by rounding, when both are next to nothing
  const float scale = reciprocal_root((variance < 0.0f ? 0.0f : variance) + with.eps), shift = -missing * scale;
  for (int base = 0; base < with.n; base += N) {
    if (!once) load(base);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int at = column(base, i);
      float result[V], weights[V], biases[V];
#pragma unroll
      for (int v = 0; v < V; v += 4) {
        unpack<float>(weight.load(0, at + v, with.weight ? with.n - at - v : 0), weights + v);
        unpack<float>(bias.load(0, at + v, with.bias ? with.n - at - v : 0), biases + v);
      }
#pragma unroll
      for (int v = 0; v < V; v++) {
        const float factor = with.weight ? weights[v] : 1.0f;
        const float normed = __builtin_fmaf(values[i * V + v] - mean, scale, shift);
        result[v] = __builtin_fmaf(normed, factor, biases[v]);
      }
      if constexpr (SUM) total.store(at_row, at, n - at, values + i * V);
      y.store(at_row, at, n - at, result);
    }
  }
}
