// updp_rt._launcher: the launcher for Python. See updp_rt/_launcher.pyi for what a caller sees.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "../code_object.h"
#include "../describe.h"
#include "arguments.h"
#include "driver.h"

namespace py = pybind11;

namespace updp::launcher {
namespace {

const uint8_t* bytes(std::string_view code) { return reinterpret_cast<const uint8_t*>(code.data()); }

std::shared_ptr<Driver> open_driver(const std::string& kind, const std::optional<std::string>& library) {
  if (kind != "hip" && kind != "cuda") throw py::value_error("kind is hip or cuda, got " + kind);
  const py::gil_scoped_release unlocked;
  return std::make_shared<Driver>(kind == "hip" ? Kind::hip : Kind::cuda, library.value_or(""));
}

// Frees a module's last reference, which Python holds: unlocked, since the driver may wait for the device.
void unload(Module* module) {
#if PY_VERSION_HEX >= 0x030d0000
  const bool finalizing = Py_IsFinalizing();
#else
  const bool finalizing = _Py_IsFinalizing();  // its name before Python 3.13
#endif
  if (finalizing) {
    module->abandon();
    delete module;
    return;
  }
  const py::gil_scoped_release unlocked;
  delete module;
}

std::shared_ptr<Module> load(const std::shared_ptr<Driver>& driver, std::string code, const std::string& arch) {
  if (driver->kind == Kind::hip) CodeObject::parse(bytes(code), code.size(), arch);
  const py::gil_scoped_release unlocked;
  return {new Module(driver, std::move(code), arch), unload};
}

py::list arguments(const Kernel& kernel) {
  static constexpr const char* types[] = {"address", "value", "unknown"};
  py::list list;
  for (const Parameter& parameter : kernel.parameters) {
    list.append(py::make_tuple(parameter.name, types[static_cast<int>(parameter.type)], parameter.size));
  }
  return list;
}

void launch(const Kernel& kernel, std::array<uint32_t, 3> grid, std::array<uint32_t, 3> block, uint32_t dynamic_lds,
            uint64_t stream, py::handle arguments) {
  alignas(16) uint8_t buffer[Kernel::kMaxArgumentBytes];
  pack(kernel, arguments, buffer);
  const py::gil_scoped_release unlocked;
  kernel.launch(grid, block, dynamic_lds, stream, buffer);
}

// The bytes of a contiguous buffer, kept for as long as this lives.
class Buffer {
 public:
  Buffer(py::handle object, int flags) {
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw py::error_already_set();
  }
  ~Buffer() { PyBuffer_Release(&view_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return view_.buf; }
  size_t size() const { return view_.len; }

 private:
  Py_buffer view_;
};

void copy_to_device(const Driver& driver, uint64_t destination, py::handle source) {
  const Buffer buffer(source, PyBUF_SIMPLE);
  const py::gil_scoped_release unlocked;
  driver.copy_to_device(destination, buffer.data(), buffer.size());
}

void copy_to_host(const Driver& driver, py::handle destination, uint64_t source) {
  const Buffer buffer(destination, PyBUF_WRITABLE);
  const py::gil_scoped_release unlocked;
  driver.copy_to_host(buffer.data(), source, buffer.size());
}

py::dict describe(std::string_view code, const std::string& arch) {
  const CodeObject object = CodeObject::parse(bytes(code), code.size(), arch);
  py::list kernels;
  for (const updp::Kernel& kernel : object.kernels) kernels.append(updp::describe(kernel));
  py::dict result;
  result["arch"] = object.arch;
  result["kernels"] = kernels;
  result["image_bytes"] = object.image_bytes;
  result["text"] = py::make_tuple(object.text_address, object.text_bytes);
  py::list relocations;
  for (const Relocation& relocation : object.relocations) {
    relocations.append(py::make_tuple(relocation.address, relocation.addend));
  }
  result["relocations"] = relocations;
  return result;
}

}  // namespace
}  // namespace updp::launcher

PYBIND11_MODULE(_launcher, module) {
  using namespace updp::launcher;
  using Unlocked = py::call_guard<py::gil_scoped_release>;

  py::register_local_exception<updp::CodeObjectError>(module, "CodeObjectError", PyExc_ValueError);
  py::register_local_exception<DriverError>(module, "DriverError", PyExc_RuntimeError);

  py::class_<Driver, std::shared_ptr<Driver>>(module, "Driver", py::module_local())
      .def(py::init(&open_driver), py::arg("kind"), py::arg("library") = py::none())
      .def("load", &load, py::arg("code"), py::arg("arch"))
      .def("malloc", &Driver::malloc, py::arg("bytes"), Unlocked())
      .def("free", &Driver::free, py::arg("address"), Unlocked())
      .def("copy_to_device", &copy_to_device, py::arg("destination"), py::arg("source"))
      .def("copy_to_host", &copy_to_host, py::arg("destination"), py::arg("source"))
      .def("register", &Driver::host_register, py::arg("address"), py::arg("bytes"), Unlocked())
      .def("unregister", &Driver::host_unregister, py::arg("address"), Unlocked())
      .def("synchronize", &Driver::synchronize, Unlocked());

  py::class_<Module, std::shared_ptr<Module>>(module, "Module", py::module_local())
      .def_readonly("arch", &Module::arch)
      .def("kernel", [](const std::shared_ptr<Module>& of, const std::string& name) {
        return std::make_shared<Kernel>(of, name);
      }, py::arg("name"), Unlocked());

  py::class_<Kernel, std::shared_ptr<Kernel>>(module, "Kernel", py::module_local())
      .def_readonly("name", &Kernel::name)
      .def_readonly("lds", &Kernel::lds)
      .def_readonly("max_workgroup_size", &Kernel::max_workgroup_size)
      .def_property_readonly("arguments", &arguments)
      .def("launch", &launch, py::arg("grid"), py::arg("block"), py::arg("dynamic_lds"), py::arg("stream"),
           py::arg("arguments"));

  module.def("describe", &describe, py::arg("code"), py::arg("arch") = "");
}
