// LDS operations, and those that move lanes through LDS's crossbar. Their table is lds.def.

#include "data.h"
#include "operations.h"
#include "wave.h"

namespace updp::emulator {
namespace {

// Checks the lanes' accesses at address + offset, counts them, and returns the mask of lanes.
u64 locate(Wave& wave, const Instruction& i, i32 offset, u32 bytes, u8** places) {
  const u64 exec = wave.exec();
  const u32* addresses = wave.vectors[i.sources[0].index];
  Workgroup& group = *wave.group;
  u32 absolute[kLanes];
  for_each_lane(exec, [&](int l) {
    places[l] = group.lds_at(u64{addresses[l]} + static_cast<u32>(offset), bytes, l);
    absolute[l] = addresses[l] + static_cast<u32>(offset);
  });
  const LdsCycles cycles = group.lds_timing.cycles(absolute, exec, bytes, i.address);
  group.counters.lds_bytes += u64{bytes} * __builtin_popcountll(exec);
  group.counters.lds_cycles += cycles.all;
  group.counters.lds_conflict_cycles += cycles.conflicts;
  return exec;
}

template <class T, Part part> void execute_read(Wave& wave, const Instruction& i) {
  u8* places[kLanes];
  const u64 lanes = locate(wave, i, i.offset, bytes_of<T>, places);
  u32* target = wave.vectors[i.result.index];
  for_each_lane(lanes, [&](int l) { Data<T, part>::load(target + l, places[l]); });
  wave.waits.issue_lds(i, i.result);
}

template <class T, Part part> void execute_write(Wave& wave, const Instruction& i) {
  u8* places[kLanes];
  const u64 lanes = locate(wave, i, i.offset, bytes_of<T>, places);
  const u32* source = wave.vectors[i.sources[1].index];
  for_each_lane(lanes, [&](int l) { Data<T, part>::store(source + l, places[l]); });
  wave.waits.issue_lds(i, {});
}

template <class T> void execute_read2(Wave& wave, const Instruction& i) {
  u8 *first[kLanes], *second[kLanes];
  const u64 lanes = locate(wave, i, i.offset, bytes_of<T>, first);
  locate(wave, i, i.offset1, bytes_of<T>, second);
  u32* target = wave.vectors[i.result.index];
  for_each_lane(lanes, [&](int l) {  // the address may be one of the targets: it has been read
    Data<T, Part::whole>::load(target + l, first[l]);
    Data<T, Part::whole>::load(target + l + kLanes * (bytes_of<T> / 4), second[l]);
  });
  wave.waits.issue_lds(i, i.result);
}

template <class T> void execute_write2(Wave& wave, const Instruction& i) {
  u8 *first[kLanes], *second[kLanes];
  const u64 lanes = locate(wave, i, i.offset, bytes_of<T>, first);
  locate(wave, i, i.offset1, bytes_of<T>, second);
  const u32 *x = wave.vectors[i.sources[1].index], *y = wave.vectors[i.sources[2].index];
  for_each_lane(lanes, [&](int l) {
    Data<T, Part::whole>::store(x + l, first[l]);
    Data<T, Part::whole>::store(y + l, second[l]);
  });
  wave.waits.issue_lds(i, {});
}

template <class Meaning, class T> void execute_atomic(Wave& wave, const Instruction& i) {
  u8* places[kLanes];
  const u64 lanes = locate(wave, i, i.offset, sizeof(T), places);
  const u32 *first = wave.vectors[i.sources[1].index], *second = wave.vectors[i.sources[2].index];
  for_each_lane(lanes, [&](int l) {
    if ((places[l] - wave.group->lds.data()) % sizeof(T)) fail(l, "the address of an atomic is not aligned");
    const T x = read_register<T>(first + l), y = i.sources[2] ? read_register<T>(second + l) : T{};
    T old;
    std::memcpy(&old, places[l], sizeof old);
    const T updated = Meaning::apply(old, x, y);
    std::memcpy(places[l], &updated, sizeof updated);
    if (i.result) write_register<T>(wave.vectors[i.result.index] + l, old);
  });
  wave.waits.issue_lds(i, i.result);
}

// Between lanes, by way of LDS's crossbar: what comes from an inactive lane is 0.
void exchange(Wave& wave, const Instruction& i, const u32* values) {
  u32* target = wave.vectors[i.result.index];
  for_each_lane(wave.exec(), [&](int l) { target[l] = values[l]; });
  wave.waits.issue_lds(i, i.result);
}

void execute_ds_bpermute_b32(Wave& wave, const Instruction& i) {
  const u32 *places = wave.vectors[i.sources[0].index], *source = wave.vectors[i.sources[1].index];
  u32 values[kLanes];
  for (int l = 0; l < kLanes; l++) {
    const u32 from = (places[l] + static_cast<u32>(i.offset)) / 4 % kLanes;
    values[l] = wave.exec() >> from & 1 ? source[from] : 0;
  }
  exchange(wave, i, values);
}

void execute_ds_permute_b32(Wave& wave, const Instruction& i) {
  const u32 *places = wave.vectors[i.sources[0].index], *source = wave.vectors[i.sources[1].index];
  u32 values[kLanes] = {};
  for_each_lane(wave.exec(), [&](int l) { values[(places[l] + static_cast<u32>(i.offset)) / 4 % kLanes] = source[l]; });
  exchange(wave, i, values);
}

void execute_ds_swizzle_b32(Wave& wave, const Instruction& i) {
  const u32* source = wave.vectors[i.sources[0].index];
  const int pattern = i.offset, keep = pattern & 31, set = pattern >> 5 & 31, flip = pattern >> 10 & 31;
  u32 values[kLanes];
  for (int l = 0; l < kLanes; l++) {
    const bool quads = pattern & 0x8000;
    const int from = quads ? (l & ~3) | (pattern >> 2 * (l & 3) & 3) : (l & 32) | (((l & 31 & keep) | set) ^ flip);
    values[l] = wave.exec() >> from & 1 ? source[from] : 0;
  }
  exchange(wave, i, values);
}

#define LDS_READ(number, name, T, part)
#define LDS_WRITE(number, name, T, part)
#define LDS_READ2(number, name, T, scale)
#define LDS_WRITE2(number, name, T, scale)
#define LDS_EXCHANGE(number, name, T)
#define LANES(number, name, data)
#define LDS_ATOMIC(number, verb, type, T, expression)                                          \
  struct lds_##number {                                                                        \
    static T apply(T old, T x, [[maybe_unused]] T y) { return static_cast<T>(expression); }    \
  };
#define LDS_ATOMIC2 LDS_ATOMIC
#include "lds.def"
#undef LDS_READ
#undef LDS_WRITE
#undef LDS_READ2
#undef LDS_WRITE2
#undef LDS_EXCHANGE
#undef LANES
#undef LDS_ATOMIC
#undef LDS_ATOMIC2

template <class T> struct exchanged {
  static T apply(T, T x, T) { return x; }
};

constexpr Operation row(const char* name, u16 number, Access access, u8 bytes, int data, bool returns,
                        void (*execute)(Wave&, const Instruction&)) {
  Operation operation{name, Encoding::ds, number, Kind::lds, returns ? Type::u32 : Type::none, {Type::u32}, execute};
  if (data > 0) operation.sources[1] = Type::u32;
  if (data > 1) operation.sources[2] = Type::u32;
  operation.access = access;
  operation.bytes = bytes;
  return operation;
}
constexpr Operation with_two_addresses(Operation operation, u8 scale) {
  operation.two_addresses = true;
  operation.offset_scale = scale;
  return operation;
}

#define LDS_READ(number, name, T, part) \
  row(#name, number, Access::load, bytes_of<T>, 0, true, execute_read<T, Part::part>),
#define LDS_WRITE(number, name, T, part) \
  row(#name, number, Access::store, bytes_of<T>, 1, false, execute_write<T, Part::part>),
#define LDS_READ2(number, name, T, scale) \
  with_two_addresses(row(#name, number, Access::load, bytes_of<T>, 0, true, execute_read2<T>), scale),
#define LDS_WRITE2(number, name, T, scale) \
  with_two_addresses(row(#name, number, Access::store, bytes_of<T>, 2, false, execute_write2<T>), scale),
#define LDS_ATOMIC_ROWS(number, verb, type, T, data)                                                              \
  row("ds_" #verb #type, number, Access::atomic, sizeof(T), data, false, execute_atomic<struct lds_##number, T>), \
      row("ds_" #verb "_rtn" #type, number + 0x20, Access::atomic, sizeof(T), data, true,                         \
          execute_atomic<struct lds_##number, T>),
#define LDS_ATOMIC(number, verb, type, T, expression) LDS_ATOMIC_ROWS(number, verb, type, T, 1)
#define LDS_ATOMIC2(number, verb, type, T, expression) LDS_ATOMIC_ROWS(number, verb, type, T, 2)
#define LDS_EXCHANGE(number, name, T) \
  row(#name, number, Access::atomic, sizeof(T), 1, true, execute_atomic<exchanged<T>, T>),
#define LANES(number, name, data) \
  row(#name, number, Access::exchange_lanes, 4, type_of<data> != Type::none, true, execute_##name),

using none = void;

const Operation kRows[] = {
#include "lds.def"
};

}  // namespace

Rows lds_rows() { return {std::begin(kRows), std::end(kRows)}; }

}  // namespace updp::emulator
