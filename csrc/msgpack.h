// MessagePack as far as a code object's metadata goes: nil, booleans, integers, strings, arrays, maps by strings.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "bytes.h"

namespace updp::msgpack {

struct Value;
using Array = std::vector<Value>;
using Map = std::vector<std::pair<std::string, Value>>;

// Integers beyond int64 are kept modulo 2^64: no field of the metadata is as large.
struct Value {
  std::variant<std::monostate, bool, int64_t, std::string, Array, Map> content;

  // The value of a map's key, nullptr where there is none; throws CodeObjectError where this is no map.
  const Value* find(std::string_view key) const;
};

// The value that `bytes` begin with. Throws CodeObjectError for one cut off, nested too deeply or of another type.
Value parse(Bytes bytes);

}  // namespace updp::msgpack
