// The records of an AMDGPU code object as they lie in the file: System V ABI (ELF64), LLVM's AMDGPU usage guide
// (relocations, notes, kernel descriptor), clang-offload-bundler's documentation. All little-endian.
#pragma once

#include <cstdint>

namespace updp::elf {

struct FileHeader {
  uint8_t ident[16];
  uint16_t type, machine;
  uint32_t version;
  uint64_t entry, segments_offset, sections_offset;
  uint32_t flags;
  uint16_t header_bytes, segment_bytes, segment_count, section_bytes, section_count, names_section;
};

struct ProgramHeader {
  uint32_t type, flags;
  uint64_t offset, address, physical_address, file_bytes, memory_bytes, alignment;
};

struct SectionHeader {
  uint32_t name, type;
  uint64_t flags, address, offset, bytes;
  uint32_t link, info;
  uint64_t alignment, entry_bytes;
};

struct Symbol {
  uint32_t name;
  uint8_t info, other;
  uint16_t section;  // 0: not defined here
  uint64_t value, bytes;
};

struct RelocationEntry {
  uint64_t offset;
  uint32_t type, symbol;
  uint64_t addend;
};

struct NoteHeader {
  uint32_t name_bytes, content_bytes, type;
};

struct KernelDescriptor {
  uint32_t lds_bytes, scratch_bytes, kernarg_bytes, reserved_12;
  int64_t entry;  // relative to the descriptor
  uint8_t reserved_24[20];
  uint32_t rsrc3, rsrc1, rsrc2;
  uint16_t properties, reserved_58;
  uint32_t reserved_60;
};

struct BundleEntry {
  uint64_t offset, bytes, target_bytes;  // the target's name follows
};

static_assert(sizeof(FileHeader) == 64 && sizeof(ProgramHeader) == 56 && sizeof(SectionHeader) == 64);
static_assert(sizeof(Symbol) == 24 && sizeof(RelocationEntry) == 24 && sizeof(NoteHeader) == 12);
static_assert(sizeof(KernelDescriptor) == 64 && sizeof(BundleEntry) == 24);

constexpr uint8_t kMagic[] = {0x7f, 'E', 'L', 'F', 2, 1};      // 64 bits, little-endian
constexpr uint16_t kAmdGpu = 224;                              // machine
constexpr uint8_t kAmdHsa = 64;                                // ident[7]
constexpr uint32_t kLoad = 1, kNote = 4;                       // types of segments
constexpr uint32_t kExecutable = 1, kWritable = 2;             // flags of segments
constexpr uint32_t kRela = 4, kRel = 9, kDynamicSymbols = 11;  // types of sections
constexpr uint32_t kAbsolute64 = 3, kRelative64 = 13;          // types of relocations
constexpr uint32_t kMetadataNote = 32;                         // type of a note

}  // namespace updp::elf
