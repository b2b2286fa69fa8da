#include "arguments.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace py = pybind11;

namespace updp::launcher {
namespace {

[[noreturn]] void fail(PyObject* type, const std::string& message) {
  PyErr_SetString(type, message.c_str());
  throw py::error_already_set();
}

// One parameter of one kernel, to be named in errors.
struct Place {
  const Kernel& kernel;
  size_t index;

  const Parameter& parameter() const { return kernel.parameters[index]; }
  std::string text() const {
    const std::string& name = parameter().name;
    return "kernel " + kernel.name + ": argument " + std::to_string(index) + (name.empty() ? "" : " (" + name + ")");
  }
  std::string bytes() const { return std::to_string(parameter().size) + " bytes"; }
};

void pack_int(const Place& place, PyObject* value, uint8_t* target) {
  const Parameter& parameter = place.parameter();
  const unsigned bits = 8 * parameter.size;
  if (parameter.size > 8) fail(PyExc_TypeError, place.text() + " takes " + place.bytes() + ", got an int");
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
  uint64_t word = static_cast<uint64_t>(number);
  bool fits = overflow == 0 && (bits == 64 || (number >= -(1ll << (bits - 1)) && number < 1ll << bits));
  if (overflow > 0 && bits == 64) {
    word = PyLong_AsUnsignedLongLong(value);
    fits = !PyErr_Occurred();
    PyErr_Clear();
  }
  if (!fits || (parameter.type == Parameter::Type::address && number < 0 && overflow == 0)) {
    const std::string what = parameter.type == Parameter::Type::address ? "an address of " : "a value of ";
    const std::string got = py::str(value).cast<std::string>();
    fail(PyExc_OverflowError, place.text() + " takes " + what + place.bytes() + ", got " + got);
  }
  std::memcpy(target, &word, parameter.size);
}

void pack_float(const Place& place, PyObject* value, uint8_t* target) {
  const double number = PyFloat_AS_DOUBLE(value);
  if (place.parameter().size == 8) {
    std::memcpy(target, &number, 8);
    return;
  }
  if (place.parameter().size != 4) fail(PyExc_TypeError, place.text() + " takes " + place.bytes() + ", got a float");
  if (std::isfinite(number) && std::fabs(number) > std::numeric_limits<float>::max()) {
    fail(PyExc_OverflowError, place.text() + " takes a float of 4 bytes, got " + py::str(value).cast<std::string>());
  }
  const float single = static_cast<float>(number);
  std::memcpy(target, &single, 4);
}

void pack_one(const Place& place, PyObject* value, uint8_t* target) {
  const Parameter& parameter = place.parameter();
  const bool address = parameter.type == Parameter::Type::address;
  if (PyLong_Check(value) && !(address && PyBool_Check(value))) return pack_int(place, value, target);
  if (value == Py_None && parameter.type != Parameter::Type::value) {
    std::memset(target, 0, 8);
    return;
  }
  if (PyFloat_Check(value) && !address) return pack_float(place, value, target);
  if (PyBytes_Check(value) && !address) {
    const size_t size = PyBytes_GET_SIZE(value);
    if (size != parameter.size) {
      fail(PyExc_ValueError, place.text() + " takes " + place.bytes() + ", got " + std::to_string(size));
    }
    std::memcpy(target, PyBytes_AS_STRING(value), parameter.size);
    return;
  }
  fail(PyExc_TypeError, place.text() + " takes " + (address ? "an address (int) or None" : "an int, a float or bytes") +
                            ", got " + Py_TYPE(value)->tp_name);
}

}  // namespace

void pack(const Kernel& kernel, py::handle arguments, uint8_t* buffer) {
  const bool tuple = PyTuple_Check(arguments.ptr());
  if (!tuple && !PyList_Check(arguments.ptr())) {
    fail(PyExc_TypeError, "kernel " + kernel.name + ": its arguments come as a tuple or a list");
  }
  const size_t count = Py_SIZE(arguments.ptr());
  if (count != kernel.parameters.size()) {
    fail(PyExc_TypeError, "kernel " + kernel.name + " takes " + std::to_string(kernel.parameters.size()) +
                              " arguments, got " + std::to_string(count));
  }
  for (size_t i = 0; i < count; ++i) {
    PyObject* value = tuple ? PyTuple_GET_ITEM(arguments.ptr(), i) : PyList_GET_ITEM(arguments.ptr(), i);
    pack_one({kernel, i}, value, buffer + kernel.parameters[i].offset);
  }
}

}  // namespace updp::launcher
