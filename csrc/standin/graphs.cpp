#include "graphs.h"

#include <string>
#include <utility>

namespace updp::standin {
namespace {

constexpr auto kNoStream = "no stream, or a destroyed one";

bool is_default(const void* stream) {
  return reinterpret_cast<uintptr_t>(stream) <= 2;  // null, hipStreamLegacy, hipStreamPerThread
}

}  // namespace

void* Streams::create() {
  const std::lock_guard lock(mutex_);
  auto stream = std::make_unique<Stream>();
  void* handle = stream.get();
  streams_.emplace(handle, std::move(stream));
  return handle;
}

void Streams::destroy(void* stream) {
  const std::lock_guard lock(mutex_);
  if (streams_.erase(stream) == 0) throw Rejection(Status::context_is_destroyed, kNoStream);
}

void Streams::check(void* stream, Status otherwise) const {
  if (is_default(stream)) return;
  const std::lock_guard lock(mutex_);
  if (streams_.count(stream) == 0) throw Rejection(otherwise, kNoStream);
}

Streams::Stream& Streams::stream(void* handle, Status otherwise) const {
  const auto found = streams_.find(handle);
  if (found == streams_.end()) throw Rejection(otherwise, kNoStream);
  return *found->second;
}

void Streams::begin_capture(void* handle, CaptureMode mode) {
  if (is_default(handle)) throw Rejection(Status::capture_unsupported, "a default stream is not captured");
  if (mode < CaptureMode::global || mode > CaptureMode::relaxed) {
    throw Rejection(Status::invalid_value, "a mode other than 0, 1 and 2");
  }
  const std::lock_guard lock(mutex_);
  Stream& of = stream(handle, Status::context_is_destroyed);
  if (of.capture) throw Rejection(Status::illegal_state, "the stream is under capture already");
  of.capture = Capture{mode, std::this_thread::get_id(), true, {}};
}

Launches Streams::end_capture(void* handle) {
  if (is_default(handle)) throw Rejection(Status::illegal_state, "a default stream is not captured");
  const std::lock_guard lock(mutex_);
  Stream& of = stream(handle, Status::context_is_destroyed);
  if (!of.capture) throw Rejection(Status::illegal_state, "the stream is not under capture");
  if (of.capture->mode != CaptureMode::relaxed && of.capture->thread != std::this_thread::get_id()) {
    throw Rejection(Status::capture_wrong_thread, "another thread began it");
  }
  Capture ended = std::move(*of.capture);
  of.capture.reset();
  if (!ended.valid) throw Rejection(Status::capture_invalidated, "a call was made that may not be made meanwhile");
  return std::move(ended.launches);
}

CaptureStatus Streams::status(void* handle) const {
  if (is_default(handle)) return CaptureStatus::none;
  const std::lock_guard lock(mutex_);
  const auto& capture = stream(handle, Status::invalid_value).capture;
  if (!capture) return CaptureStatus::none;
  return capture->valid ? CaptureStatus::active : CaptureStatus::invalidated;
}

bool Streams::record(void* handle, const Launch& launch) {
  const std::lock_guard lock(mutex_);
  if (is_default(handle)) {
    if (invalidate([](const Capture&) { return true; })) {
      throw Rejection(Status::capture_implicit, "a launch on a default stream while another one is under capture");
    }
    return false;
  }
  auto& capture = stream(handle, Status::invalid_value).capture;
  if (!capture) return false;
  if (!capture->valid) throw Rejection(Status::capture_invalidated, "an earlier call was not to be captured");
  capture->launches.push_back(launch);
  return true;
}

void Streams::refuse_unsafe() {
  const std::lock_guard lock(mutex_);
  const bool met = invalidate([](const Capture& capture) {
    const bool here = capture.thread == std::this_thread::get_id() && capture.mode != CaptureMode::relaxed;
    return here || capture.mode == CaptureMode::global;
  });
  if (met) throw Rejection(Status::capture_unsupported, "a call that changes the device's memory");
}

void Streams::refuse_waiting(Status status) {
  const std::lock_guard lock(mutex_);
  if (invalidate([](const Capture&) { return true; })) throw Rejection(status, "a call that waits for the device");
}

// Whether there is a capture that is `concerned`; all such are invalid afterwards. The mutex is held.
bool Streams::invalidate(bool (*concerned)(const Capture&)) {
  bool met = false;
  for (auto& [handle, stream] : streams_) {
    if (!stream->capture || !concerned(*stream->capture)) continue;
    stream->capture->valid = false;
    met = true;
  }
  return met;
}

void* Graphs::add(Launches launches) {
  const std::lock_guard lock(mutex_);
  const auto graph = std::make_shared<const Launches>(std::move(launches));
  graphs_.emplace(graph.get(), graph);
  return const_cast<Launches*>(graph.get());
}

void* Graphs::instantiate(void* graph) {
  const std::lock_guard lock(mutex_);
  const auto copy = std::make_shared<const Launches>(*find(graphs_, graph, "graph"));
  executables_.emplace(copy.get(), copy);
  return const_cast<Launches*>(copy.get());
}

std::shared_ptr<const Launches> Graphs::launches(void* executable) const {
  const std::lock_guard lock(mutex_);
  return find(executables_, executable, "executable graph");
}

size_t Graphs::size(void* graph) const {
  const std::lock_guard lock(mutex_);
  return find(graphs_, graph, "graph")->size();
}

void Graphs::destroy(void* graph) {
  const std::lock_guard lock(mutex_);
  find(graphs_, graph, "graph");
  graphs_.erase(graph);
}

void Graphs::destroy_executable(void* executable) {
  const std::lock_guard lock(mutex_);
  find(executables_, executable, "executable graph");
  executables_.erase(executable);
}

const std::shared_ptr<const Launches>& Graphs::find(const Kept& kept, const void* handle, const char* what) {
  const auto found = kept.find(handle);
  if (found == kept.end()) throw Rejection(Status::invalid_value, std::string("no ") + what + ", or a destroyed one");
  return found->second;
}

}  // namespace updp::standin
