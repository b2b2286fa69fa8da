#include "bytes.h"

namespace updp {

std::string utf8(Bytes bytes, const char* what) {
  static constexpr uint32_t least[] = {1, 0x80, 0x800, 0x10000};  // code point that needs so many following bytes
  const uint8_t *p = bytes.data(), *end = p + bytes.size();
  while (p < end) {
    const int following = *p < 0x80 ? 0 : *p < 0xc0 ? -1 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : *p < 0xf8 ? 3 : -1;
    bool sound = following >= 0 && end - p > following;
    uint32_t point = following > 0 ? *p & (0x3f >> following) : *p;
    for (int i = 1; sound && i <= following; ++i) {
      sound = (p[i] & 0xc0) == 0x80;
      point = point << 6 | (p[i] & 0x3f);
    }
    const bool surrogate = point >= 0xd800 && point < 0xe000;
    if (!sound || point < least[following] || point > 0x10ffff || surrogate) {
      throw CodeObjectError(std::string(what) + ": text that is not UTF-8");
    }
    p += following + 1;
  }
  return std::string(bytes.data(), end);
}

}  // namespace updp
