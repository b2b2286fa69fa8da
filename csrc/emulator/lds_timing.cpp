#include "lds_timing.h"

#include <algorithm>

namespace updp::emulator {
namespace {

constexpr u32 kBanks = 32;

// Different words a bank, of one group.
class Banks {
 public:
  void add(u32 word) {
    const u32 bank = word % kBanks;
    for (u32 k = 0; k < count_[bank]; k++) {
      if (words_[bank][k] == word) return;
    }
    words_[bank][count_[bank]++] = word;
    busiest_ = std::max<u32>(busiest_, count_[bank]);
    total_++;
  }
  u32 cycles() const { return busiest_; }
  u32 least() const { return (total_ + kBanks - 1) / kBanks; }

 private:
  u8 count_[kBanks] = {};
  u32 words_[kBanks][96];  // at most 32 lanes of 3 words or 16 lanes of 5, where they are not aligned
  u32 busiest_ = 0, total_ = 0;
};

LdsCycles count_cycles(const u32* addresses, u64 mask, u32 bytes) {
  LdsCycles result{0, 0};
  const int group = bytes > 8 ? 16 : 32;
  for (int begin = 0; begin < kLanes; begin += group) {
    u64 lanes = mask >> begin & ((u64{1} << group) - 1);
    if (!lanes) continue;
    Banks banks;
    for (; lanes; lanes &= lanes - 1) {
      const u32 address = addresses[begin + __builtin_ctzll(lanes)];
      for (u32 word = address / 4; word <= (address + bytes - 1) / 4; word++) banks.add(word);
    }
    result.all += banks.cycles();
    result.conflicts += banks.cycles() - banks.least();
  }
  return result;
}

}  // namespace

LdsCycles LdsTiming::cycles(const u32* addresses, u64 mask, u32 bytes, u32 where) {
  if (mask != ~u64{0}) return count_cycles(addresses, mask, bytes);
  Pattern& last = last_[where / 8 % last_.size()];
  const u32 shift = addresses[0] & ~3u;
  u32 difference = 0;
  for (int l = 0; l < kLanes; l++) difference |= (addresses[l] - shift) ^ last.relative[l];
  if (difference || last.bytes != bytes) {
    last.bytes = bytes;
    for (int l = 0; l < kLanes; l++) last.relative[l] = addresses[l] - shift;
    last.cycles = count_cycles(addresses, mask, bytes);
  }
  return last.cycles;
}

}  // namespace updp::emulator
