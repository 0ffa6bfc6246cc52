// Characters of a UTF-8 text.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace facet {

/// Bytes of the character that starts with this byte (1 for a byte that starts none).
inline size_t utf8_length(char first) {
  const auto b = static_cast<uint8_t>(first);
  return b < 0xC0 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

/// The characters of well-formed UTF-8; views into the text.
inline std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> r;
  for (size_t at = 0; at < text.size(); at += r.back().size()) r.push_back(text.substr(at, utf8_length(text[at])));
  return r;
}

}  // namespace facet
