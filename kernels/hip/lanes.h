// Sums over neighbouring lanes.
#pragma once

#include "device.h"

#if defined(__HIP__)

// `value` of the lane that `CONTROL` names for each: DPP's numbers, of lanes within 16.
template <int CONTROL>
DEVICE float neighbours(float value) {
  const int bits = __builtin_bit_cast(int, value);
  return __builtin_bit_cast(float, __builtin_amdgcn_update_dpp(bits, bits, CONTROL, 0xf, 0xf, true));
}

// The sum of `value` over each LANES neighbouring lanes, a power of two up to a wave, in all of them.
template <int LANES>
DEVICE float sum_of_lanes(float value) {
  constexpr int SWAP_ONE = 0xb1, SWAP_TWO = 0x4e, MIRROR_8 = 0x141, MIRROR_16 = 0x140, SWAP_16 = 0x401f;
  if constexpr (LANES >= 2) value += neighbours<SWAP_ONE>(value);
  if constexpr (LANES >= 4) value += neighbours<SWAP_TWO>(value);
  // Half of these lanes have the same by now, so which of the other half is taken does not matter.
  if constexpr (LANES >= 8) value += neighbours<MIRROR_8>(value);
  if constexpr (LANES >= 16) value += neighbours<MIRROR_16>(value);
  if constexpr (LANES >= 32) {
    const int bits = __builtin_bit_cast(int, value);
    value += __builtin_bit_cast(float, __builtin_amdgcn_ds_swizzle(bits, SWAP_16));
  }
  if constexpr (LANES == 64) {
    const int bits = __builtin_bit_cast(int, value);
    value = __builtin_bit_cast(float, __builtin_amdgcn_readlane(bits, 0)) +
            __builtin_bit_cast(float, __builtin_amdgcn_readlane(bits, 32));
  }
  return value;
}

#else

template <int LANES>
DEVICE float sum_of_lanes(float value) {
#pragma unroll
  for (int apart = 1; apart < LANES; apart *= 2) value += __shfl_xor_sync(0xffffffff, value, apart);
  return value;
}

#endif
