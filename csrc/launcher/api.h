// The functions of a GPU driver that the launcher calls, found at run time: nothing is linked against a vendor's.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace updp::launcher {

struct DriverError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// libamdhip64 and libcuda agree in these signatures: both return 0 for success, a CUdeviceptr is as wide as a pointer.
struct Api {
  int (*init)(unsigned flags);
  int (*module_load_data)(void** module, const void* image);
  int (*module_unload)(void* module);
  int (*module_get_function)(void** function, void* module, const char* name);
  int (*launch_kernel)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                       unsigned block_y, unsigned block_z, unsigned dynamic_lds, void* stream, void** parameters,
                       void** extra);
  int (*malloc)(void** address, size_t bytes);
  int (*free)(void* address);
  int (*copy_to_device)(void* destination, const void* source, size_t bytes);
  int (*copy_to_host)(void* destination, const void* source, size_t bytes);
  int (*host_register)(void* address, size_t bytes, unsigned flags);
  int (*host_unregister)(void* address);
  int (*synchronize)();
};

struct HipApi {
  const char* (*get_error_string)(int error);
};

struct CudaApi {
  int (*get_error_string)(int error, const char** text);
  int (*get_current_context)(void** context);
  int (*set_current_context)(void* context);
  int (*retain_primary_context)(void** context, int device);
  int (*get_current_device)(int* device);
  int (*get_device_attribute)(int* value, int attribute, int device);
  int (*get_function_attribute)(int* value, int attribute, void* function);
  int (*set_function_attribute)(void* function, int attribute, int value);
  int (*get_parameter)(void* function, size_t index, size_t* offset, size_t* bytes);
};

// Opens `library`, or where that is empty the vendor's: the one this process has loaded already (two HIP runtimes would
// not know each other's memory), else the one that the system's linker finds. Never closed. Throws DriverError.
void* open_hip(const std::string& library);
void* open_cuda(const std::string& library);

// Throw DriverError where the library lacks a function.
void find(void* library, Api& api, HipApi& hip);
void find(void* library, Api& api, CudaApi& cuda);

}  // namespace updp::launcher
