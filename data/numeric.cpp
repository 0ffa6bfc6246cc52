#include "data/numeric.h"

#include <algorithm>
#include <vector>

namespace facet {

namespace {

constexpr size_t max_digits = 200;  // of a number; also bounds what a comparison costs

bool digit(char c) { return c >= '0' && c <= '9'; }

std::string without_zeros(std::string_view digits) {
  digits.remove_prefix(std::min(digits.find_first_not_of('0'), digits.size()));
  return digits.empty() ? "0" : std::string(digits);
}

// Product of two strings of digits.
std::string times(const std::string& a, const std::string& b) {
  std::vector<int> sum(a.size() + b.size());
  for (size_t i = a.size(); i-- > 0;)
    for (size_t j = b.size(); j-- > 0;) {
      const int v = (a[i] - '0') * (b[j] - '0') + sum[i + j + 1];
      sum[i + j + 1] = v % 10;
      sum[i + j] += v / 10;
    }
  std::string r;
  for (const int d : sum) r += static_cast<char>('0' + d);
  return without_zeros(r);
}

// Walks over a text.
struct Reader {
  std::string_view text;
  size_t at = 0;

  char peek(size_t ahead = 0) const { return at + ahead < text.size() ? text[at + ahead] : '\0'; }
  bool eat(std::string_view what) {
    if (text.substr(at, what.size()) != what) return false;
    at += what.size();
    return true;
  }

  // 12, 1,234, 12.5, .5, 1.5e-3
  std::optional<Number> decimal() {
    std::string digits;
    while (digit(peek())) digits += text[at++];
    if (!digits.empty() && digits.size() <= 3)
      for (; peek() == ',' && digit(peek(1)) && digit(peek(2)) && digit(peek(3)) && !digit(peek(4)); at += 4) digits.append(text.substr(at + 1, 3));
    Number n;
    if (peek() == '.' && digit(peek(1))) {
      ++at;
      for (; digit(peek()); --n.exponent) digits += text[at++];
    }
    if (digits.empty()) return std::nullopt;
    if (const size_t sign = peek(1) == '-' || peek(1) == '+'; (peek() == 'e' || peek() == 'E') && digit(peek(1 + sign))) {
      const bool down = peek(1) == '-';
      at += 1 + sign;
      int64_t e = 0;
      while (digit(peek())) e = std::min<int64_t>(1'000'000'000, e * 10 + (text[at++] - '0'));
      n.exponent += down ? -e : e;
    }
    n.numerator = without_zeros(digits);
    if (n.numerator.size() > max_digits) return std::nullopt;
    return n;
  }

  std::optional<Number> ratio(const std::optional<Number>& a, const std::optional<Number>& b) {
    if (!a || !b || b->numerator == "0") return std::nullopt;
    return Number{a->negative != b->negative, a->numerator, b->numerator, a->exponent - b->exponent};
  }

  bool sign() { return eat("-") || eat("\u2212"); }

  std::optional<Number> braced() {
    if (!eat("{")) return std::nullopt;
    const bool negative = sign();
    auto n = decimal();
    if (n) n->negative = negative;
    return eat("}") ? n : std::nullopt;
  }

  // A number at this place; `any` tells whether there is one to speak of, even if it cannot be used.
  std::optional<Number> number(bool& any) {
    const size_t begin = at;
    // A minus behind a letter, a digit or a bracket takes away; it is no sign.
    const char before = begin > 0 ? text[begin - 1] : ' ';
    const bool operand = digit(before) || (before >= 'a' && before <= 'z') || (before >= 'A' && before <= 'Z') || before == ')' || before == '}' || before == '.';
    bool negative = sign();
    if (negative && operand) negative = false;
    eat("$");
    std::optional<Number> n;
    if (eat("\\frac") || eat("\\dfrac") || eat("\\tfrac")) {
      const auto above = braced();
      n = ratio(above, braced());
      any = true;
    } else if (any = digit(peek()) || (peek() == '.' && digit(peek(1)) && !digit(before)); any) {
      n = decimal();
      if (peek() == '/' && digit(peek(1))) {
        ++at;
        n = ratio(n, decimal());
      }
    }
    if (n) n->negative = n->negative != negative;
    if (!any) at = begin + 1;
    return n;
  }
};

std::optional<Number> one_number(std::string_view text, bool last) {
  Reader r{text};
  std::optional<Number> found;
  while (r.at < text.size()) {
    bool any = false;
    auto n = r.number(any);
    if (!any) continue;
    found = std::move(n);
    if (!last) break;
  }
  return found;
}

// What stands between the brace that opens at `begin` and its partner, or the rest.
std::string_view inside_braces(std::string_view text, size_t begin) {
  int depth = 1;
  size_t i = begin;
  for (; i < text.size(); ++i) {
    depth += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
    if (depth == 0) break;
  }
  return text.substr(begin, i - begin);
}

}  // namespace

bool operator==(const Number& a, const Number& b) {
  std::string left = times(a.numerator, b.denominator), right = times(b.numerator, a.denominator);
  if (left == "0" || right == "0") return left == right;
  int64_t exponent = a.exponent - b.exponent;
  for (; left.back() == '0'; left.pop_back()) ++exponent;
  for (; right.back() == '0'; right.pop_back()) --exponent;
  return exponent == 0 && left == right && a.negative == b.negative;
}

std::optional<Number> final_number(std::string_view text) {
  constexpr std::string_view mark = "####", box = "\\boxed{";
  if (const size_t at = text.rfind(mark); at != text.npos) return one_number(text.substr(at + mark.size()), false);
  if (const size_t at = text.rfind(box); at != text.npos) return one_number(inside_braces(text, at + box.size()), true);
  return one_number(text, true);
}

}  // namespace facet
