#include "program.h"

#include <cstring>

namespace updp::emulator {
namespace {

constexpr size_t kPage = 4096;

u8* load_image(const CodeObject& object) {
  const size_t bytes = (object.image_bytes + kPage) / kPage * kPage;
  u8* image = static_cast<u8*>(std::aligned_alloc(kPage, bytes));
  if (!image) throw std::bad_alloc();
  std::memset(image, 0, bytes);
  for (const updp::Segment& segment : object.segments) {
    if (!segment.bytes.empty()) std::memcpy(image + segment.address, segment.bytes.data(), segment.bytes.size());
  }
  for (const Relocation& relocation : object.relocations) {
    const u64 value = reinterpret_cast<u64>(image) + relocation.addend;
    std::memcpy(image + relocation.address, &value, sizeof value);
  }
  return image;
}

// The registers that an instruction touches. A load may overwrite what an earlier one of its ordered kind will write.
void add_uses(Instruction& i, std::vector<Use>& uses) {
  if (!i.operation) return;
  const auto add = [&](const Operand& operand, u8 reasons) {
    if (operand.kind != Operand::Kind::scalar && operand.kind != Operand::Kind::vector) return;
    const unsigned first = Waits::slot(operand);
    for (unsigned k = 0; k < operand.count; k += 8) {
      const unsigned registers = std::min(operand.count - k, 8u);
      const u64 bytes = registers == 8 ? ~u64{0} : (u64{1} << 8 * registers) - 1;
      uses.push_back({static_cast<u16>(first + k), reasons * 0x0101010101010101 & bytes});
    }
  };
  const bool flat = i.operation->encoding == Encoding::flat && i.space == Space::flat;
  u8 result_reasons = Waits::kAny;
  if (i.operation->kind == Kind::global && !flat) result_reasons &= ~Waits::kVector;
  if (i.operation->kind == Kind::lds) result_reasons &= ~Waits::kLds;
  i.uses.first = static_cast<u32>(uses.size());
  add(i.result, result_reasons);
  add(i.mask, Waits::kAny);
  for (const Operand& source : i.sources) add(source, Waits::kAny);
  i.uses.second = static_cast<u32>(uses.size()) - i.uses.first;
}

bool branches(const Instruction& i) {
  if (!i.operation) return false;
  const std::string_view name = i.operation->name;
  return name == "s_branch" || name == "s_call_b64" || name.substr(0, 10) == "s_cbranch_";
}

// Decodes the text from its begin; every kernel's entry begins an instruction, whatever data lie before it.
Code decode_text(const CodeObject& object, const u8* image) {
  Code code;
  code.text_address = object.text_address;
  code.base = reinterpret_cast<u64>(image);
  const size_t words = object.text_bytes / 4;
  std::vector<u32> text(words);
  std::memcpy(text.data(), image + object.text_address, 4 * words);
  std::vector<bool> entry(words + 1);
  for (const Kernel& kernel : object.kernels) {
    const u64 offset = kernel.entry - object.text_address;
    if (offset % 4 || offset / 4 >= words)
      throw CodeObjectError(kernel.name + ": its first instruction lies outside of the text");
    entry[offset / 4] = true;
  }
  code.at_word.assign(words, -1);
  for (size_t word = 0; word < words;) {
    Instruction i = decode(text.data() + word, words - word, static_cast<u32>(object.text_address + 4 * word));
    for (u8 k = 1; k < i.words; k++) {
      if (entry[word + k]) i = decode(text.data() + word, 1, i.address);  // not known: cut short
    }
    code.at_word[word] = static_cast<i32>(code.instructions.size());
    add_uses(i, code.uses);
    word += i.words;
    code.instructions.push_back(i);
  }
  code.instructions.emplace_back();  // not known: executed by a wave that runs past the end
  code.instructions.back().address = static_cast<u32>(object.text_address + 4 * words);
  for (Instruction& i : code.instructions) {
    if (branches(i)) i.target = code.at(i.address + 4 + 4 * i64{static_cast<i16>(i.offset)});
  }
  return code;
}

}  // namespace

Program::Program(const CodeObject& object) : impl_(std::make_unique<Impl>()) {
  if (object.arch != "gfx908") throw CodeObjectError("the emulator executes code for gfx908, not for " + object.arch);
  impl_->object = object;
  impl_->image.reset(load_image(object));
  impl_->code = decode_text(object, impl_->image.get());
}
Program::~Program() = default;
Program::Program(Program&&) noexcept = default;

const CodeObject& Program::code() const { return impl_->object; }

std::vector<Line> Program::disassemble(std::string_view name) const {
  const Kernel& kernel = impl_->object.kernel(name);
  u64 end = impl_->object.text_address + impl_->object.text_bytes;
  for (const Kernel& other : impl_->object.kernels) {
    if (other.entry > kernel.entry) end = std::min(end, other.entry);
  }
  std::vector<Line> lines;
  for (const Instruction* i = impl_->code.at(kernel.entry); i->address < end; i++) {
    auto [mnemonic, operands] = emulator::disassemble(*i);
    lines.push_back({i->address, 4u * i->words, std::move(mnemonic), std::move(operands)});
  }
  return lines;
}

}  // namespace updp::emulator
