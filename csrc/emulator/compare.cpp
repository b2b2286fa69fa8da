// Vector comparisons: their table (compare.def) made into loops over lanes.

#include <memory>
#include <string>

#include "lanes.h"
#include "operations.h"

namespace updp::emulator {
namespace {

#define MEANING(name, A, B, expression)                                                       \
  struct name {                                                                               \
    static bool apply([[maybe_unused]] A a, [[maybe_unused]] B b) { return expression; }      \
  };

template <class T> struct Calculated { using type = T; };
template <> struct Calculated<f16> { using type = f32; };
template <class T> using calculated = typename Calculated<T>::type;

#define FLOAT_COMPARISONS(first, T)                                \
  COMPARE(first + 0x0, 16, v_cmp_f_##T, T, T, false)               \
  COMPARE(first + 0x1, 16, v_cmp_lt_##T, T, T, a < b)              \
  COMPARE(first + 0x2, 16, v_cmp_eq_##T, T, T, a == b)             \
  COMPARE(first + 0x3, 16, v_cmp_le_##T, T, T, a <= b)             \
  COMPARE(first + 0x4, 16, v_cmp_gt_##T, T, T, a > b)              \
  COMPARE(first + 0x5, 16, v_cmp_lg_##T, T, T, (a < b) | (a > b))  \
  COMPARE(first + 0x6, 16, v_cmp_ge_##T, T, T, a >= b)             \
  COMPARE(first + 0x7, 16, v_cmp_o_##T, T, T, (a == a) & (b == b)) \
  COMPARE(first + 0x8, 16, v_cmp_u_##T, T, T, (a != a) | (b != b)) \
  COMPARE(first + 0x9, 16, v_cmp_nge_##T, T, T, !(a >= b))         \
  COMPARE(first + 0xa, 16, v_cmp_nlg_##T, T, T, !((a < b) | (a > b))) \
  COMPARE(first + 0xb, 16, v_cmp_ngt_##T, T, T, !(a > b))          \
  COMPARE(first + 0xc, 16, v_cmp_nle_##T, T, T, !(a <= b))         \
  COMPARE(first + 0xd, 16, v_cmp_neq_##T, T, T, !(a == b))         \
  COMPARE(first + 0xe, 16, v_cmp_nlt_##T, T, T, !(a < b))          \
  COMPARE(first + 0xf, 16, v_cmp_tru_##T, T, T, true)

#define INTEGER_COMPARISONS(first, T)                              \
  COMPARE(first + 0, 16, v_cmp_f_##T, T, T, false)                 \
  COMPARE(first + 1, 16, v_cmp_lt_##T, T, T, a < b)                \
  COMPARE(first + 2, 16, v_cmp_eq_##T, T, T, a == b)               \
  COMPARE(first + 3, 16, v_cmp_le_##T, T, T, a <= b)               \
  COMPARE(first + 4, 16, v_cmp_gt_##T, T, T, a > b)                \
  COMPARE(first + 5, 16, v_cmp_ne_##T, T, T, a != b)               \
  COMPARE(first + 6, 16, v_cmp_ge_##T, T, T, a >= b)               \
  COMPARE(first + 7, 16, v_cmp_t_##T, T, T, true)

#define COMPARE(number, further, name, A, B, expression) MEANING(name, calculated<A>, calculated<B>, expression)
#include "compare.def"
#undef COMPARE

Operation row(std::string name, int number, bool to_exec, Type a, Type b, void (*lanes)(Lanes&)) {
  static std::vector<std::unique_ptr<std::string>> names;  // of v_cmpx_..., made from those of v_cmp_...
  if (to_exec) name.replace(0, 5, "v_cmpx");
  names.push_back(std::make_unique<std::string>(std::move(name)));
  Operation operation{names.back()->c_str(), Encoding::vopc, static_cast<u16>(number), Kind::vector, Type::none,
                      {a, b, Type::none}, execute_plain<2>, lanes};
  operation.cycles = is_64_bits(a) ? 8 : 4;
  operation.mask_result = true;
  operation.mask_to_exec = to_exec;
  return operation;
}

#define COMPARE(number, further, name, A, B, expression)                                            \
  row(#name, number, false, type_of<A>, type_of<B>, compare_lanes<struct name, A, B>),              \
  row(#name, number + further, true, type_of<A>, type_of<B>, compare_lanes<struct name, A, B>),

const std::vector<Operation>& rows() {
  static const std::vector<Operation> table{
#include "compare.def"
  };
  return table;
}

}  // namespace

Rows compare_rows() { return {rows().data(), rows().data() + rows().size()}; }

}  // namespace updp::emulator
