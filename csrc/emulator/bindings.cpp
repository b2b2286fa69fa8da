// The Python module updp_rt.emulator._core.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "../describe.h"
#include "emulator.h"
#include "instruction.h"

namespace py = pybind11;

namespace updp::emulator {
namespace {

py::dict as_dict(const Counters& counters) {
  py::dict result;
#define FIELD(name) result[#name] = counters.name;
  FIELD(waves)
  FIELD(workgroups)
  FIELD(instructions)
  FIELD(scalar)
  FIELD(vector)
  FIELD(matrix)
  FIELD(lds)
  FIELD(global)
  FIELD(scalar_memory)
  FIELD(barriers)
  FIELD(waits)
  FIELD(matrix_cycles)
  FIELD(matrix_flops)
  FIELD(vector_cycles)
  FIELD(lds_bytes)
  FIELD(lds_cycles)
  FIELD(lds_conflict_cycles)
  FIELD(global_loaded_bytes)
  FIELD(global_stored_bytes)
  FIELD(global_lines)
  FIELD(l2_lines)
#undef FIELD
  return result;
}

constexpr const char* kEncodingNames[kEncodings] = {"sop1", "sop2", "sopk", "sopc", "sopp",   "smem", "vop1", "vop2",
                                                    "vopc", "vop3", "vop3p", "matrix", "ds", "flat", "mubuf"};

Order order(const std::string& name) {
  if (name == "forward") return Order::forward;
  if (name == "backward") return Order::backward;
  if (name == "shuffled") return Order::shuffled;
  throw py::value_error("an order is forward, backward or shuffled, not " + name);
}

using Dimensions = std::array<uint32_t, 3>;
using MemoryRange = std::tuple<uint64_t, uint64_t, bool>;

py::dict launch(const Program& program, std::string kernel, Dimensions grid, Dimensions block, const py::bytes& kernarg,
                const std::vector<MemoryRange>& memory, uint32_t dynamic_lds, const std::string& workgroups,
                const std::string& waves, uint64_t seed, uint64_t first_workgroup,
                std::optional<uint64_t> workgroup_count, uint64_t max_instructions, unsigned threads,
                uint32_t l1_bytes, std::optional<py::dict> executions) {
  Launch request;
  request.kernel = std::move(kernel);
  request.grid = grid;
  request.block = block;
  request.dynamic_lds = dynamic_lds;
  const std::string_view bytes = kernarg;
  request.kernarg.assign(bytes.begin(), bytes.end());
  for (const auto& [begin, end, writable] : memory) request.memory.push_back({begin, end, writable});
  request.workgroups = order(workgroups);
  request.waves = order(waves);
  request.seed = seed;
  request.first_workgroup = first_workgroup;
  if (workgroup_count) request.workgroup_count = *workgroup_count;
  request.max_instructions = max_instructions;
  request.threads = threads;
  request.l1_bytes = l1_bytes;
  Counters counters;
  Executions executed;
  {
    const py::gil_scoped_release release;
    counters = program.launch(request, executions ? &executed : nullptr);
  }
  for (const auto& [address, times] : executed) (*executions)[py::int_(address)] = times;
  return as_dict(counters);
}

PYBIND11_MODULE(_core, module) {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    throw py::import_error("the emulator needs an x86-64 processor with AVX2, F16C and FMA");
  }
  module.doc() = "Runs gfx908 (AMD MI100) code objects on the CPU.";
  py::register_exception<Fault>(module, "Fault", PyExc_RuntimeError);
  py::register_exception<CodeObjectError>(module, "CodeObjectError", PyExc_ValueError);
  module.def(
      "operations",
      [] {
        py::list result;
        for (const Operation* operation : all_operations()) {
          const auto encoding = static_cast<size_t>(operation->encoding);
          result.append(py::make_tuple(operation->name, kEncodingNames[encoding], operation->number));
        }
        return result;
      },
      "All operations that are executed: (name, encoding, opcode) each.");
  py::class_<Program>(module, "Program", "A code object loaded for execution.")
      .def(py::init([](const py::bytes& code, const std::string& arch) {
             const std::string_view bytes = code;
             return Program(CodeObject::parse(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), arch));
           }),
           py::arg("code"), py::arg("arch") = "",
           "Loads an ELF code object, or `arch`'s out of a clang offload bundle.")
      .def_property_readonly("arch", [](const Program& program) { return program.code().arch; })
      .def_property_readonly("kernels",
                             [](const Program& program) {
                               py::list result;
                               for (const Kernel& kernel : program.code().kernels) result.append(describe(kernel));
                               return result;
                             })
      .def(
          "launch", launch, py::arg("kernel"), py::arg("grid"), py::arg("block"), py::arg("kernarg"), py::arg("memory"),
          py::kw_only(), py::arg("dynamic_lds") = 0, py::arg("workgroups") = "forward", py::arg("waves") = "forward",
          py::arg("seed") = 0, py::arg("first_workgroup") = 0, py::arg("workgroup_count") = py::none(),
          py::arg("max_instructions") = 0, py::arg("threads") = 1, py::arg("l1_bytes") = 0,
          py::arg("executions") = py::none(),
          "Executes a kernel. grid: workgroups; block: lanes; kernarg: the argument segment without hidden arguments;\n"
          "memory: (begin, end, writable) ranges of addresses that the kernel may touch. executions: a\n"
          "dictionary that receives how often each instruction was executed, by address. Returns counters by name.")
      .def(
          "disassemble",
          [](const Program& program, const std::string& kernel) {
            py::list result;
            for (const Line& line : program.disassemble(kernel)) {
              result.append(py::make_tuple(line.address, line.bytes, line.mnemonic, line.operands));
            }
            return result;
          },
          py::arg("kernel"), "The kernel's instructions: (address, bytes, mnemonic, operands) each.");
}

}  // namespace
}  // namespace updp::emulator
