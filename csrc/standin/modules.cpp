#include "modules.h"

#include <algorithm>
#include <cstring>

#include "../bytes.h"
#include "../elf.h"
#include "status.h"

namespace updp::standin {
namespace {

constexpr auto kArch = "gfx908";

// Of an ELF file, whose table of sections comes last, or of an offload bundle.
size_t image_bytes(const uint8_t* image) {
  const Bytes open(image, SIZE_MAX / 2);
  if (!open.starts_with("__CLANG_OFFLOAD_BUNDLE__")) {
    const auto header = open.read<elf::FileHeader>(0, "the ELF header");
    return header.sections_offset + uint64_t{header.section_count} * header.section_bytes;
  }
  const auto count = open.read<uint64_t>(24, "the bundle's header");
  uint64_t offset = 32, end = 32;
  for (uint64_t i = 0; i < count; ++i) {
    const auto entry = open.read<elf::BundleEntry>(offset, "the bundle's header");
    offset += sizeof(entry) + entry.target_bytes;
    end = std::max({end, offset, entry.offset + entry.bytes});
  }
  return end;
}

bool sound_for_another(const uint8_t* image, size_t bytes) {
  try {
    return CodeObject::parse(image, bytes, "").arch != kArch;
  } catch (const CodeObjectError&) {
    return false;
  }
}

}  // namespace

void* Modules::load(const void* image) {
  if (!image) throw Rejection(Status::invalid_value, "no image");
  const auto* data = static_cast<const uint8_t*>(image);
  if (std::memcmp(data, elf::kMagic, sizeof(elf::kMagic)) != 0 && std::memcmp(data, "__CLANG_", 8) != 0) {
    throw Rejection(Status::invalid_image, "neither a 64-bit ELF file nor a clang offload bundle");
  }
  const size_t bytes = image_bytes(data);
  auto module = std::make_unique<Module>();
  try {
    module->program = std::make_shared<const emulator::Program>(CodeObject::parse(data, bytes, kArch));
  } catch (const CodeObjectError& error) {
    throw Rejection(sound_for_another(data, bytes) ? Status::no_binary_for_gpu : Status::invalid_image, error.what());
  }
  const std::lock_guard lock(mutex_);
  void* handle = module.get();
  modules_.emplace(handle, std::move(module));
  return handle;
}

void Modules::unload(void* handle) {
  const std::lock_guard lock(mutex_);
  const auto found = modules_.find(handle);
  if (found == modules_.end()) throw Rejection(Status::invalid_handle, "no module, or one that was unloaded");
  for (const auto& [name, function] : found->second->functions) functions_.erase(function.get());
  modules_.erase(found);
}

void* Modules::function(void* handle, const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto found = modules_.find(handle);
  if (found == modules_.end()) throw Rejection(Status::invalid_handle, "no module, or one that was unloaded");
  Module& module = *found->second;
  auto& function = module.functions[name];
  if (!function) {
    try {
      function = std::make_unique<Function>(Function{module.program, &module.program->code().kernel(name)});
    } catch (const CodeObjectError& error) {
      module.functions.erase(name);
      throw Rejection(Status::not_found, error.what());
    }
    functions_.insert(function.get());
  }
  return function.get();
}

Function Modules::function(void* handle) const {
  const std::lock_guard lock(mutex_);
  if (functions_.count(handle) == 0) throw Rejection(Status::invalid_handle, "no kernel, or one of an unloaded module");
  return *static_cast<const Function*>(handle);
}

std::vector<uint8_t> argument_segment(const Kernel& kernel, void* const* parameters, void* const* extra) {
  std::vector<const Argument*> explicit_arguments;
  size_t end = 0;
  for (const Argument& argument : kernel.arguments) {
    if (argument.hidden()) continue;
    explicit_arguments.push_back(&argument);
    end = std::max<size_t>(end, argument.offset + argument.size);
  }
  if (parameters && extra) throw Rejection(Status::invalid_value, "both kernelParams and extra");
  if (!parameters && !extra && end) throw Rejection(Status::invalid_value, "a kernel with arguments was given none");
  std::vector<uint8_t> segment(kernel.kernarg_bytes);
  if (parameters) {
    for (const Argument* argument : explicit_arguments) {
      std::memcpy(segment.data() + argument->offset, *parameters++, argument->size);
    }
  }
  if (extra) {
    // HIP_LAUNCH_PARAM_BUFFER_POINTER, the buffer, HIP_LAUNCH_PARAM_BUFFER_SIZE, its size, HIP_LAUNCH_PARAM_END
    const auto tag = [&](int index) { return reinterpret_cast<uintptr_t>(extra[index]); };
    if (tag(0) != 1 || tag(2) != 2 || tag(4) != 3) throw Rejection(Status::invalid_value, "extra lacks its tags");
    const size_t bytes = *static_cast<const size_t*>(extra[3]);
    constexpr size_t alignment = 16;  // a struct of the arguments may be padded up to its own
    if (bytes < end || bytes > (end + alignment - 1) / alignment * alignment) {
      throw Rejection(Status::invalid_value, "a buffer of " + std::to_string(bytes) + " bytes for arguments of " +
                                                 std::to_string(end));
    }
    std::memcpy(segment.data(), extra[1], end);
  }
  return segment;
}

}  // namespace updp::standin
