// updp_rt._seen: whether Python's objects are still the very ones that were seen before. See updp_rt/_seen.pyi.
//
// A thousand of them are looked at before every call of a model; in Python that takes as long as some models' layers.
// Nothing here runs Python code, so no other thread changes anything meanwhile.
#include <dlfcn.h>
#include <pybind11/pybind11.h>

#include <cstring>
#include <string>
#include <tuple>
#include <unordered_set>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace updp::seen {
namespace {

// A tensor's version and address by torch's own functions, found in the process: nothing is linked against torch. Of
// its C++ no more is used than that a Python tensor holds a pointer, of which torch's C interface takes the address.
class Torch {
 public:
  // Throws where there is no torch, or not as it is known here.
  Torch() {
    if (void* library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD)) {
      version_ = reinterpret_cast<int64_t (*)(const void*)>(dlsym(library, "_ZNK2at10TensorBase8_versionEv"));
      address_ = reinterpret_cast<int32_t (*)(void*, void**)>(dlsym(library, "aoti_torch_get_data_ptr"));
    }
    if (!version_ || !address_) throw py::import_error("torch's functions are not there");
    const py::object torch = py::module_::import("torch"), tensor = torch.attr("empty")(3);
    type_ = py::type::of(tensor);
    const auto pointer = tensor.attr("_cdata").cast<uintptr_t>();
    const auto size = type_.attr("__basicsize__").cast<size_t>();
    for (offset_ = sizeof(PyObject); read(tensor.ptr()) != pointer; offset_ += sizeof(void*)) {
      if (offset_ + 2 * sizeof(void*) > size) throw py::import_error("torch's tensors are not as they are known here");
    }
  }

  // Throws where `tensor` is none, or torch tells Python otherwise.
  void check(py::handle tensor) const {
    if (!py::isinstance(tensor, type_)) throw py::type_error("tensors are wanted");
    if (tensor.attr("_cdata").cast<uintptr_t>() != read(tensor.ptr()) || !is(tensor.ptr(), version(tensor)) ||
        !lies(tensor.ptr(), address(tensor))) {
      throw py::type_error("an unknown kind of tensor");
    }
  }

  static int64_t version(py::handle tensor) { return tensor.attr("_version").cast<int64_t>(); }

  static uintptr_t address(py::handle tensor) { return tensor.attr("data_ptr")().cast<uintptr_t>(); }

  bool is(PyObject* tensor, int64_t version) const {
    try {
      return version_(place(tensor)) == version;
    } catch (...) {  // one made under inference_mode has none
      return false;
    }
  }

  bool lies(PyObject* tensor, uintptr_t address) const {
    void* found = nullptr;
    return address_(place(tensor), &found) == 0 && reinterpret_cast<uintptr_t>(found) == address;
  }

 private:
  void* place(PyObject* tensor) const { return reinterpret_cast<char*>(tensor) + offset_; }

  uintptr_t read(PyObject* tensor) const { return *static_cast<uintptr_t*>(place(tensor)); }

  int64_t (*version_)(const void*) = nullptr;  // at::TensorBase::_version() const
  int32_t (*address_)(void*, void**) = nullptr;
  py::object type_;
  size_t offset_ = 0;
};

const Torch* torch = nullptr;  // for good: it holds a class, which is gone before statics are

#if PY_VERSION_HEX < 0x030d0000
// A number that changes whenever a dictionary does (PEP 509). Most has left the caches while the model ran, and this
// number alone is read.
constexpr bool kTagged = true;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
uint64_t tag(PyObject* held) { return reinterpret_cast<PyDictObject*>(held)->ma_version_tag; }
#pragma GCC diagnostic pop
#else
constexpr bool kTagged = false;

uint64_t tag(PyObject*) { return 0; }
#endif

uint64_t peek(uintptr_t place, size_t bytes) {
  uint64_t value = 0;
  std::memcpy(&value, reinterpret_cast<const void*>(place), bytes);
  return value;
}

struct Entry {
  PyObject *held, *key, *value;
};

struct Content {
  PyObject* held;
  std::vector<std::pair<PyObject*, PyObject*>> items;

  bool holds() const {
    if (PyDict_GET_SIZE(held) != static_cast<Py_ssize_t>(items.size())) return false;
    Py_ssize_t position = 0;
    PyObject *key = nullptr, *value = nullptr;
    for (const auto& [key_then, value_then] : items) {
      if (!PyDict_Next(held, &position, &key, &value) || key != key_then || value != value_then) return false;
    }
    return true;
  }
};

struct Placed {
  PyObject* tensor;
  uintptr_t address, probe;
  size_t bytes;
  uint64_t value;
};

// Pointers to what `see` keeps alive; of nothing, as copies are, it never is the same.
struct Seen {
  bool known = false;
  std::vector<Entry> entries;
  std::vector<Content> contents;
  std::vector<std::pair<PyObject*, Py_ssize_t>> sizes;
  std::vector<std::pair<PyObject*, PyTypeObject*>> types;
  std::vector<std::pair<PyObject*, int64_t>> versions;
  std::vector<Placed> placed;
  mutable std::vector<std::pair<PyObject*, uint64_t>> tags;  // of all dictionaries

  bool same() const {
    if (!known) return false;
    for (const auto& [object, type] : types) {
      if (Py_TYPE(object) != type) return false;
    }
    return (untouched() || dictionaries_hold()) && tensors_hold();
  }

  void look_at_tags() const {
    for (auto& [held, then] : tags) then = tag(held);
  }

 private:
  bool untouched() const {
    if (!kTagged) return false;
    for (const auto& [held, then] : tags) {
      if (tag(held) != then) return false;
    }
    return true;
  }

  bool dictionaries_hold() const {
    for (const auto& [held, size] : sizes) {
      if (PyDict_GET_SIZE(held) != size) return false;
    }
    for (const Entry& entry : entries) {
      if (PyDict_GetItemWithError(entry.held, entry.key) != entry.value) return PyErr_Clear(), false;
    }
    for (const Content& content : contents) {
      if (!content.holds()) return false;
    }
    look_at_tags();
    return true;
  }

  bool tensors_hold() const {
    for (const auto& [tensor, version] : versions) {
      if (!torch->is(tensor, version)) return false;
    }
    for (const Placed& one : placed) {
      // In this order: where the tensor has left its memory, that may be gone.
      if (!torch->lies(one.tensor, one.address) || peek(one.probe, one.bytes) != one.value) return false;
    }
    return true;
  }
};

py::object see(const py::list& entries, const py::list& contents, const py::list& sizes, const py::list& objects,
               const py::list& versioned, const py::list& placed) {
  Seen seen;
  seen.known = true;
  py::list kept;
  std::unordered_set<PyObject*> tagged;
  const auto keep = [&kept](py::handle object) { return kept.append(object), object.ptr(); };
  const auto keep_dict = [&](const py::dict& held) {
    if (tagged.insert(held.ptr()).second) seen.tags.emplace_back(held.ptr(), 0);
    return keep(held);
  };
  for (const py::handle entry : entries) {
    const auto [held, key] = entry.cast<std::pair<py::dict, py::str>>();
    PyObject* value = PyDict_GetItemWithError(held.ptr(), key.ptr());
    if (!value) throw py::key_error(std::string(key));
    seen.entries.push_back({keep_dict(held), keep(key), keep(value)});
  }
  for (const py::handle item : contents) {
    const auto held = item.cast<py::dict>();
    Content content{keep_dict(held), {}};
    for (const auto& [key, value] : held) content.items.emplace_back(keep(key), keep(value));
    seen.contents.push_back(std::move(content));
  }
  for (const py::handle item : sizes) {
    const auto held = item.cast<py::dict>();
    seen.sizes.emplace_back(keep_dict(held), held.size());
  }
  seen.look_at_tags();
  for (const py::handle object : objects) {
    keep(py::type::handle_of(object));
    seen.types.emplace_back(keep(object), Py_TYPE(object.ptr()));
  }
  for (const py::handle tensor : versioned) {
    torch->check(tensor);
    seen.versions.emplace_back(keep(tensor), Torch::version(tensor));
  }
  for (const py::handle entry : placed) {
    const auto [tensor, probe, bytes] = entry.cast<std::tuple<py::object, uintptr_t, size_t>>();
    if (bytes > sizeof(uint64_t)) throw py::value_error("at most eight bytes are compared");
    torch->check(tensor);
    seen.placed.push_back({keep(tensor), Torch::address(tensor), probe, bytes, peek(probe, bytes)});
  }
  py::object found = py::cast(std::move(seen));
  found.attr("_kept") = kept;  // in a dictionary, so that the garbage collector sees cycles: models hold what sees them
  return found;
}

}  // namespace
}  // namespace updp::seen

PYBIND11_MODULE(_seen, module) {
  using namespace updp::seen;
  module.doc() = "Whether objects are still the very ones that were seen before.";
  torch = new Torch();
  py::class_<Seen>(module, "Seen", py::dynamic_attr())
      .def(py::init<>())
      .def("__reduce__", [](const Seen&) { return py::make_tuple(py::type::of<Seen>(), py::tuple()); })
      .def("same", &Seen::same);
  module.def("see", &see, py::kw_only(), py::arg("entries") = py::list(), py::arg("contents") = py::list(),
             py::arg("sizes") = py::list(), py::arg("objects") = py::list(), py::arg("versioned") = py::list(),
             py::arg("placed") = py::list());
}
