// A model of a compute unit's first-level cache: lines of 64 bytes, 4 ways, the least recently used line goes.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "types.h"

namespace updp::emulator {

class FirstLevel {
 public:
  // As many sets as `bytes` holds, rounded down to a power of two; 0: a cache that holds nothing.
  explicit FirstLevel(u32 bytes) {
    const u32 sets = bytes / (kWays * kLine);
    if (sets) sets_.resize(u32{1} << (31 - __builtin_clz(sets)));
    clear();
  }

  static constexpr u32 kLine = 64, kWays = 4;

  // Whether `line` is held; it is afterwards.
  bool touch(u64 line) {
    if (sets_.empty()) return false;
    Set& set = sets_[line % sets_.size()];
    const auto held = std::find(set.begin(), set.end(), line);
    const bool hit = held != set.end();
    std::rotate(set.begin(), hit ? held : set.end() - 1, hit ? held + 1 : set.end());
    set.front() = line;
    return hit;
  }

  void clear() {
    for (Set& set : sets_) set.fill(~u64{0});
  }

 private:
  using Set = std::array<u64, kWays>;  // the most recently used line first
  std::vector<Set> sets_;
};

}  // namespace updp::emulator
