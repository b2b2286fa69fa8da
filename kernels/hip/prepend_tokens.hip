// y = [prefix, x] + position in every image, where the prefix is part of the table of positions already. Nothing but
// memory to wait for.
#include "finish.h"

// What is given: x [images, tokens, n], the table [total, n] and y [images, total, n], m rows.
template <class T>
struct Tokens {
  const T* x;
  const T* table;
  T* y;
  int m, n, tokens, total;
};

// A lane has one vector of columns in COUNT rows; neighbouring lanes go along a row.
template <class T, int M, int N, int WAVES, template <class> class Access>
DEVICE void prepend_tokens(const Tokens<T>& with) {
  constexpr int V = VECTOR<T>, ACROSS = N / V, DOWN = WAVES * WAVE_LANES / ACROSS, COUNT = M / DOWN;
  static_assert(N % V == 0 && M % DOWN == 0, "every lane has the same number of vectors");
  const unsigned tiles_n = divide_up(with.n, N);
  const int row = workgroup() / tiles_n * M, column = workgroup() % tiles_n * N;
  const int at_row = lane_of_workgroup() / ACROSS, at_column = lane_of_workgroup() % ACROSS * V;
  const int in_row = with.n - column - at_column, prefix = with.total - with.tokens;

  // Where the tile's first row lies in x, or the first of x's that comes after it.
  const int image = uniform(row / with.total), token = row - image * with.total, past = token > prefix ? token - prefix : 0;
  const Access<T> y(with.y, with.n, row, column), table(with.table, with.n, 0, column);
  const Access<T> x(with.x, with.n, image * with.tokens + past, column);

  Chunk chunks[COUNT], added[COUNT];
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    const unsigned further = token + at_row + i * DOWN, images = further / with.total;
    const int its_token = further - images * with.total, behind = its_token - prefix;
    const int valid = row + at_row + i * DOWN < with.m ? in_row : 0;
    chunks[i] = x.load(images * with.tokens + behind - past, at_column, behind < 0 ? 0 : valid);
    added[i] = table.load(its_token, at_column, valid);
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    float values[V], others[V];
    unpack<T>(chunks[i], values);
    unpack<T>(added[i], others);
#pragma unroll
    for (int v = 0; v < V; v++) values[v] += others[v];
    y.store(at_row + i * DOWN, at_column, row + at_row + i * DOWN < with.m ? in_row : 0, values);
  }
}

// Kernels are named operator_dtype_MxNwWAVES, with `_any` where no alignment is assumed.
#define PREPEND_TOKENS(NAME, T, M, N, WAVES, OCCUPANCY, ACCESS)                                          \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                                   \
  NAME(const T* x, const T* table, T* y, int m, int n, int tokens, int total) {                          \
    prepend_tokens<T, M, N, WAVES, ACCESS>({x, table, y, m, n, tokens, total});                          \
  }
#define ALIGNED(T, M, N, WAVES, OCCUPANCY) \
  PREPEND_TOKENS(prepend_tokens_##T##_##M##x##N##w##WAVES, T, M, N, WAVES, OCCUPANCY, AlignedTile)
#define ANY(T, M, N, WAVES, OCCUPANCY) \
  PREPEND_TOKENS(prepend_tokens_##T##_##M##x##N##w##WAVES##_any, T, M, N, WAVES, OCCUPANCY, AnyTile)

ALIGNED(float32, 64, 64, 4, 4)
ANY(float32, 64, 64, 4, 4)

ALIGNED(float16, 64, 64, 4, 4)
ANY(float16, 64, 64, 4, 4)

ALIGNED(bfloat16, 64, 64, 4, 4)
ANY(bfloat16, 64, 64, 4, 4)
