#include "api.h"

#include <dlfcn.h>
#include <link.h>

#include <string_view>
#include <vector>

namespace updp::launcher {
namespace {

// Path of a loaded library whose file name starts with `stem`; empty where there is none.
std::string loaded(std::string_view stem) {
  struct Search {
    std::string_view stem;
    std::string path;
  } search{stem, {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto* search = static_cast<Search*>(data);
        const std::string_view path = info->dlpi_name ? info->dlpi_name : "";
        if (path.substr(path.rfind('/') + 1).substr(0, search->stem.size()) != search->stem) return 0;
        search->path = path;
        return 1;
      },
      &search);
  return search.path;
}

void* open(const std::vector<std::string>& names, const std::string& advice) {
  std::string reasons;
  for (const std::string& name : names) {
    if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    reasons += std::string("\n  ") + dlerror();
  }
  throw DriverError(advice + reasons);
}

template <typename Function>
void find(void* library, Function*& function, const char* name) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  if (!function) throw DriverError(std::string("the driver library is too old: it has no function ") + name);
}

}  // namespace

void* open_hip(const std::string& library) {
  if (!library.empty()) return open({library}, "cannot open the library " + library + ":");
  const std::string already = loaded("libamdhip64.so");
  if (!already.empty()) return open({already}, "cannot open the HIP runtime again:");
  return open({"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"},
              "no HIP runtime: install ROCm, or add the folder of libamdhip64.so to LD_LIBRARY_PATH:");
}

void* open_cuda(const std::string& library) {
  if (!library.empty()) return open({library}, "cannot open the library " + library + ":");
  return open({"libcuda.so.1"}, "no CUDA driver: install NVIDIA's driver, which brings libcuda.so.1:");
}

void find(void* library, Api& api, HipApi& hip) {
  find(library, api.init, "hipInit");
  find(library, api.module_load_data, "hipModuleLoadData");
  find(library, api.module_unload, "hipModuleUnload");
  find(library, api.module_get_function, "hipModuleGetFunction");
  find(library, api.launch_kernel, "hipModuleLaunchKernel");
  find(library, api.malloc, "hipMalloc");
  find(library, api.free, "hipFree");
  find(library, api.copy_to_device, "hipMemcpyHtoD");
  find(library, api.copy_to_host, "hipMemcpyDtoH");
  find(library, api.host_register, "hipHostRegister");
  find(library, api.host_unregister, "hipHostUnregister");
  find(library, api.synchronize, "hipDeviceSynchronize");
  find(library, hip.get_error_string, "hipGetErrorString");
}

void find(void* library, Api& api, CudaApi& cuda) {
  find(library, api.init, "cuInit");
  find(library, api.module_load_data, "cuModuleLoadData");
  find(library, api.module_unload, "cuModuleUnload");
  find(library, api.module_get_function, "cuModuleGetFunction");
  find(library, api.launch_kernel, "cuLaunchKernel");
  find(library, api.malloc, "cuMemAlloc_v2");
  find(library, api.free, "cuMemFree_v2");
  find(library, api.copy_to_device, "cuMemcpyHtoD_v2");
  find(library, api.copy_to_host, "cuMemcpyDtoH_v2");
  find(library, api.host_register, "cuMemHostRegister_v2");
  find(library, api.host_unregister, "cuMemHostUnregister");
  find(library, api.synchronize, "cuCtxSynchronize");
  find(library, cuda.get_error_string, "cuGetErrorString");
  find(library, cuda.get_current_context, "cuCtxGetCurrent");
  find(library, cuda.set_current_context, "cuCtxSetCurrent");
  find(library, cuda.retain_primary_context, "cuDevicePrimaryCtxRetain");
  find(library, cuda.get_current_device, "cuCtxGetDevice");
  find(library, cuda.get_device_attribute, "cuDeviceGetAttribute");
  find(library, cuda.get_function_attribute, "cuFuncGetAttribute");
  find(library, cuda.set_function_attribute, "cuFuncSetAttribute");
  find(library, cuda.get_parameter, "cuFuncGetParamInfo");  // since CUDA 12.4
}

}  // namespace updp::launcher
