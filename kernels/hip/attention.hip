// y = softmax(q k^T / sqrt(D)) v of every head, in one pass over keys and values, without scores in memory.
#include "attention.h"

// A workgroup has some units of 16 queries of one head, a wave each: as even a share of the head's as there is. It goes
// over the keys once, or twice where scores grew so much on the way that weights would overflow.
template <class Head>
DEVICE void attention(const typename Head::T* qkv, typename Head::T* y, int tokens, int heads) {
  __shared__ typename Head::Operands operands[2];
  const unsigned units = divide_up(tokens, QUERIES), groups = divide_up(units, Head::WAVES);
  const unsigned share = divide_up(units, groups), head = uniform(workgroup() / groups), wave = wave_of_workgroup();
  const unsigned image = uniform(head / heads), of_image = head - image * heads;
  const int first = uniform(((workgroup() - head * groups) * share + wave) * QUERIES), stride = 3 * heads * Head::D;
  qkv += static_cast<long long>(image) * tokens * stride + of_image * Head::D;

  Staging<Head> staging(stride);
  if (wave < share && first < tokens) {
    Queries<Head> queries(qkv, stride, first, tokens);
    const auto attend = [&](const auto& tile, int key, int left, bool is_first) {
      queries.attend(tile, key, left, is_first);
    };
    for (bool again = false;; again = true) {
      queries.begin(again);
      pass(staging, operands, qkv, tokens, attend);
      if (again || !staging.any_of_waves(operands, tokens, queries.outgrown())) break;
    }
    y += static_cast<long long>(image) * tokens * heads * Head::D + of_image * Head::D;
    queries.store(y, heads * Head::D, first, tokens);
  } else {
    for (bool again = false;; again = true) {
      pass(staging, operands, qkv, tokens, [](const auto&, int, int, bool) {});
      if (again || !staging.any_of_waves(operands, tokens, false)) break;
    }
  }
}

// Kernels are named attention_dtype_QUERIESxKEYSxDwWAVES. Arguments: qkv [images, tokens, 3, heads, D], y [images,
// tokens, heads, D], both on 16 bytes, an image within 2 GB; tokens; heads.
#define ATTENTION(T, M, KEYS, D, WAVES, OCCUPANCY)                                          \
  KERNEL(WAVES* WAVE_LANES, OCCUPANCY)                                                      \
  attention_##T##_##M##x##KEYS##x##D##w##WAVES(const T* qkv, T* y, int tokens, int heads) { \
    static_assert(M == WAVES * QUERIES);                                                    \
    attention<Head<T, KEYS, D, WAVES>>(qkv, y, tokens, heads);                              \
  }

// Small tiles, of which several fit a compute unit, cover what each of them waits for; the larger one reads keys and
// values half as often from L2.
#define HALVES(T)                  \
  ATTENTION(T, 64, 64, 32, 4, 4)   \
  ATTENTION(T, 64, 32, 64, 4, 4)   \
  ATTENTION(T, 128, 32, 64, 8, 4)  \
  ATTENTION(T, 64, 32, 96, 4, 2)   \
  ATTENTION(T, 64, 32, 128, 4, 2)

HALVES(float16)
HALVES(bfloat16)

// NVIDIA's matrix units would round float32 to tf32, and torch's own attention has no scores in memory there.
#if defined(__HIP__)
ATTENTION(float32, 64, 32, 32, 4, 4)
ATTENTION(float32, 64, 16, 64, 4, 4)
ATTENTION(float32, 128, 16, 64, 8, 4)
ATTENTION(float32, 64, 16, 96, 4, 2)
ATTENTION(float32, 64, 16, 128, 4, 2)
#endif
