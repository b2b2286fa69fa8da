// The tables of operations, one a family; find_operation() searches them all.
#pragma once

#include <utility>

#include "instruction.h"

namespace updp::emulator {

using Rows = std::pair<const Operation*, const Operation*>;  // first, end

Rows scalar_rows();
Rows vector_rows();
Rows compare_rows();
Rows lane_rows();      // vector operations that move values between lanes, or between kinds of register
Rows packed_rows();
Rows matrix_rows();
Rows scalar_memory_rows();
Rows global_memory_rows();
Rows lds_rows();

// Vector operations with 1, 2 or 3 sources, without modifiers; and any vector operation with them.
template <int sources> void execute_plain(Wave& wave, const Instruction& instruction);
void execute_modified(Wave& wave, const Instruction& instruction);

}  // namespace updp::emulator
