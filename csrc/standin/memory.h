// The memory of the pretended device: the host's, of which a kernel may touch just live blocks and registered ranges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <shared_mutex>
#include <vector>

#include "../emulator/emulator.h"

namespace updp::standin {

// Calls throw Rejection.
class Memory {
 public:
  // Bytes that are 0xff: NaN in every floating-point format, so that a result nobody wrote shows.
  void* allocate(size_t bytes);
  void free(void* address);
  void add_host(void* address, size_t bytes);
  void remove_host(void* address);

  // Throws unless all bytes belong to one block or registered range. `lock()` is to be held.
  void check(const void* address, size_t bytes) const;
  std::vector<emulator::Range> ranges() const;

  // While it is held, no block comes or goes: for copies and for as long as a kernel runs.
  std::shared_lock<std::shared_mutex> lock() { return std::shared_lock(mutex_); }

 private:
  struct Block {
    size_t bytes;
    std::unique_ptr<uint8_t, void (*)(void*)> owned;  // nullptr for the host's
  };
  using Blocks = std::map<uint64_t, Block>;
  static uint64_t key(const void* address) { return reinterpret_cast<uint64_t>(address); }

  Blocks blocks_;
  std::shared_mutex mutex_;
};

}  // namespace updp::standin
