#include "code_object.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "bytes.h"
#include "elf.h"
#include "msgpack.h"

namespace updp {
namespace {

constexpr uint64_t kMaxImageBytes = uint64_t{1} << 30;    // a file of a few bytes must not ask for all memory
constexpr uint64_t kMaxKernargBytes = uint64_t{1} << 16;  // the runtimes allow 4 KiB

// Of EF_AMDGPU_MACH, the lowest byte of an ELF file's flags.
std::string arch_of(uint32_t flags) {
  static const std::map<uint32_t, const char*> names = {
      {0x2c, "gfx900"},  {0x2d, "gfx902"},  {0x2e, "gfx904"},  {0x2f, "gfx906"},  {0x30, "gfx908"},  {0x31, "gfx909"},
      {0x32, "gfx90c"},  {0x33, "gfx1010"}, {0x34, "gfx1011"}, {0x35, "gfx1012"}, {0x36, "gfx1030"}, {0x37, "gfx1031"},
      {0x38, "gfx1032"}, {0x39, "gfx1033"}, {0x3d, "gfx1035"}, {0x3e, "gfx1034"}, {0x3f, "gfx90a"},  {0x40, "gfx940"},
      {0x41, "gfx1100"}, {0x42, "gfx1013"}, {0x43, "gfx1150"}, {0x44, "gfx1103"}, {0x45, "gfx1036"}, {0x46, "gfx1101"},
      {0x47, "gfx1102"}, {0x48, "gfx1200"}, {0x4a, "gfx1151"}, {0x4b, "gfx941"},  {0x4c, "gfx942"},  {0x4e, "gfx1201"},
      {0x4f, "gfx950"},
  };
  const auto found = names.find(flags & 0xff);
  if (found == names.end()) throw CodeObjectError("a code object for an unknown GPU, " + std::to_string(flags & 0xff));
  return found->second;
}

// "gfx908" of the target "hipv4-amdgcn-amd-amdhsa--gfx908:sramecc+:xnack-", or of its end "gfx908:sramecc+:xnack-".
std::string_view processor(std::string_view target) {
  const size_t dashes = target.rfind("--");
  if (dashes != std::string_view::npos) target.remove_prefix(dashes + 2);
  return target.substr(0, target.find(':'));
}

// The image for `arch` of a clang offload bundle; any other file as it is.
Bytes unbundle(Bytes file, std::string_view arch) {
  constexpr std::string_view magic = "__CLANG_OFFLOAD_BUNDLE__";
  constexpr auto what = "the header of the offload bundle";
  if (file.starts_with("CCOB")) throw CodeObjectError("a compressed offload bundle; build with --no-offload-compress");
  if (!file.starts_with(magic)) return file;
  std::vector<Bytes> images;
  std::string targets;
  const auto count = file.read<uint64_t>(magic.size(), what);
  uint64_t offset = magic.size() + sizeof(count);
  for (uint64_t i = 0; i < count; ++i) {
    const auto entry = file.read<elf::BundleEntry>(offset, what);
    const std::string target = utf8(file.slice(offset + sizeof(entry), entry.target_bytes, what), what);
    offset += sizeof(entry) + entry.target_bytes;
    if (entry.bytes == 0 || target.rfind("host", 0) == 0) continue;
    targets += " " + target;
    if (!arch.empty() && processor(target) != arch) continue;
    images.push_back(file.slice(entry.offset, entry.bytes, "an image of the offload bundle"));
  }
  if (images.size() == 1) return images[0];
  throw CodeObjectError("expected one image" + (arch.empty() ? "" : " for " + std::string(arch)) +
                        " in the offload bundle, which has:" + (targets.empty() ? " none" : targets));
}

// A field of a map of the metadata: nullptr where it is missing, an error where it has another type.
template <typename T>
const T* field(const msgpack::Value& map, const char* key) {
  const auto* value = map.find(key);
  if (!value) return nullptr;
  const auto* content = std::get_if<T>(&value->content);
  if (!content) throw CodeObjectError(std::string("metadata: ") + key + " has an unexpected type");
  return content;
}

std::string text(const msgpack::Value& map, const char* key) {
  const auto* value = field<std::string>(map, key);
  return value ? *value : std::string();
}

uint32_t number(const msgpack::Value& map, const char* key, bool required = true) {
  const auto* value = field<int64_t>(map, key);
  if (!value && required) throw CodeObjectError(std::string("metadata: a kernel without ") + key);
  if (value && (*value < 0 || *value > std::numeric_limits<uint32_t>::max())) {
    throw CodeObjectError(std::string("metadata: ") + key + " is " + std::to_string(*value) + ", beyond 32 bits");
  }
  return value ? static_cast<uint32_t>(*value) : 0;
}

class Elf {
 public:
  explicit Elf(Bytes file) : file_(file) {
    if (file.size() < sizeof(header_) || std::memcmp(file.data(), elf::kMagic, sizeof(elf::kMagic)) != 0) {
      throw CodeObjectError("neither a 64-bit ELF file nor a clang offload bundle");
    }
    header_ = file.read<elf::FileHeader>(0, "the ELF header");
    if (header_.machine != elf::kAmdGpu || header_.ident[7] != elf::kAmdHsa) {
      throw CodeObjectError("an ELF file for something else than an AMD GPU under ROCm");
    }
    if (header_.segment_bytes != sizeof(elf::ProgramHeader) || header_.section_bytes != sizeof(elf::SectionHeader)) {
      throw CodeObjectError("the ELF file's table of segments or sections has entries of an unexpected size");
    }
    segments_ = file.table<elf::ProgramHeader>(header_.segments_offset, header_.segment_count, "the table of segments");
    sections_ = file.table<elf::SectionHeader>(header_.sections_offset, header_.section_count, "the table of sections");
  }

  CodeObject read() {
    object_.arch = arch_of(header_.flags);
    read_segments();
    read_symbols();
    read_relocations();
    read_kernels(metadata());
    return std::move(object_);
  }

 private:
  void read_segments() {
    for (const elf::ProgramHeader& header : segments_) {
      if (header.type != elf::kLoad) continue;
      if (header.memory_bytes > kMaxImageBytes || header.address > kMaxImageBytes - header.memory_bytes) {
        throw CodeObjectError("a segment ends beyond 1 GiB");
      }
      if (header.file_bytes > header.memory_bytes) throw CodeObjectError("a segment is larger than its memory");
      if (header.address < object_.image_bytes) throw CodeObjectError("segments overlap or are out of order");
      const Bytes bytes = file_.slice(header.offset, header.file_bytes, "a segment");
      const bool writable = header.flags & elf::kWritable, executable = header.flags & elf::kExecutable;
      object_.image_bytes = header.address + header.memory_bytes;
      object_.segments.push_back(
          {header.address, header.memory_bytes, {bytes.data(), bytes.data() + bytes.size()}, writable, executable});
      if (!executable) continue;
      if (object_.text_bytes) throw CodeObjectError("more than one executable segment");
      object_.text_address = header.address;
      object_.text_bytes = header.file_bytes;
    }
    if (object_.text_bytes == 0) throw CodeObjectError("no executable segment");
  }

  Bytes content(const elf::SectionHeader& section) const {
    return file_.slice(section.offset, section.bytes, "a section");
  }

  void read_symbols() {
    for (const elf::SectionHeader& section : sections_) {
      if (section.type != elf::kDynamicSymbols) continue;
      if (section.link >= sections_.size()) throw CodeObjectError("the table of symbols has no names");
      symbols_ = content(section).table<elf::Symbol>(0, section.bytes / sizeof(elf::Symbol), "the table of symbols");
      names_ = content(sections_[section.link]);
      return;
    }
    throw CodeObjectError("no table of dynamic symbols");
  }

  // Names are compared where they lie: copies of overlapping ones could grow with the square of the file.
  uint64_t address_of(const std::string& name) const {
    for (const elf::Symbol& symbol : symbols_) {
      if (symbol.section == 0 || symbol.name >= names_.size() || names_.size() - symbol.name <= name.size()) continue;
      if (std::memcmp(names_.data() + symbol.name, name.c_str(), name.size() + 1) == 0) return symbol.value;
    }
    throw CodeObjectError("there is no symbol " + name);
  }

  void read_relocations() {
    for (const elf::SectionHeader& section : sections_) {
      if (section.type == elf::kRel) throw CodeObjectError("relocations without addends (SHT_REL)");
      if (section.type != elf::kRela) continue;
      const uint64_t count = section.bytes / sizeof(elf::RelocationEntry);
      if (object_.relocations.size() + count > file_.size() / sizeof(elf::RelocationEntry)) {
        throw CodeObjectError("tables of relocations overlap");
      }
      for (const auto& entry : content(section).table<elf::RelocationEntry>(0, count, "the table of relocations")) {
        segment_of(entry.offset, sizeof(uint64_t), "a relocation");
        object_.relocations.push_back({entry.offset, entry.addend + symbol_value(entry)});
      }
    }
  }

  uint64_t symbol_value(const elf::RelocationEntry& entry) const {
    if (entry.type == elf::kRelative64) return 0;
    if (entry.type != elf::kAbsolute64) {
      throw CodeObjectError("a relocation of type " + std::to_string(entry.type) +
                            "; known are 3 (R_AMDGPU_ABS64) and 13 (R_AMDGPU_RELATIVE64)");
    }
    if (entry.symbol >= symbols_.size() || symbols_[entry.symbol].section == 0) {
      throw CodeObjectError("a relocation against a symbol that is not defined");
    }
    return symbols_[entry.symbol].value;
  }

  const Segment& segment_of(uint64_t address, uint64_t bytes, const std::string& what) const {
    for (const Segment& segment : object_.segments) {
      if (address < segment.address || address - segment.address > segment.memory_bytes) continue;
      if (bytes <= segment.memory_bytes - (address - segment.address)) return segment;
    }
    throw CodeObjectError(what + " lies outside of the segments");
  }

  msgpack::Value metadata() const {
    for (const elf::ProgramHeader& header : segments_) {
      if (header.type != elf::kNote) continue;
      const Bytes notes = file_.slice(header.offset, header.file_bytes, "the notes");
      for (uint64_t offset = 0; offset < notes.size();) {
        const auto note = notes.read<elf::NoteHeader>(offset, "a note");
        const auto padded = [](uint64_t bytes) { return (bytes + 3) / 4 * 4; };
        const uint64_t name = offset + sizeof(note), content = name + padded(note.name_bytes);
        const Bytes owner = notes.slice(name, note.name_bytes, "a note");
        if (note.type == elf::kMetadataNote && owner.starts_with("AMDGPU")) {
          return msgpack::parse(notes.slice(content, note.content_bytes, "the metadata note"));
        }
        offset = content + padded(note.content_bytes);
      }
    }
    throw CodeObjectError("no metadata note; code objects since version 3 have one");
  }

  void read_kernels(const msgpack::Value& metadata) {
    const auto* kernels = field<msgpack::Array>(metadata, "amdhsa.kernels");
    if (!kernels) throw CodeObjectError("metadata: no amdhsa.kernels");
    for (const msgpack::Value& entry : *kernels) object_.kernels.push_back(read_kernel(entry));
  }

  Kernel read_kernel(const msgpack::Value& entry) const {
    Kernel kernel{};
    kernel.name = text(entry, ".name");
    kernel.kernarg_bytes = number(entry, ".kernarg_segment_size");
    kernel.vgprs = number(entry, ".vgpr_count");
    kernel.agprs = number(entry, ".agpr_count", false);
    kernel.sgprs = number(entry, ".sgpr_count");
    kernel.vgpr_spills = number(entry, ".vgpr_spill_count", false);
    kernel.sgpr_spills = number(entry, ".sgpr_spill_count", false);
    kernel.max_workgroup_size = number(entry, ".max_flat_workgroup_size");
    kernel.wavefront_size = number(entry, ".wavefront_size");
    const std::string what = "kernel " + kernel.name + ": ";
    if (kernel.kernarg_bytes > kMaxKernargBytes) throw CodeObjectError(what + "arguments beyond 64 KiB");
    if (const auto* arguments = field<msgpack::Array>(entry, ".args")) {
      for (const msgpack::Value& argument : *arguments) {
        kernel.arguments.push_back({text(argument, ".name"), text(argument, ".value_kind"),
                                    number(argument, ".offset"), number(argument, ".size")});
        const uint64_t end = uint64_t{kernel.arguments.back().offset} + kernel.arguments.back().size;
        if (end > kernel.kernarg_bytes) {
          throw CodeObjectError(what + "an argument ends at byte " + std::to_string(end) + " of " +
                                std::to_string(kernel.kernarg_bytes));
        }
      }
    }
    read_descriptor(text(entry, ".symbol"), kernel);
    return kernel;
  }

  void read_descriptor(const std::string& symbol, Kernel& kernel) const {
    const std::string what = "kernel " + kernel.name + ": its descriptor";
    const uint64_t address = address_of(symbol);
    const Segment& segment = segment_of(address, sizeof(elf::KernelDescriptor), what);
    const Bytes bytes(segment.bytes.data(), segment.bytes.size());
    const auto descriptor = bytes.read<elf::KernelDescriptor>(address - segment.address, what.c_str());
    kernel.lds_bytes = descriptor.lds_bytes;
    kernel.scratch_bytes = descriptor.scratch_bytes;
    kernel.entry = address + static_cast<uint64_t>(descriptor.entry);
    kernel.rsrc1 = descriptor.rsrc1;
    kernel.rsrc2 = descriptor.rsrc2;
    kernel.rsrc3 = descriptor.rsrc3;
    kernel.properties = descriptor.properties;
    const uint64_t offset = kernel.entry - object_.text_address;
    if (kernel.entry < object_.text_address || offset >= object_.text_bytes || offset % 4) {
      throw CodeObjectError(what + " has an entry outside of the code");
    }
  }

  Bytes file_;
  elf::FileHeader header_;
  std::vector<elf::ProgramHeader> segments_;
  std::vector<elf::SectionHeader> sections_;
  std::vector<elf::Symbol> symbols_;
  Bytes names_{nullptr, 0};  // of the symbols
  CodeObject object_{};
};

}  // namespace

const Kernel& CodeObject::kernel(std::string_view name) const {
  std::string names;
  for (const Kernel& kernel : kernels) {
    if (kernel.name == name) return kernel;
    names += (names.empty() ? "" : ", ") + kernel.name;
  }
  throw CodeObjectError("no kernel " + std::string(name) + "; there are: " + (names.empty() ? "none" : names));
}

CodeObject CodeObject::parse(const uint8_t* data, size_t size, std::string_view arch) {
  arch = processor(arch);
  CodeObject object = Elf(unbundle(Bytes(data, size), arch)).read();
  if (!arch.empty() && object.arch != arch) {
    throw CodeObjectError("the code object is for " + object.arch + ", not for " + std::string(arch));
  }
  return object;
}

}  // namespace updp
