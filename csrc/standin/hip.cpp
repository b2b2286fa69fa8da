// libamdhip64 for machines without an AMD GPU: one pretended MI100 whose memory is the host's and whose kernels run on
// the emulator, at once, whatever their stream; a stream under capture records them instead. A wrong call gets the error
// that HIP's runtime (ROCm 6) gives, and hipGetErrorString adds what was wrong with the thread's last one.
#include <cstring>
#include <new>

#include "device.h"

namespace updp::standin {
namespace {

struct LastRejection {
  int code = 0;
  std::string detail, text;
};
thread_local LastRejection last;

template <typename Call>
int guarded(Call call) {
  try {
    call(Device::instance());
    return 0;
  } catch (const Rejection& rejection) {
    last.code = static_cast<int>(rejection.status);
    last.detail = rejection.what();
  } catch (const std::bad_alloc&) {
    last.code = static_cast<int>(Status::out_of_memory);
    last.detail = "the host has no more";
  }
  return last.code;
}

template <typename T>
T& result(T* place) {
  if (!place) throw Rejection(Status::invalid_value, "no place for the result");
  return *place;
}

}  // namespace
}  // namespace updp::standin

#define EXPORT extern "C" __attribute__((visibility("default")))

using updp::standin::CaptureMode;
using updp::standin::CaptureStatus;
using updp::standin::Device;
using updp::standin::guarded;
using updp::standin::Rejection;
using updp::standin::result;
using updp::standin::Status;

EXPORT int hipInit(unsigned flags) {
  return guarded([&](Device&) {
    if (flags) throw Rejection(Status::invalid_value, "flags other than 0");
  });
}

EXPORT int hipGetDeviceCount(int* count) {
  return guarded([&](Device&) { result(count) = 1; });
}

EXPORT int hipGetDevice(int* index) {
  return guarded([&](Device&) { result(index) = 0; });
}

EXPORT int hipSetDevice(int index) {
  return guarded([&](Device&) {
    if (index) throw Rejection(Status::invalid_device, "device " + std::to_string(index) + " of 1");
  });
}

EXPORT int hipDeviceSynchronize() {
  return guarded([&](Device& device) { device.streams.refuse_waiting(Status::capture_unsupported); });
}

EXPORT const char* hipGetErrorString(int code) {
  auto& last = updp::standin::last;
  last.text = updp::standin::text(code);
  if (code && code == last.code) last.text += ": " + last.detail;
  return last.text.c_str();
}

EXPORT int hipModuleLoadData(void** module, const void* image) {
  return guarded([&](Device& device) { result(module) = device.modules.load(image); });
}

EXPORT int hipModuleUnload(void* module) {
  return guarded([&](Device& device) {
    device.streams.refuse_unsafe();
    device.modules.unload(module);
  });
}

EXPORT int hipModuleGetFunction(void** function, void* module, const char* name) {
  return guarded([&](Device& device) {
    if (!name) throw Rejection(Status::invalid_value, "no name");
    result(function) = device.modules.function(module, std::string(name));
  });
}

EXPORT int hipModuleLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                 unsigned block_y, unsigned block_z, unsigned dynamic_lds, void* stream,
                                 void** parameters, void** extra) {
  return guarded([&](Device& device) {
    device.launch(function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, dynamic_lds, stream, parameters,
                  extra);
  });
}

EXPORT int hipMalloc(void** address, size_t bytes) {
  return guarded([&](Device& device) {
    device.streams.refuse_unsafe();
    result(address) = device.memory.allocate(bytes);
  });
}

EXPORT int hipFree(void* address) {
  return guarded([&](Device& device) {
    device.streams.refuse_unsafe();
    device.memory.free(address);
  });
}

EXPORT int hipMemcpyHtoD(void* destination, const void* source, size_t bytes) {
  return guarded([&](Device& device) {
    device.streams.refuse_waiting(Status::capture_implicit);
    const auto lock = device.memory.lock();
    device.memory.check(destination, bytes);
    if (bytes) std::memmove(destination, source, bytes);
  });
}

EXPORT int hipMemcpyDtoH(void* destination, const void* source, size_t bytes) {
  return guarded([&](Device& device) {
    device.streams.refuse_waiting(Status::capture_implicit);
    const auto lock = device.memory.lock();
    device.memory.check(source, bytes);
    if (bytes) std::memmove(destination, source, bytes);
  });
}

EXPORT int hipHostRegister(void* address, size_t bytes, unsigned) {
  return guarded([&](Device& device) {
    device.streams.refuse_unsafe();
    device.memory.add_host(address, bytes);
  });
}

EXPORT int hipHostUnregister(void* address) {
  return guarded([&](Device& device) {
    device.streams.refuse_unsafe();
    device.memory.remove_host(address);
  });
}

EXPORT int hipStreamCreate(void** stream) {
  return guarded([&](Device& device) { result(stream) = device.streams.create(); });
}

EXPORT int hipStreamDestroy(void* stream) {
  return guarded([&](Device& device) { device.streams.destroy(stream); });
}

EXPORT int hipStreamSynchronize(void* stream) {
  return guarded([&](Device& device) {
    device.streams.check(stream, Status::context_is_destroyed);
    if (device.streams.status(stream) != CaptureStatus::none) {
      device.streams.refuse_waiting(Status::capture_unsupported);
    }
  });
}

EXPORT int hipStreamBeginCapture(void* stream, int mode) {
  return guarded([&](Device& device) { device.streams.begin_capture(stream, static_cast<CaptureMode>(mode)); });
}

EXPORT int hipStreamEndCapture(void* stream, void** graph) {
  return guarded([&](Device& device) {
    result(graph) = nullptr;
    *graph = device.graphs.add(device.streams.end_capture(stream));
  });
}

EXPORT int hipStreamIsCapturing(void* stream, int* status) {
  return guarded([&](Device& device) { result(status) = static_cast<int>(device.streams.status(stream)); });
}

// Where `nodes` is not null, HIP writes handles there, which are of no use here.
EXPORT int hipGraphGetNodes(void* graph, void** nodes, size_t* count) {
  return guarded([&](Device& device) {
    if (nodes) throw Rejection(Status::invalid_value, "nodes have no handles here");
    result(count) = device.graphs.size(graph);
  });
}

EXPORT int hipGraphInstantiate(void** executable, void* graph, void**, char*, size_t) {
  return guarded([&](Device& device) { result(executable) = device.graphs.instantiate(graph); });
}

EXPORT int hipGraphLaunch(void* executable, void* stream) {
  return guarded([&](Device& device) { device.launch_graph(executable, stream); });
}

EXPORT int hipGraphExecDestroy(void* executable) {
  return guarded([&](Device& device) { device.graphs.destroy_executable(executable); });
}

EXPORT int hipGraphDestroy(void* graph) {
  return guarded([&](Device& device) { device.graphs.destroy(graph); });
}

// Not of HIP: how kernels run from now on. Orders are emulator::Order's: 0 forward, 1 backward, 2 shuffled by `seed`.
// 0 threads are as many as the host has.
EXPORT int standin_set_options(int workgroups, int waves, uint64_t seed, unsigned threads) {
  return guarded([&](Device& device) {
    if (workgroups < 0 || workgroups > 2 || waves < 0 || waves > 1) {
      throw Rejection(Status::invalid_value, "workgroups run in order 0, 1 or 2, waves in order 0 or 1");
    }
    using updp::emulator::Order;
    device.set({static_cast<Order>(workgroups), static_cast<Order>(waves), seed, threads});
  });
}
