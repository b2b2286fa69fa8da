// The host's memory that a launch may touch.
#pragma once

#include <string>
#include <vector>

#include "emulator.h"
#include "types.h"

namespace updp::emulator {

class Memory {
 public:
  struct Named : Range {
    std::string name;  // as faults call it: "memory range 2", "the argument segment"
  };

  explicit Memory(std::vector<Named> ranges) : ranges_(std::move(ranges)) {}

  // Whether all of [begin, end) may be read (or written).
  bool allows(u64 begin, u64 end, bool write) {
    Named*& last = last_[write];
    if (last && last->begin <= begin && end <= last->end && begin <= end) return true;
    for (Named& range : ranges_) {
      if (range.begin <= begin && end <= range.end && begin <= end && (range.writable || !write)) {
        last = &range;
        return true;
      }
    }
    return false;
  }

  // What is wrong with an access that is not allowed: "reads 16 bytes at 0x..., 8 bytes past the end of ...".
  std::string complaint(u64 address, u64 bytes, bool write) const;

 private:
  std::vector<Named> ranges_;
  Named* last_[2] = {nullptr, nullptr};
};

}  // namespace updp::emulator
