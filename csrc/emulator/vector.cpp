// Vector operations: their table (vector.def) made into loops over lanes.

#include "lanes.h"
#include "operations.h"

namespace updp::emulator {
namespace {

// Each row becomes a struct with its meaning, under the operation's name.
#define MEANING(name, A, B, C, expression)                                                                        \
  struct name {                                                                                                   \
    static auto apply([[maybe_unused]] A a, [[maybe_unused]] B b, [[maybe_unused]] C c, [[maybe_unused]] int lane, \
                      [[maybe_unused]] u64 vcc) {                                                                 \
      return expression;                                                                                          \
    }                                                                                                             \
  };

// What a lane's value is calculated with.
template <class T> struct Calculated { using type = T; };
template <> struct Calculated<f16> { using type = f32; };
template <> struct Calculated<lanes> { using type = bool; };
template <class T> using calculated = typename Calculated<T>::type;

#define VECTOR1(encoding, number, name, D, A, expression) MEANING(name, calculated<A>, int, int, expression)
#define VECTOR1_QUARTER VECTOR1
#define VECTOR2(encoding, number, name, D, A, B, expression) \
  MEANING(name, calculated<A>, calculated<B>, int, expression)
#define VECTOR2_QUARTER VECTOR2
#define VECTOR2_SATURATING VECTOR2
#define VECTOR2_FLAG VECTOR2
#define VECTOR3(encoding, number, name, D, A, B, C, expression) \
  MEANING(name, calculated<A>, calculated<B>, calculated<C>, expression)
#define VECTOR3_KEEPING VECTOR3
#define VECTOR3_CONSTANT VECTOR3
#define VECTOR3_FLAG VECTOR3
#define VECTOR3_FLAG_QUARTER VECTOR3
#define ACCUMULATE(encoding, number, name, D, A, B, expression) VECTOR3(encoding, number, name, D, A, B, D, expression)
#define ACCUMULATE_32 ACCUMULATE

#include "vector.def"

#undef VECTOR1
#undef VECTOR1_QUARTER
#undef VECTOR2
#undef VECTOR2_QUARTER
#undef VECTOR2_SATURATING
#undef VECTOR2_FLAG
#undef VECTOR3
#undef VECTOR3_KEEPING
#undef VECTOR3_CONSTANT
#undef VECTOR3_FLAG
#undef VECTOR3_FLAG_QUARTER
#undef ACCUMULATE
#undef ACCUMULATE_32

constexpr Operation row(const char* name, Encoding encoding, u16 number, Type result, std::array<Type, 3> sources,
                        void (*lanes)(Lanes&)) {
  const bool two = sources[1] != Type::none, three = sources[2] != Type::none;
  Operation operation{name, encoding, number, Kind::vector, result, sources,
                      three ? execute_plain<3> : two ? execute_plain<2> : execute_plain<1>, lanes};
  const bool wide = is_64_bits(result) || is_64_bits(sources[0]) || is_64_bits(sources[1]);
  operation.cycles = wide ? 8 : 4;
  return operation;
}
constexpr Operation quarter_rate(Operation operation) {
  operation.cycles *= 4;
  return operation;
}
constexpr Operation saturating(Operation operation, void (*saturated)(Lanes&)) {
  operation.saturated = saturated;
  return operation;
}
constexpr Operation keeping(Operation operation) {
  operation.keeps_other_half = true;
  return operation;
}
constexpr Operation with_flag(Operation operation) {
  operation.mask_result = true;
  return operation;
}
constexpr Operation with_constant(Operation operation) {
  operation.encoded_constant = operation.only_32_bits = true;
  return operation;
}
constexpr Operation accumulating(Operation operation, bool only_32_bits) {
  operation.accumulates = true;
  operation.only_32_bits = only_32_bits;
  return operation;
}

#define ROW1(encoding, number, name, D, A, loop)                                     \
  row(#name, Encoding::encoding, number, type_of<D>, {type_of<A>, Type::none, Type::none}, loop)
#define ROW2(encoding, number, name, D, A, B, loop)                                  \
  row(#name, Encoding::encoding, number, type_of<D>, {type_of<A>, type_of<B>, Type::none}, loop)
#define ROW3(encoding, number, name, D, A, B, C, loop)                               \
  row(#name, Encoding::encoding, number, type_of<D>, {type_of<A>, type_of<B>, type_of<C>}, loop)
#define VECTOR1(encoding, number, name, D, A, expression)                            \
  ROW1(encoding, number, name, D, A, (for_lanes<struct name, D, A, void, void, false>)),
#define VECTOR1_QUARTER(encoding, number, name, D, A, expression)                    \
  quarter_rate(ROW1(encoding, number, name, D, A, (for_lanes<struct name, D, A, void, void, false>))),
#define VECTOR2(encoding, number, name, D, A, B, expression)                         \
  ROW2(encoding, number, name, D, A, B, (for_lanes<struct name, D, A, B, void, false>)),
#define VECTOR2_QUARTER(encoding, number, name, D, A, B, expression)                 \
  quarter_rate(ROW2(encoding, number, name, D, A, B, (for_lanes<struct name, D, A, B, void, false>))),
#define VECTOR2_SATURATING(encoding, number, name, D, A, B, expression)              \
  saturating(ROW2(encoding, number, name, D, A, B, (for_lanes<struct name, D, A, B, void, false>)), \
             for_lanes_saturated<struct name, D, A, B, void>),
#define VECTOR2_FLAG(encoding, number, name, D, A, B, expression)                    \
  with_flag(ROW2(encoding, number, name, D, A, B, (for_lanes_flagged<struct name, D, A, B, void>))),
#define VECTOR3(encoding, number, name, D, A, B, C, expression)                      \
  ROW3(encoding, number, name, D, A, B, C, (for_lanes<struct name, D, A, B, C, false>)),
#define VECTOR3_KEEPING(encoding, number, name, D, A, B, C, expression)              \
  keeping(ROW3(encoding, number, name, D, A, B, C, (for_lanes<struct name, D, A, B, C, true>))),
#define VECTOR3_CONSTANT(encoding, number, name, D, A, B, C, expression)             \
  with_constant(ROW3(encoding, number, name, D, A, B, C, (for_lanes<struct name, D, A, B, C, false>))),
#define VECTOR3_FLAG(encoding, number, name, D, A, B, C, expression)                 \
  with_flag(ROW3(encoding, number, name, D, A, B, C, (for_lanes_flagged<struct name, D, A, B, C>))),
#define VECTOR3_FLAG_QUARTER(encoding, number, name, D, A, B, C, expression)         \
  with_flag(quarter_rate(ROW3(encoding, number, name, D, A, B, C, (for_lanes_flagged<struct name, D, A, B, C>)))),
#define ACCUMULATE(encoding, number, name, D, A, B, expression)                      \
  accumulating(ROW3(encoding, number, name, D, A, B, D, (for_lanes<struct name, D, A, B, D, false>)), false),
#define ACCUMULATE_32(encoding, number, name, D, A, B, expression)                   \
  accumulating(ROW3(encoding, number, name, D, A, B, D, (for_lanes<struct name, D, A, B, D, false>)), true),

const Operation kRows[] = {
#include "vector.def"
};

}  // namespace

Rows vector_rows() { return {std::begin(kRows), std::end(kRows)}; }

}  // namespace updp::emulator
