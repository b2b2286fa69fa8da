// Bytes of a file that nobody vouches for: reading beyond them throws a CodeObjectError that says what was read.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "code_object.h"

namespace updp {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  bool starts_with(std::string_view text) const {
    return size_ >= text.size() && std::memcmp(data_, text.data(), text.size()) == 0;
  }

  Bytes slice(uint64_t offset, uint64_t size, const char* what) const {
    if (offset > size_ || size > size_ - offset) {
      throw CodeObjectError(std::string(what) + " lies outside of the file: bytes " + std::to_string(offset) + " and " +
                            std::to_string(size) + " more, of " + std::to_string(size_));
    }
    return Bytes(data_ + offset, static_cast<size_t>(size));
  }

  // A little-endian number or a struct of them, wherever it is aligned.
  template <typename T>
  T read(uint64_t offset, const char* what) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, slice(offset, sizeof(T), what).data(), sizeof(T));
    return value;
  }

  // `count` records one after the other, from `offset` on.
  template <typename T>
  std::vector<T> table(uint64_t offset, uint64_t count, const char* what) const {
    if (count > size_ / sizeof(T)) throw CodeObjectError(std::string(what) + " is larger than the file");
    const Bytes records = slice(offset, count * sizeof(T), what);
    std::vector<T> table(count);
    if (count) std::memcpy(table.data(), records.data(), records.size());
    return table;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

// The bytes as text; throws CodeObjectError for anything else than UTF-8 without NUL.
std::string utf8(Bytes bytes, const char* what);

}  // namespace updp
