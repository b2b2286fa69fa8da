// How many cycles LDS needs for the accesses of a wave.
//
// The model: 32 banks of 4 bytes, one word a bank and cycle. A wave is served in groups of consecutive lanes: halves of
// 32 for accesses of up to 8 bytes, quarters of 16 for 12 and 16 bytes. Within a group equal words are read once (or
// written once); a group takes as many cycles as the busiest bank has different words.
#pragma once

#include <array>

#include "types.h"

namespace updp::emulator {

struct LdsCycles {
  u64 all, conflicts;  // conflicts: those above the least that the same number of words takes
};

class LdsTiming {
 public:
  // `addresses` in bytes, of the lanes in `mask`; `where`: the instruction's address. An instruction's addresses often
  // differ from its last ones only by a shift of whole words, which changes no cycles: those of full waves are
  // remembered.
  LdsCycles cycles(const u32* addresses, u64 mask, u32 bytes, u32 where);

 private:
  struct Pattern {
    u32 relative[kLanes];
    u32 bytes = 0;
    LdsCycles cycles;
  };
  std::array<Pattern, 64> last_;  // by the instruction's address
};

}  // namespace updp::emulator
