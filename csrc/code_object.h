// An AMDGPU code object: the ELF file a compiler writes for one GPU architecture, read without trusting it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace updp {

// What is wrong with a file, in a sentence that says what was expected.
struct CodeObjectError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Argument {
  std::string name;        // as in the source; empty where the compiler left it out
  std::string value_kind;  // "by_value", "global_buffer", "hidden_block_count_x", ...
  uint32_t offset;         // bytes from the start of the kernel's argument segment
  uint32_t size;           // bytes

  bool hidden() const { return value_kind.rfind("hidden", 0) == 0; }
};

// One kernel: its metadata note and its kernel descriptor (LLVM's AMDGPU usage guide, "Kernel Descriptor").
struct Kernel {
  std::string name;
  std::vector<Argument> arguments;
  uint32_t kernarg_bytes;         // of the whole argument segment
  uint32_t lds_bytes;             // static; dynamic LDS comes on top
  uint32_t scratch_bytes;         // private memory a lane
  uint32_t vgprs, agprs, sgprs;   // registers a lane, a lane, a wave
  uint32_t vgpr_spills, sgpr_spills;
  uint32_t max_workgroup_size;    // lanes
  uint32_t wavefront_size;
  uint64_t entry;                 // address of the first instruction, relative to the image's base
  uint32_t rsrc1, rsrc2, rsrc3;   // COMPUTE_PGM_RSRC1..3
  uint16_t properties;            // which user SGPRs the kernel wants
};

struct Segment {
  uint64_t address;               // relative to the image's base
  uint64_t memory_bytes;          // at least bytes.size(); the rest is zero
  std::vector<uint8_t> bytes;
  bool writable, executable;
};

// A 64-bit word of the image that holds base + addend once the image has a base.
struct Relocation {
  uint64_t address;
  uint64_t addend;
};

struct CodeObject {
  std::string arch;               // "gfx908"
  std::vector<Kernel> kernels;
  std::vector<Segment> segments;
  std::vector<Relocation> relocations;
  uint64_t image_bytes;           // from the base to the end of the last segment
  uint64_t text_address, text_bytes;

  // Throws CodeObjectError naming the kernels there are.
  const Kernel& kernel(std::string_view name) const;

  // Reads an ELF code object, or picks `arch`'s out of a clang offload bundle. An empty `arch` takes whatever an ELF
  // file holds, or a bundle's only image. Throws CodeObjectError for anything else than a whole, sound code object
  // for `arch`.
  static CodeObject parse(const uint8_t* data, size_t size, std::string_view arch);
};

}  // namespace updp
