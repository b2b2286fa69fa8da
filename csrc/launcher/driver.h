// A GPU driver, the modules loaded through it, their kernels. Nothing here needs Python.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api.h"

namespace updp::launcher {

enum class Kind { hip, cuda };

// All calls throw DriverError with the driver's text where it refuses, and in a child process after fork().
class Driver {
 public:
  Driver(Kind kind, const std::string& library);

  // Checks `status`; `what` was attempted.
  void check(int status, const std::string& what) const;
  // To be called before the driver: throws in a forked child, and makes a CUDA context current in a thread that has
  // none, by default the first device's, as NVIDIA's runtime does.
  void enter(void* context = nullptr) const;
  bool forked() const;

  uint64_t malloc(size_t bytes) const;
  void free(uint64_t address) const;
  void copy_to_device(uint64_t destination, const void* source, size_t bytes) const;
  void copy_to_host(void* destination, uint64_t source, size_t bytes) const;
  void host_register(uint64_t address, size_t bytes) const;
  void host_unregister(uint64_t address) const;
  void synchronize() const;

  const Kind kind;
  Api api;
  HipApi hip{};
  CudaApi cuda{};

 private:
  const unsigned process_;
};

// Code on the device that was the calling thread's when it was loaded.
class Module {
 public:
  // `code` outlives the module: drivers may read it late.
  Module(std::shared_ptr<const Driver> driver, std::string code, const std::string& arch);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // Leaves the module loaded: a process that ends may have unloaded the driver before.
  void abandon() { handle_ = nullptr; }

  const std::shared_ptr<const Driver> driver;
  const std::string code, arch;

 private:
  friend class Kernel;
  void* handle_ = nullptr;
  void* context_ = nullptr;  // CUDA's
};

struct Parameter {
  enum class Type { address, value, unknown };  // CUDA does not tell an address from a number of 8 bytes
  std::string name;
  Type type;
  uint32_t offset, size;  // in the argument segment
};

class Kernel {
 public:
  Kernel(std::shared_ptr<const Module> module, const std::string& name);

  static constexpr size_t kMaxArgumentBytes = 4096, kMaxParameters = 1024;  // the first is the drivers' limit

  // `grid` in workgroups, `block` in lanes, `arguments` at their parameters' offsets. Throws std::invalid_argument for
  // a shape or an amount of LDS that the kernel cannot have.
  void launch(std::array<uint32_t, 3> grid, std::array<uint32_t, 3> block, uint32_t dynamic_lds, uint64_t stream,
              uint8_t* arguments) const;

  const std::shared_ptr<const Module> module;
  const std::string name;
  std::vector<Parameter> parameters;
  uint32_t argument_bytes = 0;
  uint32_t lds = 0, max_lds = 0;  // static bytes a workgroup, and the most with dynamic ones
  uint32_t max_workgroup_size = 0;

 private:
  void describe_hip();
  void describe_cuda();

  void* function_ = nullptr;
};

}  // namespace updp::launcher
