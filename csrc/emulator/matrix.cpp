// Matrix operations (MFMA): D = A * B + C over the 64 lanes of a wave. Their table is matrix.def.
//
// Lane l holds row l % M of A and column l % M of B; l / M says which block, or which k where there is one block. The
// elements of a lane are consecutive k. Of the result, a register of M consecutive lanes is a row. k is summed in order
// with one rounding a step; hardware may differ in the last bits.

#include "operations.h"
#include "wave.h"

namespace updp::emulator {
namespace {

struct bf16 {};

// Element e of every lane, as what it is multiplied as.
template <class T> struct Element;
template <> struct Element<f32> {
  using Product = f32;
  static void load(const u32* registers, int, f32* values) { std::memcpy(values, registers, sizeof(f32) * kLanes); }
};
template <> struct Element<f16> {
  using Product = f32;
  static void load(const u32* registers, int e, f32* values) {
    const u32* lanes = registers + kLanes * (e / 2);
    for (int l = 0; l < kLanes; l += 8) {
      const Row pair = load_row(lanes + l);
      _mm256_storeu_ps(values + l, e % 2 ? high_halves(pair) : low_halves(pair));
    }
  }
};
template <> struct Element<bf16> {
  using Product = f32;
  static void load(const u32* registers, int e, f32* values) {
    for (int l = 0; l < kLanes; l++) values[l] = bits<f32>(e % 2 ? registers[l] & 0xffff0000 : registers[l] << 16);
  }
};
template <> struct Element<i8> {
  using Product = i32;
  static void load(const u32* registers, int e, i32* values) {
    for (int l = 0; l < kLanes; l++) values[l] = static_cast<i8>(registers[l] >> 8 * e);
  }
};

// Up to eight columns of a row.
template <class P, int width> using Columns [[gnu::vector_size(sizeof(P) * width)]] = P;

inline Columns<f32, 8> multiply_add(Columns<f32, 8> a, Columns<f32, 8> b, Columns<f32, 8> c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline Columns<f32, 4> multiply_add(Columns<f32, 4> a, Columns<f32, 4> b, Columns<f32, 4> c) {
  return _mm_fmadd_ps(a, b, c);
}
template <class V> V multiply_add(V a, V b, V c) { return a * b + c; }

// The register that holds row i of a block, and the lane it begins at.
template <int M> int row_register(int block, int i) {
  return M == 32 ? 16 * block + 4 * (i / 8) + i % 4 : M == 16 ? 4 * block + i % 4 : i;
}
template <int M> int row_lane(int block, int i) {
  return M == 32 ? 32 * (i / 4 % 2) : M == 16 ? 16 * (i / 4) : 4 * block;
}

// Rows of one block: two at a time, whose sums stay in registers.
template <int M, int K, class P> void multiply_block(const P (*a)[kLanes], const P (*b)[kLanes],
                                                     const int (&place)[K][2], const P* (&c)[M], P* (&d)[M]) {
  constexpr int kWidth = M < 8 ? M : 8, kColumns = M / kWidth;
  using V = Columns<P, kWidth>;
  for (int i = 0; i < M; i += 2) {
    V first[kColumns], second[kColumns];
    std::memcpy(first, c[i], sizeof first);
    std::memcpy(second, c[i + 1], sizeof second);
    for (int k = 0; k < K; k++) {
      const auto [element, lane] = place[k];
      const V x = V{} + a[element][lane + i], y = V{} + a[element][lane + i + 1];
      for (int j = 0; j < kColumns; j++) {
        V column;
        std::memcpy(&column, b[element] + lane + kWidth * j, sizeof column);
        first[j] = multiply_add(x, column, first[j]);
        second[j] = multiply_add(y, column, second[j]);
      }
    }
    std::memcpy(d[i], first, sizeof first);
    std::memcpy(d[i + 1], second, sizeof second);
  }
}

template <class T, int M, int K, int blocks, int elements> void execute_mfma(Wave& wave, const Instruction& i) {
  using P = typename Element<T>::Product;
  constexpr int kResults = M * M * blocks / kLanes;  // registers
  if (i.cbsz || i.abid || i.blgp) fail(-1, "the broadcasts cbsz, abid and blgp are not implemented");
  const Operand &accumulator = i.sources[2], &result = i.result;
  if (accumulator.kind != Operand::Kind::vector) fail(-1, "the accumulator is a constant, which gfx908 gets wrong");

  alignas(64) P a[elements][kLanes], b[elements][kLanes];
  u32 buffers[2][2 * kLanes];
  const u32* sources[] = {wave.read_lanes(i.sources[0], buffers[0]), wave.read_lanes(i.sources[1], buffers[1])};
  for (int e = 0; e < elements; e++) {
    Element<T>::load(sources[0], e, a[e]);
    Element<T>::load(sources[1], e, b[e]);
  }

  P* d = reinterpret_cast<P*>(wave.vectors[result.index]);
  const P* c = reinterpret_cast<const P*>(wave.vectors[accumulator.index]);
  alignas(64) P copy[kResults > 4 ? 1 : kResults][kLanes];
  const int distance = std::abs(accumulator.index - result.index);
  if (distance != 0 && distance < kResults) {
    // LLVM allocates such code for results of up to 4 registers, which are read before they are written.
    if (kResults > 4) fail(-1, "the accumulator partly overlaps the result");
    std::memcpy(copy, c, sizeof copy);
    c = copy[0];
  }

  for (int block = 0; block < blocks; block++) {
    int place[K][2];  // the element, and the first of the lanes, that hold k
    for (int k = 0; k < K; k++) {
      place[k][0] = k % elements;
      place[k][1] = M * (blocks > 1 ? block : k / elements);
    }
    const P* c_rows[M];
    P* d_rows[M];
    for (int r = 0; r < M; r++) {
      c_rows[r] = c + kLanes * row_register<M>(block, r) + row_lane<M>(block, r);
      d_rows[r] = d + kLanes * row_register<M>(block, r) + row_lane<M>(block, r);
    }
    multiply_block<M, K, P>(a, b, place, c_rows, d_rows);
  }
}

constexpr Type registers_type(int count) {
  return count == 32   ? Type::b1024
         : count == 16 ? Type::b512
         : count == 4  ? Type::b128
         : count == 2  ? Type::u64
                       : Type::u32;
}

constexpr Operation row(const char* name, u16 number, int element_bytes, int m, int k, int blocks, int elements,
                        void (*execute)(Wave&, const Instruction&)) {
  const Type source = registers_type(elements * element_bytes / 4), result = registers_type(m * m * blocks / kLanes);
  Operation operation{name, Encoding::matrix, number, Kind::matrix, result, {source, source, result}, execute};
  operation.cycles = m == 32 ? 64 : m == 16 ? 32 : 8;
  operation.flops = 2 * m * m * k * blocks;
  return operation;
}

constexpr int bytes(f32) { return 4; }
constexpr int bytes(f16) { return 2; }
constexpr int bytes(bf16) { return 2; }
constexpr int bytes(i8) { return 1; }

#define MFMA(number, name, T, M, K, blocks, elements) \
  row(#name, number, bytes(T{}), M, K, blocks, elements, execute_mfma<T, M, K, blocks, elements>),

const Operation kRows[] = {
#include "matrix.def"
};

}  // namespace

Rows matrix_rows() { return {std::begin(kRows), std::end(kRows)}; }

}  // namespace updp::emulator
