// Python's numbers as the bytes a kernel reads.
#pragma once

#include <pybind11/pybind11.h>

#include "driver.h"

namespace updp::launcher {

// Writes `arguments`, a tuple or list with one value for each of the kernel's parameters, to `buffer`, which holds
// kernel.argument_bytes. An address is an int or None (null); a value is an int (signed or unsigned), a float (of 4 or
// 8 bytes), or bytes of just its size. Throws TypeError, ValueError or OverflowError naming the argument.
void pack(const Kernel& kernel, pybind11::handle arguments, uint8_t* buffer);

}  // namespace updp::launcher
