// Small pieces of error messages.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace facet {

/// 9999999999 as "9,999,999,999".
std::string grouped(uint64_t n);
/// Text from a file, fit for a terminal: control characters and broken UTF-8 as \xNN, at most `limit` bytes.
std::string printable(std::string_view text, size_t limit = 120);
/// The first byte that is not part of well-formed UTF-8, or npos.
size_t invalid_utf8(std::string_view text);
/// The candidate with the fewest edits (a swap of neighbours is one), for "did you mean"; empty when none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace facet
