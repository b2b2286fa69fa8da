#include "operations.h"

namespace updp::emulator {
namespace {

using Index = std::array<std::vector<const Operation*>, kEncodings>;

const Index& operations_by_number() {
  static const Index index = [] {
    Index result;
    for (std::vector<const Operation*>& numbers : result) numbers.assign(1024, nullptr);
    for (const Operation* operation : all_operations()) {
      result[static_cast<int>(operation->encoding)][operation->number] = operation;
    }
    return result;
  }();
  return index;
}

}  // namespace

std::vector<const Operation*> all_operations() {
  std::vector<const Operation*> result;
  for (const Rows& rows : {scalar_rows(), vector_rows(), compare_rows(), lane_rows(), packed_rows(), matrix_rows(),
                           scalar_memory_rows(), global_memory_rows(), lds_rows()}) {
    for (const Operation* operation = rows.first; operation != rows.second; operation++) result.push_back(operation);
  }
  return result;
}

const Operation* find_operation(Encoding encoding, unsigned number) {
  return operations_by_number()[static_cast<int>(encoding)][number];
}

}  // namespace updp::emulator
