// How memory operations move a lane's data between registers and bytes of memory.
#pragma once

#include "lanes.h"

namespace updp::emulator {

template <int count> struct Registers {};  // data of 32-bit registers, as they are

// Where less than 32 bits go to or come from: the whole register (extended by zeros or the sign), or a half of it.
enum class Part { whole, low, high };

template <class T> constexpr int bytes_of = sizeof(T);
template <int count> constexpr int bytes_of<Registers<count>> = 4 * count;

// A lane's data, from memory into registers (rows of 64 lanes) or back.
template <class T, Part part> struct Data {
  static void load(u32* registers, const u8* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    const u32 word = static_cast<u32>(value);
    if constexpr (part == Part::whole) *registers = word;
    else if constexpr (part == Part::low) *registers = (*registers & 0xffff0000) | (word & 0xffff);
    else *registers = (*registers & 0xffff) | word << 16;
  }
  static void store(const u32* registers, u8* to) {
    const T value = static_cast<T>(part == Part::high ? *registers >> 16 : *registers);
    std::memcpy(to, &value, sizeof value);
  }
};
template <int count, Part part> struct Data<Registers<count>, part> {
  static void load(u32* registers, const u8* from) {
    for (int k = 0; k < count; k++) std::memcpy(registers + k * kLanes, from + 4 * k, 4);
  }
  static void store(const u32* registers, u8* to) {
    for (int k = 0; k < count; k++) std::memcpy(to + 4 * k, registers + k * kLanes, 4);
  }
};

template <class T> T read_register(const u32* registers) { return Source<T>{registers}[0]; }
template <class T> void write_register(u32* registers, T value) {
  if constexpr (sizeof(T) == 8) {
    registers[0] = static_cast<u32>(bits<u64>(value));
    registers[kLanes] = static_cast<u32>(bits<u64>(value) >> 32);
  } else {
    registers[0] = bits<u32>(value);
  }
}

// Replaces what memory holds by meaning(old), atomically among the host's threads; returns what it held.
template <class T, class Meaning> T update(u8* memory, Meaning meaning) {
  using Word = std::conditional_t<sizeof(T) == 8, u64, u32>;
  Word* word = reinterpret_cast<Word*>(memory);
  Word old = __atomic_load_n(word, __ATOMIC_RELAXED);
  for (;;) {
    const Word updated = bits<Word>(static_cast<T>(meaning(bits<T>(old))));
    if (__atomic_compare_exchange_n(word, &old, updated, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) return bits<T>(old);
  }
}

// The lanes of a mask, in order.
template <class Action> void for_each_lane(u64 mask, Action action) {
  if (mask == ~u64{0}) {
    for (int l = 0; l < kLanes; l++) action(l);
    return;
  }
  for (; mask; mask &= mask - 1) action(__builtin_ctzll(mask));
}

}  // namespace updp::emulator
