// Global, flat, scratch and buffer operations. Their table is memory.def.

#include "data.h"
#include "operations.h"
#include "wave.h"

namespace updp::emulator {
namespace {

// Where the lanes' data lie on the host.
struct Places {
  u8* memory[kLanes];
  u64 lanes = 0;     // those that access memory
  u64 dropped = 0;   // those beyond a buffer's end: loads give 0, stores do nothing
};

// Counts the lines of 64 bytes that the lanes touch, each once, and those that their compute unit's L1 does not hold;
// stores go through it.
void count_lines(Workgroup& group, const u64* addresses, u64 lanes, u32 bytes, bool write) {
  u64 lines[2 * kLanes];
  int count = 0;
  bool ascending = true;
  const auto touch = [&](u64 line) {
    if (count && lines[count - 1] == line) return;
    ascending &= count == 0 || lines[count - 1] < line;
    lines[count++] = line;
  };
  for_each_lane(lanes, [&](int l) {
    touch(addresses[l] / FirstLevel::kLine);
    touch((addresses[l] + bytes - 1) / FirstLevel::kLine);
  });
  if (!ascending) {
    std::sort(lines, lines + count);
    count = std::unique(lines, lines + count) - lines;
  }
  group.counters.lines += count;
  group.counters.second_level_lines += std::count_if(
      lines, lines + count, [&](u64 line) { return write || !group.first_level.touch(line); });
}

// Checks the lanes' addresses in the host's memory and counts what they move.
void locate_global(Wave& wave, const Instruction& i, const u64* addresses, u64 lanes, bool write, Places& places) {
  if (!lanes) return;
  const u32 bytes = i.operation->bytes;
  Workgroup& group = *wave.group;
  u64 first = ~u64{0}, last = 0;
  for_each_lane(lanes, [&](int l) {
    first = std::min(first, addresses[l]);
    last = std::max(last, addresses[l]);
    places.memory[l] = reinterpret_cast<u8*>(addresses[l]);
  });
  if (!group.memory.allows(first, last + bytes, write)) {
    for_each_lane(lanes, [&](int l) {
      if (group.memory.allows(addresses[l], addresses[l] + bytes, write)) return;
      fail(l, "%s", group.memory.complaint(addresses[l], bytes, write).c_str());
    });
  }
  places.lanes |= lanes;
  const u64 moved = u64{bytes} * __builtin_popcountll(lanes);
  if (i.operation->access != Access::store) group.counters.loaded_bytes += moved;
  if (write) group.counters.stored_bytes += moved;
  count_lines(group, addresses, lanes, bytes, write);
}

void locate_scratch(Wave& wave, const Instruction& i, Places& places) {
  const u64 base = (i.sources[2] ? wave.read(i.sources[2]) : 0) + static_cast<u64>(i64{i.offset});
  const u32* offsets = i.sources[0].kind == Operand::Kind::vector ? wave.vectors[i.sources[0].index] : nullptr;
  places.lanes = wave.exec();
  for_each_lane(places.lanes, [&](int l) {
    places.memory[l] = wave.scratch_at(base + (offsets ? offsets[l] : 0), i.operation->bytes, l);
  });
}

void locate_flat(Wave& wave, const Instruction& i, bool write, Places& places) {
  const u64 exec = wave.exec();
  u64 addresses[kLanes];
  const u32* low = wave.vectors[i.sources[0].index];
  const u64 offset = static_cast<u64>(i64{i.offset});
  if (i.sources[2]) {
    const u64 base = wave.read(i.sources[2]) + offset;
    for (int l = 0; l < kLanes; l++) addresses[l] = base + low[l];
  } else {
    const u32* high = low + kLanes;
    for (int l = 0; l < kLanes; l++) addresses[l] = join(low[l], high[l]) + offset;
  }
  u64 global = exec;
  if (i.space == Space::flat) {
    for_each_lane(exec, [&](int l) {
      const u32 aperture = addresses[l] >> 32 & 0xff000000;
      if (aperture == kSharedBase)
        places.memory[l] = wave.group->lds_at(static_cast<u32>(addresses[l]), i.operation->bytes, l);
      else if (aperture == kPrivateBase)
        places.memory[l] = wave.scratch_at(static_cast<u32>(addresses[l]), i.operation->bytes, l);
      else return;
      global &= ~(u64{1} << l);
    });
    places.lanes = exec & ~global;
  }
  locate_global(wave, i, addresses, global, write, places);
}

void locate_buffer(Wave& wave, const Instruction& i, bool write, Places& places) {
  if (i.to_lds) fail(-1, "buffer loads into LDS are not implemented");
  const u64 exec = wave.exec();
  const u32* descriptor = wave.scalars + i.sources[2].index;
  const u32 scalar_offset = static_cast<u32>(wave.read(i.sources[3])), bytes = i.operation->bytes;
  const u32 *indices = nullptr, *offsets = nullptr;
  if (i.sources[0].kind == Operand::Kind::vector) {
    const u32* registers = wave.vectors[i.sources[0].index];
    if (i.index_enable) indices = registers;
    if (i.offset_enable) offsets = registers + (i.index_enable ? kLanes : 0);
  }
  const auto offset_of = [&](int l) { return static_cast<u32>(i.offset) + (offsets ? offsets[l] : 0); };

  constexpr u32 kAddThreadId = 1u << 23, kSwizzle = 1u << 31;  // of words 3 and 1
  if (descriptor[3] & kAddThreadId) {  // private memory, interleaved by lane on hardware
    places.lanes = exec;
    const u32 frame = scalar_offset / kLanes;  // the scalar offset counts the bytes of all lanes
    for_each_lane(exec, [&](int l) { places.memory[l] = wave.scratch_at(frame + offset_of(l), bytes, l); });
    return;
  }
  if (descriptor[1] & kSwizzle) fail(-1, "swizzled buffers are not implemented");
  const u64 base = join(descriptor[0], descriptor[1] & 0xffff);
  const u32 stride = descriptor[1] >> 16 & 0x3fff, records = descriptor[2];
  u64 addresses[kLanes], inside = 0;
  for_each_lane(exec, [&](int l) {
    const u32 index = indices ? indices[l] : 0;
    const u64 vector_offset = u64{static_cast<u32>(i.offset)} + (offsets ? offsets[l] : 0);
    const u64 offset = vector_offset + u64{index} * stride;
    const bool fits = stride == 0 ? offset + bytes <= records
                      : !indices || (index < records && static_cast<u32>(vector_offset) + bytes <= stride);
    addresses[l] = base + offset + scalar_offset;
    inside |= u64{fits} << l;
  });
  places.dropped = exec & ~inside;
  locate_global(wave, i, addresses, inside, write, places);
}

void locate(Wave& wave, const Instruction& i, bool write, Places& places) {
  if (i.operation->encoding == Encoding::mubuf) locate_buffer(wave, i, write, places);
  else if (i.space == Space::scratch) locate_scratch(wave, i, places);
  else locate_flat(wave, i, write, places);
}

void issue(Wave& wave, const Instruction& i) {
  const bool flat = i.operation->encoding == Encoding::flat && i.space == Space::flat;
  if (flat) wave.waits.issue_flat(i, i.result);
  else wave.waits.issue_vector(i, i.result);
}

template <class T, Part part> void execute_load(Wave& wave, const Instruction& i) {
  Places places;
  locate(wave, i, false, places);
  u32* target = wave.vectors[i.result.index];
  for_each_lane(places.lanes, [&](int l) { Data<T, part>::load(target + l, places.memory[l]); });
  constexpr u8 zeros[16] = {};
  for_each_lane(places.dropped, [&](int l) { Data<T, part>::load(target + l, zeros); });
  issue(wave, i);
}

template <class T, Part part> void execute_store(Wave& wave, const Instruction& i) {
  Places places;
  locate(wave, i, true, places);
  const u32* source = wave.vectors[i.sources[1].index];
  for_each_lane(places.lanes, [&](int l) { Data<T, part>::store(source + l, places.memory[l]); });
  issue(wave, i);
}

// The operand is followed by what is compared, where something is.
template <class Meaning, class T> void execute_atomic(Wave& wave, const Instruction& i) {
  Places places;
  locate(wave, i, true, places);
  const u32* source = wave.vectors[i.sources[1].index];
  for_each_lane(places.lanes, [&](int l) {
    if (reinterpret_cast<u64>(places.memory[l]) % sizeof(T)) fail(l, "the address of an atomic is not aligned");
    const T x = read_register<T>(source + l);
    T compare{};
    if (Meaning::compares) compare = read_register<T>(source + l + kLanes * (sizeof(T) / 4));
    const T old = update<T>(places.memory[l], [&](T held) { return Meaning::apply(held, x, compare); });
    if (i.result) write_register<T>(wave.vectors[i.result.index] + l, old);
  });
  if (i.result) for_each_lane(places.dropped, [&](int l) { write_register<T>(wave.vectors[i.result.index] + l, T{}); });
  issue(wave, i);
}

void execute_cache(Wave&, const Instruction&) {}

#define LOAD(number, name, T, part)
#define STORE(number, name, T, part)
#define CACHE(number, name)
#define ATOMIC_MEANING(name, T, comparing, expression)                                                      \
  struct name {                                                                                             \
    static constexpr bool compares = comparing;                                                             \
    static T apply([[maybe_unused]] T old, T x, [[maybe_unused]] T compare) { return expression; }          \
  };
#define ATOMIC(number, name, T, expression) ATOMIC_MEANING(name, T, false, expression)
#define ATOMIC_COMPARE(number, name, T, expression) ATOMIC_MEANING(name, T, true, expression)
#define ATOMIC_SILENT ATOMIC
#include "memory.def"
#undef LOAD
#undef STORE
#undef CACHE
#undef ATOMIC
#undef ATOMIC_COMPARE
#undef ATOMIC_SILENT

constexpr Operation row(const char* name, Encoding encoding, u16 number, Access access, u8 bytes, bool comparing,
                        void (*execute)(Wave&, const Instruction&)) {
  Operation operation{name, encoding, number, Kind::global, Type::none, {}, execute};
  operation.access = access;
  operation.bytes = bytes;
  if (comparing) operation.sources[2] = Type::u32;
  return operation;
}

#define BOTH(number, name, access, bytes, comparing, execute)                           \
  row(#name, Encoding::flat, number, Access::access, bytes, comparing, execute),        \
  row(#name, Encoding::mubuf, number, Access::access, bytes, comparing, execute),
#define LOAD(number, name, T, part) BOTH(number, name, load, bytes_of<T>, false, (execute_load<T, Part::part>))
#define STORE(number, name, T, part) BOTH(number, name, store, bytes_of<T>, false, (execute_store<T, Part::part>))
#define ATOMIC(number, name, T, expression) \
  BOTH(number, name, atomic, sizeof(T), false, (execute_atomic<struct name, T>))
#define ATOMIC_COMPARE(number, name, T, expression) \
  BOTH(number, name, atomic, sizeof(T), true, (execute_atomic<struct name, T>))
#define ATOMIC_SILENT ATOMIC
#define CACHE(number, name) row(#name, Encoding::mubuf, number, Access::none, 0, false, execute_cache),

const Operation kRows[] = {
#include "memory.def"
};

}  // namespace

Rows global_memory_rows() { return {std::begin(kRows), std::end(kRows)}; }

}  // namespace updp::emulator
