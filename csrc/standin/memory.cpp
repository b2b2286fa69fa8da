#include "memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>

#include "status.h"

namespace updp::standin {
namespace {

constexpr size_t kDeviceBytes = size_t{32} << 30;
constexpr size_t kAlignment = 256;

std::string hex(const void* address) {
  char text[24];
  std::snprintf(text, sizeof text, "%p", address);
  return text;
}

}  // namespace

void* Memory::allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  void* address = nullptr;
  if (bytes > kDeviceBytes || posix_memalign(&address, kAlignment, bytes) != 0) {
    throw Rejection(Status::out_of_memory, std::to_string(bytes) + " bytes");
  }
  std::memset(address, 0xff, bytes);
  const std::unique_lock exclusive(mutex_);
  blocks_.emplace(key(address), Block{bytes, {static_cast<uint8_t*>(address), std::free}});
  return address;
}

void Memory::free(void* address) {
  if (!address) return;
  const std::unique_lock exclusive(mutex_);
  const auto found = blocks_.find(key(address));
  if (found == blocks_.end() || !found->second.owned) {
    throw Rejection(Status::invalid_value, "no block begins at " + hex(address));
  }
  blocks_.erase(found);
}

void Memory::add_host(void* address, size_t bytes) {
  if (!address || bytes == 0) throw Rejection(Status::invalid_value, "an empty range");
  const std::unique_lock exclusive(mutex_);
  for (const auto& [begin, block] : blocks_) {
    if (begin < key(address) + bytes && key(address) < begin + block.bytes) {
      throw Rejection(Status::host_memory_already_registered, hex(address));
    }
  }
  blocks_.emplace(key(address), Block{bytes, {nullptr, std::free}});
}

void Memory::remove_host(void* address) {
  const std::unique_lock exclusive(mutex_);
  const auto found = blocks_.find(key(address));
  if (found == blocks_.end() || found->second.owned) {
    throw Rejection(Status::host_memory_not_registered, hex(address));
  }
  blocks_.erase(found);
}

void Memory::check(const void* address, size_t bytes) const {
  if (bytes == 0) return;
  const auto next = blocks_.upper_bound(key(address));
  if (next == blocks_.begin()) throw Rejection(Status::invalid_value, "no block holds " + hex(address));
  const auto& [begin, block] = *std::prev(next);
  const uint64_t offset = key(address) - begin;
  if (offset >= block.bytes) throw Rejection(Status::invalid_value, "no block holds " + hex(address));
  if (bytes > block.bytes - offset) {
    throw Rejection(Status::invalid_value, std::to_string(bytes) + " bytes from byte " + std::to_string(offset) +
                                               " on of a block of " + std::to_string(block.bytes));
  }
}

std::vector<emulator::Range> Memory::ranges() const {
  std::vector<emulator::Range> ranges;
  for (const auto& [begin, block] : blocks_) ranges.push_back({begin, begin + block.bytes, true});
  return ranges;
}

}  // namespace updp::standin
