#include "driver.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "../code_object.h"

namespace updp::launcher {
namespace {

// Counts fork()s on the way to this process: comparing it costs a launch less than asking for the process's id.
unsigned process() {
  static std::atomic<unsigned> forks{0};
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++forks; });
  (void)registered;
  return forks;
}

void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

std::string shape(const std::array<uint32_t, 3>& of) {
  return std::to_string(of[0]) + " x " + std::to_string(of[1]) + " x " + std::to_string(of[2]);
}

}  // namespace

Driver::Driver(Kind kind, const std::string& library) : kind(kind), process_(process()) {
  if (kind == Kind::hip) {
    find(open_hip(library), api, hip);
  } else {
    find(open_cuda(library), api, cuda);
  }
  check(api.init(0), "initializing the driver");
}

void Driver::check(int status, const std::string& what) const {
  if (status == 0) return;
  const char* text = nullptr;
  if (kind == Kind::hip) {
    text = hip.get_error_string(status);
  } else {
    cuda.get_error_string(status, &text);
  }
  throw DriverError(what + " failed: " + (text ? text : "unknown error") +
                    (kind == Kind::hip ? " (HIP error " : " (CUDA error ") + std::to_string(status) + ")");
}

bool Driver::forked() const { return process() != process_; }

void Driver::enter(void* context) const {
  if (forked()) {
    throw DriverError("the driver was opened before fork() and is of no use in the child; start processes with "
                      "multiprocessing's method spawn");
  }
  if (kind == Kind::hip) return;
  void* current = nullptr;
  check(cuda.get_current_context(&current), "asking for the current context");
  if (current) return;
  if (!context) check(cuda.retain_primary_context(&context, 0), "retaining the context of device 0");
  check(cuda.set_current_context(context), "setting the current context");
}

uint64_t Driver::malloc(size_t bytes) const {
  enter();
  void* address = nullptr;
  check(api.malloc(&address, bytes), "allocating " + std::to_string(bytes) + " bytes");
  return reinterpret_cast<uint64_t>(address);
}

void Driver::free(uint64_t address) const {
  enter();
  check(api.free(pointer(address)), "freeing memory");
}

void Driver::copy_to_device(uint64_t destination, const void* source, size_t bytes) const {
  enter();
  const int status = api.copy_to_device(pointer(destination), source, bytes);
  check(status, "copying " + std::to_string(bytes) + " bytes to the device");
}

void Driver::copy_to_host(void* destination, uint64_t source, size_t bytes) const {
  enter();
  const int status = api.copy_to_host(destination, pointer(source), bytes);
  check(status, "copying " + std::to_string(bytes) + " bytes to the host");
}

void Driver::host_register(uint64_t address, size_t bytes) const {
  enter();
  check(api.host_register(pointer(address), bytes, 0), "registering " + std::to_string(bytes) + " bytes of the host");
}

void Driver::host_unregister(uint64_t address) const {
  enter();
  check(api.host_unregister(pointer(address)), "unregistering memory of the host");
}

void Driver::synchronize() const {
  enter();
  check(api.synchronize(), "waiting for the device");
}

Module::Module(std::shared_ptr<const Driver> driver, std::string code, const std::string& arch)
    : driver(std::move(driver)), code(std::move(code)), arch(arch) {
  const Driver& opened = *this->driver;
  opened.enter();
  opened.check(opened.api.module_load_data(&handle_, this->code.data()), "loading code for " + arch);
  if (opened.kind == Kind::cuda) {
    opened.check(opened.cuda.get_current_context(&context_), "asking for the current context");
  }
}

Module::~Module() {
  // A driver that refuses has nobody left to tell.
  if (handle_ && !driver->forked()) driver->api.module_unload(handle_);
}

Kernel::Kernel(std::shared_ptr<const Module> module, const std::string& name)
    : module(std::move(module)), name(name) {
  const Driver& driver = *this->module->driver;
  driver.enter();
  if (driver.kind == Kind::hip) describe_hip();
  const int status = driver.api.module_get_function(&function_, this->module->handle_, name.c_str());
  driver.check(status, "kernel " + name + ": finding it in the module");
  if (driver.kind == Kind::cuda) describe_cuda();
  for (const Parameter& parameter : parameters) {
    argument_bytes = std::max(argument_bytes, parameter.offset + parameter.size);
  }
  if (argument_bytes > kMaxArgumentBytes || parameters.size() > kMaxParameters) {
    throw DriverError("kernel " + name + ": more than 4096 bytes of arguments, or more than 1024 of them");
  }
}

void Kernel::describe_hip() {
  const auto* bytes = reinterpret_cast<const uint8_t*>(module->code.data());
  const CodeObject code = CodeObject::parse(bytes, module->code.size(), module->arch);
  const updp::Kernel& kernel = code.kernel(name);
  for (const Argument& argument : kernel.arguments) {
    if (argument.hidden()) continue;
    const bool address = argument.value_kind == "global_buffer", value = argument.value_kind == "by_value";
    if (!value && !(address && argument.size == 8)) {
      throw CodeObjectError("kernel " + name + ": an argument of kind " + argument.value_kind + " and " +
                            std::to_string(argument.size) + " bytes, which is neither an address nor a value");
    }
    const auto type = address ? Parameter::Type::address : Parameter::Type::value;
    parameters.push_back({argument.name, type, argument.offset, argument.size});
  }
  lds = kernel.lds_bytes;
  max_lds = code.arch == "gfx950" ? 160 << 10 : 64 << 10;
  max_workgroup_size = kernel.max_workgroup_size;
}

void Kernel::describe_cuda() {
  constexpr int max_threads = 0, shared_bytes = 1, max_dynamic_shared_bytes = 8;  // CU_FUNC_ATTRIBUTE_*
  constexpr int max_shared_bytes_optin = 97;                                      // CU_DEVICE_ATTRIBUTE_*
  constexpr int invalid_value = 1;                                                // CUDA_ERROR_*: no such argument
  const Driver& driver = *module->driver;
  const auto attribute = [&](int which) {
    int value = 0;
    driver.check(driver.cuda.get_function_attribute(&value, which, function_), "kernel " + name + ": asking about it");
    return static_cast<uint32_t>(value);
  };
  size_t offset = 0, bytes = 0;
  int status = 0;
  while ((status = driver.cuda.get_parameter(function_, parameters.size(), &offset, &bytes)) == 0) {
    const auto type = bytes == 8 ? Parameter::Type::unknown : Parameter::Type::value;
    parameters.push_back({"", type, static_cast<uint32_t>(offset), static_cast<uint32_t>(bytes)});
  }
  if (status != invalid_value) driver.check(status, "kernel " + name + ": asking for its arguments");
  lds = attribute(shared_bytes);
  max_workgroup_size = attribute(max_threads);
  int device = 0, most = 0;
  driver.check(driver.cuda.get_current_device(&device), "asking for the current device");
  driver.check(driver.cuda.get_device_attribute(&most, max_shared_bytes_optin, device), "asking about the device");
  max_lds = static_cast<uint32_t>(most);
  driver.check(driver.cuda.set_function_attribute(function_, max_dynamic_shared_bytes, most - static_cast<int>(lds)),
               "kernel " + name + ": allowing it all shared memory");
}

void Kernel::launch(std::array<uint32_t, 3> grid, std::array<uint32_t, 3> block, uint32_t dynamic_lds, uint64_t stream,
                    uint8_t* arguments) const {
  const Driver& driver = *module->driver;
  const uint64_t lanes = uint64_t{block[0]} * block[1] * block[2];
  if (!grid[0] || !grid[1] || !grid[2]) {
    throw std::invalid_argument("kernel " + name + ": a grid of " + shape(grid) + " workgroups");
  }
  if (std::any_of(block.begin(), block.end(), [&](uint32_t side) { return side == 0 || side > max_workgroup_size; }) ||
      lanes > max_workgroup_size) {
    throw std::invalid_argument("kernel " + name + ": a block of " + shape(block) + " lanes, expected 1 to " +
                                std::to_string(max_workgroup_size));
  }
  if (uint64_t{lds} + dynamic_lds > max_lds) {
    throw std::invalid_argument("kernel " + name + ": " + std::to_string(lds) + " static and " +
                                std::to_string(dynamic_lds) + " dynamic bytes of LDS, a workgroup has " +
                                std::to_string(max_lds));
  }
  driver.enter(module->context_);
  std::array<void*, kMaxParameters> pointers;  // filled as far as the driver reads it
  for (size_t i = 0; i < parameters.size(); ++i) pointers[i] = arguments + parameters[i].offset;
  const int status = driver.api.launch_kernel(function_, grid[0], grid[1], grid[2], block[0], block[1], block[2],
                                              dynamic_lds, pointer(stream), pointers.data(), nullptr);
  if (status) driver.check(status, "kernel " + name + ": launching it");
}

}  // namespace updp::launcher
