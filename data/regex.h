// Regular expressions from people, run over text from models: Thompson's simulation ("Regular Expression Search Algorithm", 1968), so
// that time is pattern times text and nothing recurses over the text, whatever either holds (std::regex overflows the stack on a long one).
//
//   .  [a-z]  [^...]  \d \D \w \W \s \S  \n \t \r  \xHH  \. and other escaped signs      one character of UTF-8; . is not a newline
//   ^ $  \b \B                                                            ends of the text; ends of words
//   ( )  (?: )  |  * + ?  {n} {n,} {n,m}                                  and their lazy forms, which match the same texts
//   (?i) (?s) in front                                                    letters A-Z in either case; . is a newline, too
//
// There are no back references and no look-around: they do not fit into linear time.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace facet {

class Regex {
 public:
  /// Throws Error(Kind::usage) with the place of the mistake, or when the pattern needs more than 4,096 states.
  explicit Regex(std::string_view pattern);
  /// Whether the pattern occurs anywhere in the text.
  bool search(std::string_view text) const;

 private:
  friend class RegexParser;
  enum class Op : uint8_t { character, split, begin, end, word_edge, no_word_edge, match };
  struct State {
    Op op;
    int32_t next = -1, other = -1;  ///< other: of a split
    int32_t set = -1;               ///< of a character: which set it must be in
  };
  struct Set {
    bool negated = false;
    std::vector<std::pair<uint32_t, uint32_t>> ranges;
    bool has(uint32_t c) const;
  };
  std::vector<State> states_;
  std::vector<Set> sets_;
  int32_t start_ = 0;
};

}  // namespace facet
