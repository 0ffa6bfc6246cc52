// The number that an answer ends in, and whether two such numbers are the same one.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace facet {

/// An exact rational: (negative ? -1 : 1) * numerator * 10^exponent / denominator. Digits only, no leading zeros; zero is "0".
struct Number {
  bool negative = false;
  std::string numerator = "0", denominator = "1";
  int64_t exponent = 0;
};
bool operator==(const Number&, const Number&);

/// The final number of a text: the first one behind the last "####" (GSM8K), else the last one inside the last \boxed{...}, else the
/// last of the text. Read: signs (- and U+2212), thousands separators, decimals, 1e-3, 3/4 and \frac{3}{4}, a $ between sign and digits.
/// Nothing when there is none there, it has more than 200 digits, or a fraction's denominator is zero.
std::optional<Number> final_number(std::string_view text);

}  // namespace facet
