// Matrix instructions: 16 rows times 4 vectors of columns of a result, from 16-byte pieces of both operands.
//
//   Mma<T>::DEPTH       bytes of a row that one step multiplies
//   Mma<T>::X, W        what a lane holds of 16 rows of x, of COLUMNS rows of the weight: COUNT chunks, of `row(i)` and
//                       of the `chunk()`-th 16 bytes of the step's depth
//   Mma<T>::Block       16 x COLUMNS sums; a lane has ROWS rows of one vector (VECTOR<T> neighbouring columns) each:
//                       value(i, v) is that of row `row(i)` and of column `column() + v`; set(i, v, value) replaces it
//   Mma<T>::multiply    block += x * w^T over WORDS words of each chunk, from `word` on; to be called for 0, WORDS, ...
//                       up to 4
//   Mma<T>::multiply_part  on gfx9, the same for 16 rows of w, of which a lane gets four sums
//   Mma<T>::column_of(p)  row p of w must hold the weight of this column of the block: the order that gives a lane
//                       neighbouring columns; row_of is its inverse
//   Mma<T>::nought()    a block of zeros, to be kept over a loop: another begun from it costs no instruction
//   Mma<T>::with_row(f, value)  value combined by f with those of the other lanes that have sums of the same row
//
// All sums are float32. Which values of the depth meet in one instruction is the same in both operands, and else free:
// so a lane reads 16 neighbouring bytes, and spends them on several instructions.
#pragma once

#include "element.h"

#if defined(__HIP__)

using Float4 = float __attribute__((ext_vector_type(4)));
using Half4 = _Float16 __attribute__((ext_vector_type(4)));
using Short2 = short __attribute__((ext_vector_type(2)));
using Short4 = short __attribute__((ext_vector_type(4)));
using Int2 = int __attribute__((ext_vector_type(2)));

template <class T>
struct Instruction;

// A lane's part of a 16-byte chunk that one instruction takes, and the instruction: sums[i][j] += w[i] * x[j].
template <>
struct Instruction<float16> {
  static constexpr int WORDS = 2;
  static DEVICE Float4 apply(const int* w, const int* x, Float4 sums) {
    return __builtin_amdgcn_mfma_f32_16x16x16f16(__builtin_bit_cast(Half4, Int2{w[0], w[1]}),
                                                 __builtin_bit_cast(Half4, Int2{x[0], x[1]}), sums, 0, 0, 0);
  }
};

template <>
struct Instruction<bfloat16> {
#if defined(__gfx908__)
  static constexpr int WORDS = 1;
  static DEVICE Float4 apply(const int* w, const int* x, Float4 sums) {
    return __builtin_amdgcn_mfma_f32_16x16x8bf16(__builtin_bit_cast(Short2, w[0]), __builtin_bit_cast(Short2, x[0]),
                                                 sums, 0, 0, 0);
  }
#else
  static constexpr int WORDS = 2;
  static DEVICE Float4 apply(const int* w, const int* x, Float4 sums) {
    return __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(__builtin_bit_cast(Short4, Int2{w[0], w[1]}),
                                                     __builtin_bit_cast(Short4, Int2{x[0], x[1]}), sums, 0, 0, 0);
  }
#endif
};

template <>
struct Instruction<float32> {
  static constexpr int WORDS = 1;
  static DEVICE Float4 apply(const int* w, const int* x, Float4 sums) {
    return __builtin_amdgcn_mfma_f32_16x16x4f32(__builtin_bit_cast(float, w[0]), __builtin_bit_cast(float, x[0]), sums,
                                                0, 0, 0);
  }
};

// The weight is the instruction's first operand, since a lane gets four neighbouring rows of its result.
template <class T>
struct Mma {
  static constexpr int DEPTH = 64;
  static constexpr int COLUMNS = 4 * VECTOR<T>;
  static constexpr int PARTS = VECTOR<T> / 4;  // instructions side by side in a block

  struct X {
    static constexpr int COUNT = 1;
    static DEVICE int row(int) { return lane_of_wave() % 16; }
    static DEVICE int chunk() { return lane_of_wave() / 16; }
    Chunk chunks[COUNT];
  };

  struct W {
    static constexpr int COUNT = PARTS;
    static DEVICE int row(int i) { return i * 16 + lane_of_wave() % 16; }
    static DEVICE int chunk() { return lane_of_wave() / 16; }
    Chunk chunks[COUNT];
  };

  struct Block {
    static constexpr int ROWS = 1;
    static DEVICE int row(int) { return lane_of_wave() % 16; }
    static DEVICE int column() { return lane_of_wave() / 16 * VECTOR<T>; }
    DEVICE float value(int, int v) const { return sums[v / 4][v % 4]; }
    DEVICE void set(int, int v, float value) { sums[v / 4][v % 4] = value; }
    Float4 sums[PARTS] = {};
  };

  static constexpr DEVICE int column_of(int p) { return p % 16 / 4 * VECTOR<T> + p / 16 * 4 + p % 4; }
  static constexpr DEVICE int row_of(int column) {
    return column % VECTOR<T> / 4 * 16 + column / VECTOR<T> * 4 + column % 4;
  }

  static DEVICE Block nought() {
    Float4 zeros = {};
    asm("" : "+a"(zeros));  // else they are written each time
    Block block;
#pragma unroll
    for (int part = 0; part < PARTS; part++) block.sums[part] = zeros;
    return block;
  }

  template <class F>
  static DEVICE float with_row(F combine, float value) {
    value = combine(value, from_lane(value, lane_of_wave() ^ 16));
    return combine(value, from_lane(value, lane_of_wave() ^ 32));
  }

  static constexpr int WORDS = Instruction<T>::WORDS;
  static DEVICE void multiply(Block& block, const X& x, const W& w, int word) {
#pragma unroll
    for (int part = 0; part < PARTS; part++) multiply_part(block.sums[part], x, w.chunks[part], word);
  }
  // The same for 16 columns.
  static DEVICE void multiply_part(Float4& sums, const X& x, Chunk w, int word) {
    const Chunk a = x.chunks[0];
    const int x_words[4] = {a.x, a.y, a.z, a.w}, w_words[4] = {w.x, w.y, w.z, w.w};
    sums = Instruction<T>::apply(w_words + word, x_words + word, sums);
  }
};

#else

// Lane l of a warp works on rows l / 4 and l / 4 + 8 of a block, and on the l % 4th of its vectors.
template <class T>
struct MmaLanes {
  static constexpr int COLUMNS = 4 * VECTOR<T>;

  struct Block {
    static constexpr int ROWS = 2;
    static DEVICE int row(int i) { return lane_of_wave() / 4 + 8 * i; }
    static DEVICE int column() { return lane_of_wave() % 4 * VECTOR<T>; }
    DEVICE float value(int i, int v) const { return sums[v / 2][2 * i + v % 2]; }
    DEVICE void set(int i, int v, float value) { sums[v / 2][2 * i + v % 2] = value; }
    float sums[VECTOR<T> / 2][4] = {};  // two columns of both rows, as mma.sync's fragment has them
  };

  static DEVICE Block nought() { return {}; }

  template <class F>
  static DEVICE float with_row(F combine, float value) {
    value = combine(value, from_lane(value, lane_of_wave() ^ 1));
    return combine(value, from_lane(value, lane_of_wave() ^ 2));
  }
};

// Halves: mma.sync m16n8k16, whose rows are x's.
template <class T>
struct Mma : MmaLanes<T> {
  using typename MmaLanes<T>::Block;
  static constexpr int DEPTH = 64;
  static constexpr int WORDS = 2;

  struct X {
    static constexpr int COUNT = 2;
    static DEVICE int row(int i) { return lane_of_wave() / 4 + 8 * i; }
    static DEVICE int chunk() { return lane_of_wave() % 4; }
    Chunk chunks[COUNT];
  };

  struct W {
    static constexpr int COUNT = 4;
    static DEVICE int row(int i) { return i * 8 + lane_of_wave() / 4; }
    static DEVICE int chunk() { return lane_of_wave() % 4; }
    Chunk chunks[COUNT];
  };

  static constexpr DEVICE int column_of(int p) { return p % 8 / 2 * 8 + p / 8 * 2 + p % 2; }
  static constexpr DEVICE int row_of(int column) { return column % 8 / 2 * 8 + column / 8 * 2 + column % 2; }

  static DEVICE void multiply(Block& block, const X& x, const W& w, int word) {
    const bool first = word == 0;
    const Chunk top = x.chunks[0], bottom = x.chunks[1];
    const int a[4] = {first ? top.x : top.z, first ? bottom.x : bottom.z, first ? top.y : top.w,
                      first ? bottom.y : bottom.w};
#pragma unroll
    for (int part = 0; part < 4; part++) {
      const Chunk chunk = w.chunks[part];
      apply(block.sums[part], a, first ? chunk.x : chunk.z, first ? chunk.y : chunk.w);
    }
  }

 private:
  static DEVICE void apply(float (&d)[4], const int (&a)[4], int b0, int b1);
};

template <>
DEVICE void Mma<float16>::apply(float (&d)[4], const int (&a)[4], int b0, int b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
DEVICE void Mma<bfloat16>::apply(float (&d)[4], const int (&a)[4], int b0, int b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// float32: the matrix units would round operands to tf32, so lanes multiply.
template <>
struct Mma<float32> : MmaLanes<float32> {
  static constexpr int DEPTH = 16;
  static constexpr int WORDS = 1;

  struct X {
    static constexpr int COUNT = 2;
    static DEVICE int row(int i) { return lane_of_wave() / 4 + 8 * i; }
    static DEVICE int chunk() { return 0; }
    Chunk chunks[COUNT];
  };

  struct W {
    static constexpr int COUNT = 4;
    static DEVICE int row(int i) { return i * 4 + lane_of_wave() % 4; }
    static DEVICE int chunk() { return 0; }
    Chunk chunks[COUNT];
  };

  static constexpr DEVICE int column_of(int p) { return p % 4 * 4 + p / 4; }

  static DEVICE void multiply(Block& block, const X& x, const W& w, int word) {
#pragma unroll
    for (int i = 0; i < Block::ROWS; i++) {
#pragma unroll
      for (int v = 0; v < 4; v++) {
        float& sum = block.sums[v / 2][2 * i + v % 2];
        sum = __fmaf_rn(word_of(x.chunks[i], word), word_of(w.chunks[v], word), sum);
      }
    }
  }

 private:
  static DEVICE float word_of(Chunk chunk, int word) {
    const int words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
    return __int_as_float(words[word]);
  }
};

#endif
