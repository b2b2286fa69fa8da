// One head's attention: keys and values on their way to LDS, and a wave's 16 queries.
//
//   Head<T, KEYS, D, WAVES>  KEYS tokens a tile, D values a token, WAVES waves
//   Head::Operands           a tile of keys and values in LDS: panels, whose rows have 64 bytes of a product's depth
//   Staging<Head>            what one lane carries of them from memory to LDS; values are transposed on the way
//   Query<Head>              16 queries of a wave, the softmax of their scores so far, and its product with the values
//
// Scores are computed as a block of queries times keys whose layout in registers is that of an operand of the next
// product (mma.h): a lane has VECTOR<T> neighbouring keys of a query, which is what it must hold of that query's chunk.
#pragma once

#include "tile.h"

constexpr int QUERIES = 16;  // of a wave

template <class T_, int KEYS_, int D_, int WAVES_>
struct Head {
  using T = T_;
  static constexpr int KEYS = KEYS_, D = D_, WAVES = WAVES_;
  static constexpr int LANES = WAVES * WAVE_LANES;
  static constexpr int CHUNKS = 4;  // of a row in LDS
  static constexpr int STEP = Mma<T>::COLUMNS;  // keys attended to at once: as many as a panel of values is deep
  static constexpr int KEY_PANELS = D / (4 * VECTOR<T>), VALUE_PANELS = KEYS / (4 * VECTOR<T>);
  static constexpr int VALUE_BLOCKS = D / Mma<T>::COLUMNS;
  static_assert(Mma<T>::DEPTH == 64 && STEP == 4 * VECTOR<T> && D % STEP == 0 && KEYS % STEP == 0);

  struct Operands {
    Chunk keys[KEY_PANELS][KEYS * CHUNKS];
    Chunk values[VALUE_PANELS][D * CHUNKS];  // a row for each of the D
  };
};

template <class Head>
class Staging {
  using T = typename Head::T;
  static constexpr int V = VECTOR<T>, OF_WORD = 4 / sizeof(T);
  static constexpr int ROW_CHUNKS = Head::D / V, ROW_WORDS = Head::D / OF_WORD;
  // A lane carries chunks of keys, and words of V tokens' values.
  static constexpr int KEY_CHUNKS = Head::KEYS * ROW_CHUNKS, VALUE_WORDS = Head::KEYS / V * ROW_WORDS;
  static constexpr int KEYS_EACH = divide_up(KEY_CHUNKS, Head::LANES), WORDS_EACH = divide_up(VALUE_WORDS, Head::LANES);

 public:
  DEVICE explicit Staging(int stride) : stride_(stride * sizeof(T)) {
    const unsigned part = stride_ / 3;
#pragma unroll
    for (int i = 0; i < KEYS_EACH; i++) {
      const int chunk = item(i);
      const unsigned offset = column_of_row<Head>(chunk / ROW_CHUNKS) * stride_ + part + chunk % ROW_CHUNKS * 16;
      keys_at_[i] = chunk < KEY_CHUNKS ? offset : Buffer::NOWHERE;
    }
#pragma unroll
    for (int i = 0; i < WORDS_EACH; i++) {
      const int word = item(i);
      const unsigned offset = word / ROW_WORDS * V * stride_ + 2 * part + word % ROW_WORDS * 4;
      values_at_[i] = word < VALUE_WORDS ? offset : Buffer::NOWHERE;
    }
  }

  // Reads a tile of which `rest` tokens exist, the first at `qkv`; zeros in place of others.
  DEVICE void load(const T* qkv, int rest) {
    // The last token's values are the last that are read, and a row past it begins beyond them.
    const Buffer memory(qkv, (rest - 1) * stride_ + stride_ / 3 * 2 + Head::D * sizeof(T));
    const unsigned stride = anew(stride_);
#pragma unroll
    for (int i = 0; i < KEYS_EACH; i++) keys_[i] = memory.load(keys_at_[i]);
#pragma unroll
    for (int i = 0; i < WORDS_EACH; i++) {
#pragma unroll
      for (int j = 0; j < V; j++) values_[i][j] = memory.load_word(values_at_[i] + j * stride);
    }
  }

  DEVICE void put(typename Head::Operands& to) const {
#pragma unroll
    for (int i = 0; i < KEYS_EACH; i++) {
      const int chunk = item(i), row = chunk / ROW_CHUNKS, of_row = chunk % ROW_CHUNKS;
      if (chunk < KEY_CHUNKS) to.keys[of_row / 4][place<Head>(row, of_row % 4)] = keys_[i];
    }
#pragma unroll
    for (int i = 0; i < WORDS_EACH; i++) {
      const int word = item(i), chunk = word / ROW_WORDS;
      const int column = word % ROW_WORDS * OF_WORD;
      if (word < VALUE_WORDS) {
#pragma unroll
        for (int d = 0; d < OF_WORD; d++) {
          to.values[chunk / 4][place<Head>(row_of_column<T>(column + d), chunk % 4)] = transposed(values_[i], d);
        }
      }
    }
  }

  // After a pass over all tokens: whether `value` is true in any lane of the workgroup.
  static DEVICE bool any_of_waves(typename Head::Operands (&operands)[2], int tokens, bool value) {
    // The tile before the last: no wave reads it any more.
    int* const votes = reinterpret_cast<int*>(&operands[divide_up(tokens, Head::KEYS) % 2]);
    votes[wave_of_workgroup()] = any_of_wave(value);
    barrier();
    int found = 0;
#pragma unroll
    for (int wave = 0; wave < Head::WAVES; wave++) found |= votes[wave];
    return uniform(found);
  }

  DEVICE unsigned stride() const { return stride_ / sizeof(T); }

 private:
  // Which of a tile's the lane carries.
  static DEVICE int item(int i) { return i * Head::LANES + lane_of_workgroup(); }

  // The `d`-th value of each word.
  static DEVICE Chunk transposed(const int (&words)[V], int d) {
    if constexpr (OF_WORD == 1) {
      return Chunk{words[0], words[1], words[2], words[3]};
    } else {
      int pairs[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        pairs[i] = static_cast<int>(d ? upper_halves(words[2 * i], words[2 * i + 1])
                                      : lower_halves(words[2 * i], words[2 * i + 1]));
      }
      return Chunk{pairs[0], pairs[1], pairs[2], pairs[3]};
    }
  }

  unsigned stride_;  // of tokens, in bytes
  unsigned keys_at_[KEYS_EACH], values_at_[WORDS_EACH];
  Chunk keys_[KEYS_EACH];
  int values_[WORDS_EACH][V];
};

// Goes over all tokens: calls `attend(tile, key, left, is_first)` for each STEP of keys, the first of which is `key` of
// the tile, while the next tile is on its way; `left` tokens are left from there on; `is_first`: of all tiles.
template <class Head, class Attend>
DEVICE void pass(Staging<Head>& staging, typename Head::Operands (&operands)[2], const typename Head::T* qkv,
                 int tokens, Attend attend) {
  staging.load(qkv, tokens);
  staging.put(operands[0]);
  barrier();
  for (unsigned number = 0;; number++) {
    const int after = tokens - Head::KEYS;
    if (after > 0) {
      qkv += Head::KEYS * staging.stride();
      staging.load(qkv, after);
    }
#pragma unroll
    for (int key = 0; key < Head::KEYS; key += Head::STEP) {
      if (key > 0 && key >= tokens) return;
      attend(operands[number % 2], key, tokens - key, number == 0);
    }
    if (after <= 0) return;
    tokens = after;
    staging.put(operands[(number + 1) % 2]);
    barrier();
  }
}

// A chunk of weights, in the order of their keys, which are added to `total`.
template <class T>
DEVICE Chunk pack_and_add(const float (&weights)[VECTOR<T>], float& total) {
#pragma unroll
  for (int v = 0; v < VECTOR<T>; v++) total += weights[v];
  if constexpr (sizeof(T) == 4) {
    return chunk_of(weights);
  } else {
    int words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) words[i] = pair_of_numbers<T>(weights[2 * i], weights[2 * i + 1]);
    return Chunk{words[0], words[1], words[2], words[3]};
  }
}

#if defined(__HIP__)
// Rounded towards zero, two values an instruction; since the rounded ones are added, the quotient is not biased.
template <>
DEVICE Chunk pack_and_add<float16>(const float (&weights)[8], float& total) {
  using Half2 = _Float16 __attribute__((ext_vector_type(2)));
  int ones, words[4];
  asm("s_mov_b32 %0, 0x3c003c00" : "=s"(ones));  // the compiler would take the constant that is 1 in one half only
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const auto pair = __builtin_amdgcn_cvt_pkrtz(weights[2 * i], weights[2 * i + 1]);
    total = __builtin_amdgcn_fdot2(__builtin_bit_cast(Half2, pair), __builtin_bit_cast(Half2, ones), total, false);
    words[i] = __builtin_bit_cast(int, pair);
  }
  return Chunk{words[0], words[1], words[2], words[3]};
}
#endif

// Whether weights must stay near 1 to be finite and precise.
template <class T>
constexpr bool NARROW_EXPONENT = false;
template <>
constexpr bool NARROW_EXPONENT<float16> = true;

template <class Head>
class Queries {
  using T = typename Head::T;
  using Matrix = Mma<T>;
  using X = typename Matrix::X;
  using W = typename Matrix::W;
  using Block = typename Matrix::Block;
  static constexpr int ROWS = Block::ROWS, V = VECTOR<T>;
  static constexpr float INFINITE = __builtin_huge_valf();
  static constexpr int D = Head::D;
  static constexpr float ROOT = D == 32 ? 5.656854249f : D == 64 ? 8 : D == 96 ? 9.797958971f : 11.3137085f;
  // A weight is 2^(SCALE * score - shift). The shift is that of the largest score among the first keys, whose weight is
  // 2^-REST. Others may have up to 2^MOST, with which no products overflow that would not otherwise.
  static constexpr float SCALE = 1.442695041f / ROOT;
  static constexpr float REST = NARROW_EXPONENT<T> ? 4 : 20, MOST = NARROW_EXPONENT<T> ? 15 : 0, EXACT = 1 << 18;

 public:
  DEVICE Queries(const T* qkv, int stride, int first, int tokens) {
    const Buffer memory(qkv);
#pragma unroll
    for (int panel = 0; panel < Head::KEY_PANELS; panel++) {
#pragma unroll
      for (int i = 0; i < X::COUNT; i++) {
        const int row = first + X::row(i);
        const unsigned offset = row * static_cast<unsigned>(stride * sizeof(T)) + panel * 64 + X::chunk() * 16;
        queries_[panel].chunks[i] = memory.load(row < tokens ? offset : Buffer::NOWHERE);
      }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) largest_[i] = -INFINITE;
  }

  // Attends to STEP keys of a tile from `key` on, of which `left` are of the image.
  DEVICE void attend(const typename Head::Operands& tile, int key, int left, bool is_first) {
    Block scores = nought_;
#pragma unroll
    for (int panel = 0; panel < Head::KEY_PANELS; panel++) {
      const W keys = take<Head, W>(tile.keys[panel] + key * Head::CHUNKS, 0);
#pragma unroll
      for (int word = 0; word < 4; word += Matrix::WORDS) Matrix::multiply(scores, queries_[panel], keys, word);
    }
    const Chunk* values = tile.values[key / Head::STEP];
    W columns[Head::VALUE_BLOCKS];
#pragma unroll
    for (int b = 0; b < Head::VALUE_BLOCKS; b++) columns[b] = take<Head, W>(values + b * Head::STEP * Head::CHUNKS, 0);
    loads_begin();
    if (left < Head::STEP) mask(scores, left);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#pragma unroll
      for (int v = 0; v < V; v += 2) largest_[i] = maximum(largest_[i], scores.value(i, v), scores.value(i, v + 1));
    }
    if (key == 0 && is_first && !again_) refer_to_largest();
    if (again_) subtract_largest(scores);
    const X weights = weigh(scores);
#pragma unroll
    for (int word = 0; word < 4; word += Matrix::WORDS) {
#pragma unroll
      for (int b = 0; b < Head::VALUE_BLOCKS; b++) Matrix::multiply(sums_[b], weights, columns[b], word);
    }
  }

  // After all keys: whether some weight was too large, or scores so large that the shift's rounding shows.
  DEVICE bool outgrown() const {
    bool found = false;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      found = found || multiply_add(largest_[i], SCALE, -shift_[i]) > MOST || maximum(shift_[i], -shift_[i]) > EXACT;
    }
    return found;
  }

  // To be called before the keys come; `again`: a second time, now that the largest scores are known.
  DEVICE void begin(bool again) {
    again_ = again;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      totals_[i] = 0;
      if (again) {
        largest_[i] = largest_of_row(i);
        shift_[i] = REST;
      }
    }
#pragma unroll
    for (int b = 0; b < Head::VALUE_BLOCKS; b++) sums_[b] = Block{};
  }

  // Writes the results; rows of `y` lie `stride` values apart.
  DEVICE void store(T* y, int stride, int first, int tokens) const {
    const Buffer memory(y);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const float scale = reciprocal(Matrix::with_row([](float a, float b) { return a + b; }, totals_[i]));
      const int row = first + Block::row(i);
      const unsigned offset = row * static_cast<unsigned>(stride * sizeof(T)) + Block::column() * sizeof(T);
#pragma unroll
      for (int b = 0; b < Head::VALUE_BLOCKS; b++) {
        float values[V];
#pragma unroll
        for (int v = 0; v < V; v++) values[v] = sums_[b].value(i, v) * scale;
        memory.store(pack<T>(values), row < tokens ? offset + b * Matrix::COLUMNS * sizeof(T) : Buffer::NOWHERE);
      }
    }
  }

 private:
  static DEVICE void mask(Block& scores, int left) {
    const int valid = left - Block::column();
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#pragma unroll
      for (int v = 0; v < V; v++) scores.set(i, v, v < valid ? scores.value(i, v) : -INFINITE);
    }
  }

  DEVICE float largest_of_row(int i) const {
    return Matrix::with_row([](float a, float b) { return maximum(a, b); }, largest_[i]);
  }

  DEVICE void subtract_largest(Block& scores) const {
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#pragma unroll
      for (int v = 0; v < V; v++) scores.set(i, v, scores.value(i, v) - largest_[i]);
    }
  }

  DEVICE void refer_to_largest() {
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const float top = largest_of_row(i);
      // Where all scores are -infinity, so far, weights are 0.
      shift_[i] = top > -INFINITE ? multiply_add(top, SCALE, REST) : REST;
    }
  }

  DEVICE X weigh(const Block& scores) {
    X weights;
    const float scale = uniform_constant(SCALE);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      float values[V];
#pragma unroll
      for (int v = 0; v < V; v++) values[v] = exp2_fast(multiply_add(scores.value(i, v), scale, -shift_[i]));
      weights.chunks[i] = pack_and_add<T>(values, totals_[i]);
    }
    return weights;
  }

  X queries_[Head::KEY_PANELS];
  Block nought_ = Matrix::nought();
  Block sums_[Head::VALUE_BLOCKS] = {};
  bool again_;
  // Of each row: the largest score and the sum of weights among this lane's keys; the shift of its weights.
  float largest_[ROWS], totals_[ROWS], shift_[ROWS];
};
