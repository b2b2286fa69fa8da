// A driver that records what it is asked for: libamdhip64, or with -DCUDA libcuda, without a GPU.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

std::mutex mutex;
std::string calls;
uint64_t words[64];
unsigned shape[7];
void* launched_stream;
std::atomic<int> launches{0}, status{0}, gate{0}, expected{0};
int modules = 0;

int record(const char* call) {
  const std::lock_guard lock(mutex);
  calls += calls.empty() ? call : std::string(" ") + call;
  return 0;
}

}  // namespace

EXPORT int recorder_launches() { return launches; }
EXPORT int recorder_modules() { return modules; }
EXPORT void recorder_refuse(int with) { status = with; }
// How many arguments the next launches have.
EXPORT void recorder_expect(int arguments) { expected = arguments; }
EXPORT uint64_t recorder_word(int index) { return words[index]; }
EXPORT unsigned recorder_shape(int index) { return shape[index]; }
EXPORT void* recorder_stream() { return launched_stream; }

// The calls since the last time, separated by spaces.
EXPORT const char* recorder_calls() {
  static std::string taken;
  const std::lock_guard lock(mutex);
  taken.swap(calls);
  calls.clear();
  return taken.c_str();
}

// Shut: every launch waits until it is opened, 20 seconds at most; those that waited in vain fail.
EXPORT void recorder_gate(int shut) { gate = shut; }

static int load(void** module, const void* image) {
  ++modules;
  *module = const_cast<void*>(image);
  return record("load");
}

static int unload(void*) {
  --modules;
  std::fprintf(stderr, "unloaded\n");
  return record("unload");
}

static int launch(void*, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned lds,
                  void* stream, void** parameters, void**) {
  for (int waited = 0; gate && waited < 20000; ++waited) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (gate) return 702;
  ++launches;
  const std::lock_guard lock(mutex);
  const unsigned now[] = {gx, gy, gz, bx, by, bz, lds};
  std::memcpy(shape, now, sizeof shape);
  launched_stream = stream;
  // Arguments have at most 8 bytes here; those behind a shorter one are of no interest.
  for (int i = 0; i < expected; ++i) std::memcpy(&words[i], parameters[i], 8);
  calls += calls.empty() ? "launch" : " launch";
  return status;
}

static int function(void** function, void*, const char* name) {
  *function = const_cast<char*>(name);
  record("function");
  return std::strcmp(name, "missing") == 0 ? 500 : 0;
}

static int allocate(void** address, size_t bytes) {
  *address = reinterpret_cast<void*>(0x1000);
  record("malloc");
  return bytes > 1 << 20 ? 2 : 0;
}

#ifdef CUDA

static thread_local void* context = nullptr;

static int parameter(void*, size_t index, size_t* offset, size_t* bytes) {
  const size_t offsets[] = {0, 8, 16, 20}, sizes[] = {8, 8, 4, 4};
  if (index >= 4) return 1;
  *offset = offsets[index];
  *bytes = sizes[index];
  return 0;
}

EXPORT void* recorder_context() { return context; }
EXPORT int cuInit(unsigned) { return 0; }
EXPORT int cuModuleLoadData(void** module, const void* image) { return load(module, image); }
EXPORT int cuModuleUnload(void* module) { return unload(module); }
EXPORT int cuModuleGetFunction(void** to, void* module, const char* name) { return function(to, module, name); }
EXPORT int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned lds, void* stream, void** parameters, void** extra) {
  return context ? launch(f, gx, gy, gz, bx, by, bz, lds, stream, parameters, extra) : 201;
}
EXPORT int cuMemAlloc_v2(void** address, size_t bytes) { return context ? allocate(address, bytes) : 201; }
EXPORT int cuMemFree_v2(void*) { return record("free"); }
EXPORT int cuMemcpyHtoD_v2(void*, const void*, size_t) { return record("copy"); }
EXPORT int cuMemcpyDtoH_v2(void*, const void*, size_t) { return record("copy"); }
EXPORT int cuMemHostRegister_v2(void*, size_t, unsigned) { return record("register"); }
EXPORT int cuMemHostUnregister(void*) { return record("unregister"); }
EXPORT int cuCtxSynchronize() { return record("synchronize"); }
EXPORT int cuGetErrorString(int error, const char** text) {
  *text = error == 201 ? "invalid device context" : "the recorder's text";
  return 0;
}
EXPORT int cuCtxGetCurrent(void** current) {
  *current = context;
  return 0;
}
EXPORT int cuCtxSetCurrent(void* now) {
  context = now;
  return record("set_context");
}
EXPORT int cuDevicePrimaryCtxRetain(void** retained, int) {
  *retained = &context;
  return record("retain_context");
}
EXPORT int cuCtxGetDevice(int* device) {
  *device = 0;
  return 0;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 97 ? 232448 : -1;
  return 0;
}
EXPORT int cuFuncGetAttribute(int* value, int attribute, void*) {
  *value = attribute == 0 ? 512 : attribute == 1 ? 1024 : -1;
  return 0;
}
EXPORT int cuFuncSetAttribute(void*, int attribute, int value) {
  return attribute == 8 && value == 232448 - 1024 ? record("set_shared") : 1;
}
EXPORT int cuFuncGetParamInfo(void* f, size_t index, size_t* offset, size_t* bytes) {
  return parameter(f, index, offset, bytes);
}

#else

EXPORT int hipInit(unsigned) { return 0; }
EXPORT int hipModuleLoadData(void** module, const void* image) { return load(module, image); }
EXPORT int hipModuleUnload(void* module) { return unload(module); }
EXPORT int hipModuleGetFunction(void** to, void* module, const char* name) { return function(to, module, name); }
EXPORT int hipModuleLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                                 unsigned lds, void* stream, void** parameters, void** extra) {
  return launch(f, gx, gy, gz, bx, by, bz, lds, stream, parameters, extra);
}
EXPORT int hipMalloc(void** address, size_t bytes) { return allocate(address, bytes); }
EXPORT int hipFree(void*) { return record("free"); }
EXPORT int hipMemcpyHtoD(void*, const void*, size_t) { return record("copy"); }
EXPORT int hipMemcpyDtoH(void*, const void*, size_t) { return record("copy"); }
EXPORT int hipHostRegister(void*, size_t, unsigned) { return record("register"); }
EXPORT int hipHostUnregister(void*) { return record("unregister"); }
EXPORT int hipDeviceSynchronize() { return record("synchronize"); }
EXPORT const char* hipGetErrorString(int) { return "the recorder's text"; }

#endif
