#include "tensor/io/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace facet {

std::string grouped(uint64_t n) {
  const std::string digits = std::to_string(n);
  std::string r;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) r += ',';
    r += digits[i];
  }
  return r;
}

namespace {

// Length of the well-formed sequence at the front (Unicode 15, table 3-7), 0 when there is none.
size_t utf8_length(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
  const auto in = [&](size_t i, unsigned lo, unsigned hi) { return byte(i) >= lo && byte(i) <= hi; };
  const unsigned c = byte(0);
  if (c < 0x80) return 1;
  if (c < 0xc2) return 0;
  if (c < 0xe0) return in(1, 0x80, 0xbf) ? 2 : 0;
  if (c < 0xf0) return in(1, c == 0xe0 ? 0xa0 : 0x80, c == 0xed ? 0x9f : 0xbf) && in(2, 0x80, 0xbf) ? 3 : 0;
  if (c < 0xf5)
    return in(1, c == 0xf0 ? 0x90 : 0x80, c == 0xf4 ? 0x8f : 0xbf) && in(2, 0x80, 0xbf) && in(3, 0x80, 0xbf) ? 4 : 0;
  return 0;
}

}  // namespace

size_t invalid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t n = utf8_length(text.substr(i));
    if (n == 0) return i;
    i += n;
  }
  return std::string_view::npos;
}

std::string printable(std::string_view text, size_t limit) {
  std::string r;
  for (size_t i = 0; i < text.size();) {
    if (r.size() >= limit) return r + "...";
    const size_t n = utf8_length(text.substr(i));
    const auto c = static_cast<unsigned char>(text[i]);
    if (n == 0 || c < 0x20 || c == 0x7f) {
      r += fmt::format("\\x{:02x}", c);
      ++i;
    } else {
      r += text.substr(i, n);
      i += n;
    }
  }
  return r;
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_edits = (word.size() < 4 ? 1 : std::max<size_t>(2, word.size() / 3)) + 1;  // farther than this is no help
  for (const std::string& c : candidates) {
    // Restricted Damerau-Levenshtein, three rows at a time.
    std::vector<size_t> before(c.size() + 1), row(c.size() + 1), next(c.size() + 1);
    for (size_t j = 0; j <= c.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      next[0] = i;
      for (size_t j = 1; j <= c.size(); ++j) {
        next[j] = std::min({row[j] + 1, next[j - 1] + 1, row[j - 1] + (word[i - 1] != c[j - 1])});
        if (i > 1 && j > 1 && word[i - 1] == c[j - 2] && word[i - 2] == c[j - 1]) next[j] = std::min(next[j], before[j - 2] + 1);
      }
      before = row;
      row = next;
    }
    if (row[c.size()] < best_edits) best = c, best_edits = row[c.size()];
  }
  return best;
}

}  // namespace facet
