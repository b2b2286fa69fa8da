// Launches that a stream under capture records instead of running them, and the graphs that they become.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "modules.h"
#include "status.h"

namespace updp::standin {

// One launch of a kernel, its arguments taken.
struct Launch {
  Function function;
  std::array<uint32_t, 3> grid, block;
  uint32_t dynamic_lds;
  std::vector<uint8_t> arguments;
};
using Launches = std::vector<Launch>;  // in the order they run

enum class CaptureMode { global = 0, thread_local_ = 1, relaxed = 2 };
enum class CaptureStatus { none = 0, active = 1, invalidated = 2 };

// The streams of the device, and what those under capture have recorded. Handles only: whatever is put on another
// stream has ended when the call returns. Calls throw Rejection.
class Streams {
 public:
  void* create();
  void destroy(void* stream);
  // Throws a rejection of status `otherwise` for anything else than a live stream or one of the default streams.
  void check(void* stream, Status otherwise) const;

  void begin_capture(void* stream, CaptureMode mode);
  // What was recorded. Throws where the capture was invalidated, which ends it all the same.
  Launches end_capture(void* stream);
  CaptureStatus status(void* stream) const;
  // Records `launch` and returns true where `stream` is under capture. Throws for a default stream while another one
  // is, and for one that was invalidated.
  bool record(void* stream, const Launch& launch);

  // Of a call that may not be made while a capture goes on, in this thread or, where that is global, anywhere; one
  // that is made all the same invalidates it.
  void refuse_unsafe();
  // The same of calls that wait for the device, whose captures anybody's invalidate.
  void refuse_waiting(Status status);

 private:
  struct Capture {
    CaptureMode mode;
    std::thread::id thread;
    bool valid = true;
    Launches launches;
  };
  struct Stream {
    std::optional<Capture> capture;
  };
  Stream& stream(void* handle, Status otherwise) const;
  bool invalidate(bool (*concerned)(const Capture&));

  mutable std::mutex mutex_;
  std::map<void*, std::unique_ptr<Stream>> streams_;
};

// Recorded and instantiated graphs, behind the handles that a caller holds. Calls throw Rejection.
class Graphs {
 public:
  void* add(Launches launches);
  void* instantiate(void* graph);
  // A copy, since another thread may destroy it while it runs.
  std::shared_ptr<const Launches> launches(void* executable) const;
  size_t size(void* graph) const;
  void destroy(void* graph);
  void destroy_executable(void* executable);

 private:
  using Kept = std::map<const void*, std::shared_ptr<const Launches>>;
  static const std::shared_ptr<const Launches>& find(const Kept& kept, const void* handle, const char* what);

  mutable std::mutex mutex_;
  Kept graphs_, executables_;
};

}  // namespace updp::standin
