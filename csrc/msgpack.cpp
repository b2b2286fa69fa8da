#include "msgpack.h"

namespace updp::msgpack {
namespace {

constexpr int kMaxDepth = 32;  // the metadata has 5 levels; recursion must not exhaust the stack

class Reader {
 public:
  explicit Reader(Bytes bytes) : bytes_(bytes) {}

  Value value(int depth = 0) {
    if (depth > kMaxDepth) throw CodeObjectError("metadata: nested too deeply");
    const auto tag = static_cast<uint8_t>(number(1));
    if (tag < 0x80) return {int64_t{tag}};
    if (tag < 0x90) return map(tag & 0x0f, depth);
    if (tag < 0xa0) return array(tag & 0x0f, depth);
    if (tag < 0xc0) return {string(tag & 0x1f)};
    if (tag >= 0xe0) return {int64_t{static_cast<int8_t>(tag)}};
    switch (tag) {
      case 0xc0: return {std::monostate{}};
      case 0xc2: return {false};
      case 0xc3: return {true};
      case 0xcc: return {static_cast<int64_t>(number(1))};
      case 0xcd: return {static_cast<int64_t>(number(2))};
      case 0xce: return {static_cast<int64_t>(number(4))};
      case 0xcf: return {static_cast<int64_t>(number(8))};
      case 0xd0: return {int64_t{static_cast<int8_t>(number(1))}};
      case 0xd1: return {int64_t{static_cast<int16_t>(number(2))}};
      case 0xd2: return {int64_t{static_cast<int32_t>(number(4))}};
      case 0xd3: return {static_cast<int64_t>(number(8))};
      case 0xd9: return {string(number(1))};
      case 0xda: return {string(number(2))};
      case 0xdb: return {string(number(4))};
      case 0xdc: return array(number(2), depth);
      case 0xdd: return array(number(4), depth);
      case 0xde: return map(number(2), depth);
      case 0xdf: return map(number(4), depth);
      default: throw CodeObjectError("metadata: MessagePack type " + std::to_string(tag) + " was not expected");
    }
  }

 private:
  Bytes take(uint64_t size) {
    const Bytes taken = bytes_.slice(offset_, size, "metadata");
    offset_ += size;
    return taken;
  }

  uint64_t number(uint64_t size) {  // big-endian
    const Bytes taken = take(size);
    uint64_t value = 0;
    for (size_t i = 0; i < taken.size(); ++i) value = value << 8 | taken.data()[i];
    return value;
  }

  std::string string(uint64_t size) { return utf8(take(size), "metadata"); }

  // A claimed length reserves nothing: every element costs a byte of the file, so the file bounds the memory.
  Value array(uint64_t length, int depth) {
    Array elements;
    for (uint64_t i = 0; i < length; ++i) elements.push_back(value(depth + 1));
    return {std::move(elements)};
  }

  Value map(uint64_t length, int depth) {
    Map entries;
    for (uint64_t i = 0; i < length; ++i) {
      Value key = value(depth + 1);
      auto* name = std::get_if<std::string>(&key.content);
      if (!name) throw CodeObjectError("metadata: the key of a map is no string");
      entries.emplace_back(std::move(*name), value(depth + 1));
    }
    return {std::move(entries)};
  }

  Bytes bytes_;
  uint64_t offset_ = 0;
};

}  // namespace

const Value* Value::find(std::string_view key) const {
  const auto* map = std::get_if<Map>(&content);
  if (!map) throw CodeObjectError("metadata: a map was expected where " + std::string(key) + " is looked for");
  for (const auto& [name, value] : *map) {
    if (name == key) return &value;
  }
  return nullptr;
}

Value parse(Bytes bytes) { return Reader(bytes).value(); }

}  // namespace updp::msgpack
