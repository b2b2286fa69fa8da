// Packed, mixed-precision and dot-product operations: their table (packed.def) made into loops over lanes.

#include "lanes.h"
#include "operations.h"

namespace updp::emulator {
namespace {

template <class T> struct Half;
template <> struct Half<f16> {
  using value = f32;
  static constexpr Type type = Type::f16x2;
};
template <> struct Half<u16> {
  using value = u16;
  static constexpr Type type = Type::u16x2;
};
template <> struct Half<i16> {
  using value = i16;
  static constexpr Type type = Type::i16x2;
};

#define PACKED3(number, name, T, expression)                                                                \
  struct name {                                                                                             \
    using V = Half<T>::value;                                                                               \
    static auto apply([[maybe_unused]] V a, [[maybe_unused]] V b, [[maybe_unused]] V c) { return expression; } \
  };
#define PACKED2 PACKED3
#define DOT(number, name, D, A, C, expression)                                  \
  struct name {                                                                 \
    static D apply(u32 a, u32 b, C c, int, u64) { return expression; }          \
  };
#define MIX(number, name, D, expression)                                        \
  struct name {                                                                 \
    static f32 apply(f32 a, f32 b, f32 c, int, u64) { return expression; }      \
  };
#include "packed.def"
#undef PACKED2
#undef PACKED3
#undef DOT
#undef MIX

struct v_pk_fmac_f16 {
  static f64 apply(f32 a, f32 b, f32 c) { return f64{a} * b + c; }
};

// Both halves of integers, wrapped or saturated.
template <class Meaning, class T, bool saturated> void for_integer_halves(Lanes& x, int sources) {
  const u32 *a = x.sources[0], *b = x.sources[1], *c = sources > 2 ? x.sources[2] : b;
#pragma GCC ivdep
  for (int l = 0; l < kLanes; l++) {
    const auto low = Meaning::apply(static_cast<T>(a[l]), static_cast<T>(b[l]), static_cast<T>(c[l]));
    const auto high =
        Meaning::apply(static_cast<T>(a[l] >> 16), static_cast<T>(b[l] >> 16), static_cast<T>(c[l] >> 16));
    u32 pair;
    if constexpr (saturated) pair = u16(saturate<T>(low)) | u32{u16(saturate<T>(high))} << 16;
    else pair = static_cast<u16>(low) | u32{static_cast<u16>(high)} << 16;
    x.result[l] = x.active[l] ? pair : x.result[l];
  }
}

// Both halves of floats, eight lanes at a time.
template <class Meaning, int sources> void for_float_halves(Lanes& x) {
  alignas(32) f32 values[sources][8], results[8];
  for (int l = 0; l < kLanes; l += 8) {
    Row halves[2];
    for (int half = 0; half < 2; half++) {
      for (int k = 0; k < sources; k++) {
        const Row pair = load_row(x.sources[k] + l);
        _mm256_store_ps(values[k], half ? high_halves(pair) : low_halves(pair));
      }
      for (int j = 0; j < 8; j++) {
        results[j] = rounded_to_odd(Meaning::apply(values[0][j], values[1][j], values[sources - 1][j]));
      }
      halves[half] = to_low_halves(_mm256_load_ps(results));
    }
    const Row pair = _mm256_or_si256(halves[0], _mm256_slli_epi32(halves[1], 16));
    store_row(x.result + l, _mm256_blendv_epi8(load_row(x.result + l), pair, load_row(x.active + l)));
  }
}

template <class Meaning, class T, int sources> void for_halves(Lanes& x) {
  if constexpr (std::is_same_v<T, f16>) for_float_halves<Meaning, sources>(x);
  else for_integer_halves<Meaning, T, false>(x, sources);
}
template <class Meaning, class T, int sources> void for_halves_saturated(Lanes& x) {
  if constexpr (!std::is_same_v<T, f16>) for_integer_halves<Meaning, T, true>(x, sources);
}

// Dot products saturate their exact sum, which their meaning does not give: clamp is refused.
constexpr Operation row(const char* name, u16 number, Type result, std::array<Type, 3> sources, void (*lanes)(Lanes&),
                        void (*saturated)(Lanes&) = nullptr) {
  Operation operation{name, Encoding::vop3p, number, Kind::vector, result, sources,
                      sources[2] == Type::none ? execute_plain<2> : execute_plain<3>, lanes};
  operation.saturated = saturated;
  return operation;
}
constexpr Operation mix_row(const char* name, u16 number, Type result, void (*lanes)(Lanes&), bool to_high_half) {
  Operation operation = row(name, number, result, {Type::mix, Type::mix, Type::mix}, lanes);
  operation.to_high_half = to_high_half;
  operation.keeps_other_half = result == Type::f16;
  return operation;
}
constexpr Operation fmac_row() {
  Operation operation{"v_pk_fmac_f16", Encoding::vop2, 0x3c, Kind::vector, Type::f16x2,
                      {Type::f16x2, Type::f16x2, Type::f16x2}, execute_plain<3>, for_float_halves<v_pk_fmac_f16, 3>};
  operation.accumulates = operation.only_32_bits = true;
  return operation;
}

#define PACKED2(number, name, T, expression)                                                       \
  row(#name, number, Half<T>::type, {Half<T>::type, Half<T>::type, Type::none}, for_halves<struct name, T, 2>, \
      for_halves_saturated<struct name, T, 2>),
#define PACKED3(number, name, T, expression)                                                       \
  row(#name, number, Half<T>::type, {Half<T>::type, Half<T>::type, Half<T>::type}, for_halves<struct name, T, 3>, \
      for_halves_saturated<struct name, T, 3>),
#define MIX(number, name, D, expression) \
  mix_row(#name, number, type_of<D>, for_lanes<struct name, D, mix, mix, mix, true>, number == 0x22),
#define DOT(number, name, D, A, C, expression) \
  row(#name, number, type_of<D>, {type_of<A>, type_of<A>, type_of<C>}, for_lanes<struct name, D, A, A, C, false>),

const Operation kRows[] = {
#include "packed.def"
  fmac_row(),
};

}  // namespace

Rows packed_rows() { return {std::begin(kRows), std::end(kRows)}; }

}  // namespace updp::emulator
