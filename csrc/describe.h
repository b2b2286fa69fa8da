// A kernel as Python sees it: a dictionary of the fields of `Kernel`.
#pragma once

#include <pybind11/pybind11.h>

#include "code_object.h"

namespace updp {

inline pybind11::dict describe(const Kernel& kernel) {
  pybind11::list arguments;
  for (const Argument& argument : kernel.arguments) {
    pybind11::dict entry;
    entry["name"] = argument.name;
    entry["value_kind"] = argument.value_kind;
    entry["offset"] = argument.offset;
    entry["size"] = argument.size;
    arguments.append(entry);
  }
  pybind11::dict result;
  result["name"] = kernel.name;
  result["arguments"] = arguments;
  result["kernarg_bytes"] = kernel.kernarg_bytes;
  result["lds_bytes"] = kernel.lds_bytes;
  result["scratch_bytes"] = kernel.scratch_bytes;
  result["vgprs"] = kernel.vgprs;
  result["agprs"] = kernel.agprs;
  result["sgprs"] = kernel.sgprs;
  result["vgpr_spills"] = kernel.vgpr_spills;
  result["sgpr_spills"] = kernel.sgpr_spills;
  result["max_workgroup_size"] = kernel.max_workgroup_size;
  result["wavefront_size"] = kernel.wavefront_size;
  result["entry"] = kernel.entry;
  result["rsrc1"] = kernel.rsrc1;
  result["rsrc2"] = kernel.rsrc2;
  result["rsrc3"] = kernel.rsrc3;
  result["properties"] = kernel.properties;
  return result;
}

}  // namespace updp
