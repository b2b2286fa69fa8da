// What a vector operation does to the 64 lanes of a wave: its meaning (vector.def, ...) inside one loop that the
// compiler vectorises. Modifiers are dealt with around it (vector.cpp).
#pragma once

#include "numeric.h"

#if !defined(__AVX2__) || !defined(__F16C__) || !defined(__FMA__)
#error "the emulator is written for x86-64 with AVX2, F16C and FMA: compile it with -march=x86-64-v3"
#endif

namespace updp::emulator {

// Registers are arrays of 64 lanes; the second of a 64-bit value follows the first.
struct Lanes {
  u32* result;
  const u32* sources[3];
  const u32* active;     // ~0 in active lanes, else 0
  u64 vcc;
  u64 flags = 0;         // out: the mask of lanes that the operation writes beside its result
};

using Row = __m256i;  // eight lanes

inline Row load_row(const u32* lanes) { return _mm256_loadu_si256(reinterpret_cast<const Row*>(lanes)); }
inline void store_row(u32* lanes, Row row) { _mm256_storeu_si256(reinterpret_cast<Row*>(lanes), row); }

// The low halves of eight lanes as floats.
inline __m256 low_halves(Row row) {
  const Row low = _mm256_and_si256(row, _mm256_set1_epi32(0xffff));
  return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
inline __m256 high_halves(Row row) { return low_halves(_mm256_srli_epi32(row, 16)); }
inline Row to_low_halves(__m256 values) {
  return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}

// A mask of lanes as ~0 or 0 a lane, and back.
inline void expand(u64 mask, u32* lanes) {
  const Row bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (int l = 0; l < kLanes; l += 8) {
    const Row byte = _mm256_and_si256(_mm256_set1_epi32(int(mask >> l & 255)), bit);
    store_row(lanes + l, _mm256_cmpeq_epi32(byte, bit));
  }
}
inline u64 collect(const u32* lanes) {
  u64 mask = 0;
  for (int l = 0; l < kLanes; l += 8) {
    mask |= u64{u32(_mm256_movemask_ps(_mm256_castsi256_ps(load_row(lanes + l))))} << l;
  }
  return mask;
}

// Reads a lane's value of type T.
template <class T> struct Source {
  const u32* lanes;
  T operator[](int l) const {
    if constexpr (sizeof(T) == 4) return bits<T>(lanes[l]);
    else if constexpr (sizeof(T) == 8) return bits<T>(join(lanes[l], lanes[l + kLanes]));
    else return static_cast<T>(lanes[l]);
  }
};
template <> struct Source<lanes> {
  const u32* lanes;
  bool operator[](int l) const { return lanes[l] != 0; }
};
template <> struct Source<f16> {
  alignas(32) f32 values[kLanes];
  explicit Source(const u32* lanes) {
    for (int l = 0; l < kLanes; l += 8) _mm256_store_ps(values + l, low_halves(load_row(lanes + l)));
  }
  f32 operator[](int l) const { return values[l]; }
};
template <> struct Source<mix> : Source<f32> {};
template <> struct Source<f16x2> : Source<u32> {};
template <> struct Source<u16x2> : Source<u32> {};
template <> struct Source<i16x2> : Source<u32> {};

// Writes a lane's result of type T where the lane is active.
template <class T, bool keeping> struct Sink {
  u32* result;
  const u32* active;
  Sink(u32* result, const u32* active) : result(result), active(active) {}
  template <class Value> void put(int l, Value value) {
    if constexpr (sizeof(T) == 8) {
      const u64 pattern = bits<u64>(static_cast<T>(value));
      result[l] = active[l] ? u32(pattern) : result[l];
      result[l + kLanes] = active[l] ? u32(pattern >> 32) : result[l + kLanes];
    } else if constexpr (sizeof(T) == 4) {
      result[l] = active[l] ? bits<u32>(static_cast<T>(value)) : result[l];
    } else {
      const u32 low = static_cast<u16>(value), high = keeping ? result[l] & 0xffff0000 : 0;
      result[l] = active[l] ? high | low : result[l];
    }
  }
  void finish() {}
};
template <bool keeping> struct Sink<f16, keeping> {
  u32* result;
  const u32* active;
  alignas(32) f32 values[kLanes];
  Sink(u32* result, const u32* active) : result(result), active(active) {}
  template <class Value> void put(int l, Value value) { values[l] = rounded_to_odd(value); }
  void finish() {
    const Row upper = _mm256_set1_epi32(i32(0xffff0000));
    for (int l = 0; l < kLanes; l += 8) {
      const Row old = load_row(result + l);
      Row half = to_low_halves(_mm256_load_ps(values + l));
      if (keeping) half = _mm256_or_si256(half, _mm256_and_si256(old, upper));
      store_row(result + l, _mm256_blendv_epi8(old, half, load_row(active + l)));
    }
  }
};

// Meaning::apply(a, b, c, lane, vcc) for every lane. Sources of type void are absent.
template <> struct Source<void> {
  explicit Source(const u32*) {}
  int operator[](int) const { return 0; }
};

template <class Meaning, class D, class A, class B, class C, bool keeping>
void for_lanes(Lanes& x) {
  const Source<A> a{x.sources[0]};
  const Source<B> b{x.sources[1]};
  const Source<C> c{x.sources[2]};
  Sink<D, keeping> sink{x.result, x.active};
#pragma GCC ivdep
  for (int l = 0; l < kLanes; l++) sink.put(l, Meaning::apply(a[l], b[l], c[l], l, x.vcc));
  sink.finish();
}

template <class Meaning, class D, class A, class B, class C>
void for_lanes_saturated(Lanes& x) {
  const Source<A> a{x.sources[0]};
  const Source<B> b{x.sources[1]};
  const Source<C> c{x.sources[2]};
  Sink<D, false> sink{x.result, x.active};
  for (int l = 0; l < kLanes; l++) sink.put(l, saturate<D>(Meaning::apply(a[l], b[l], c[l], l, x.vcc)));
}

template <class Meaning, class D, class A, class B, class C>
void for_lanes_flagged(Lanes& x) {
  const Source<A> a{x.sources[0]};
  const Source<B> b{x.sources[1]};
  const Source<C> c{x.sources[2]};
  Sink<D, false> sink{x.result, x.active};
  const u32* const active = x.active;
  alignas(32) u32 flags[kLanes];
#pragma GCC ivdep
  for (int l = 0; l < kLanes; l++) {
    const auto outcome = Meaning::apply(a[l], b[l], c[l], l, x.vcc);
    sink.put(l, outcome.value);
    flags[l] = (outcome.flag ? ~0u : 0) & active[l];
  }
  x.flags = collect(flags);
}

template <class Meaning, class A, class B>
void compare_lanes(Lanes& x) {
  const Source<A> a{x.sources[0]};
  const Source<B> b{x.sources[1]};
  const u32* const active = x.active;
  alignas(32) u32 flags[kLanes];
#pragma GCC ivdep
  for (int l = 0; l < kLanes; l++) flags[l] = (Meaning::apply(a[l], b[l]) ? ~0u : 0) & active[l];
  x.flags = collect(flags);
}

}  // namespace updp::emulator
