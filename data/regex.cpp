#include "data/regex.h"

#include <algorithm>

#include "data/utf8.h"
#include "tensor/error.h"
#include "tensor/io/text.h"

namespace facet {

namespace {

constexpr size_t max_states = 4096, max_work = size_t{1} << 20;
constexpr int max_depth = 64, max_repeats = 1000, unbounded = -1;

// The character at `at`, which moves behind it; a byte that starts none stands for itself.
uint32_t next_character(std::string_view text, size_t& at) {
  const size_t n = utf8_length(text[at]);
  const auto first = static_cast<uint8_t>(text[at]);
  if (n == 1 || at + n > text.size()) return ++at, first;
  uint32_t c = first & (0xFFu >> (n + 1));
  for (size_t i = 1; i < n; ++i) c = c << 6 | (static_cast<uint8_t>(text[at + i]) & 0x3F);
  at += n;
  return c;
}

bool is_word(uint32_t c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_'; }

}  // namespace

bool Regex::Set::has(uint32_t c) const {
  return negated != std::any_of(ranges.begin(), ranges.end(), [c](const auto& r) { return c >= r.first && c <= r.second; });
}

// Recursive descent into a tree, then states from the back: each part is compiled for what follows it.
class RegexParser {
 public:
  RegexParser(Regex& regex, std::string_view pattern) : regex_(regex), text_(pattern) {
    for (; eat("(?i)") || eat("(?s)");) (text_[at_ - 2] == 'i' ? any_case_ : dot_is_all_) = true;
    const Node root = alternatives(0);
    if (at_ < text_.size()) wrong("no ( for this )");
    regex_.start_ = compile(root, state({.op = Op::match}));
  }

 private:
  using Op = Regex::Op;
  struct Node {
    enum Kind { sequence, choice, repeat, single } kind = sequence;
    std::vector<Node> parts = {};
    int min = 0, max = 0;      // of a repeat
    Regex::State state = {Op::match};  // of a single
  };

  [[noreturn]] void wrong(const char* what) const {
    fail(Kind::usage, "pattern \"{}\": character {}: {}", printable(text_), at_ + 1, what);
  }
  bool eat(std::string_view what) {
    if (text_.substr(at_, what.size()) != what) return false;
    at_ += what.size();
    return true;
  }
  bool more() const { return at_ < text_.size(); }

  Node alternatives(int depth) {
    if (depth > max_depth) wrong("brackets are nested too deeply");
    Node all{.kind = Node::choice};
    do all.parts.push_back(sequence(depth));
    while (eat("|"));
    return all;
  }

  Node sequence(int depth) {
    Node all;
    while (more() && text_[at_] != '|' && text_[at_] != ')') {
      Node part = atom(depth);
      for (int min, max; quantifier(min, max);) {
        if (part.kind == Node::repeat) wrong("two quantifiers in a row");
        part = Node{.kind = Node::repeat, .parts = {std::move(part)}, .min = min, .max = max};
        eat("?");
      }
      all.parts.push_back(std::move(part));
    }
    return all;
  }

  Node atom(int depth) {
    if (eat("(")) {
      if (text_.substr(at_, 1) == "?" && !eat("?:")) wrong("only (?:...) is known, and (?i), (?s) in front; no look-around");
      Node inside = alternatives(depth + 1);
      if (!eat(")")) wrong("a ) is missing");
      return inside;
    }
    if (eat("^")) return single({.op = Op::begin});
    if (eat("$")) return single({.op = Op::end});
    if (eat("\\b")) return single({.op = Op::word_edge});
    if (eat("\\B")) return single({.op = Op::no_word_edge});
    if (std::string_view("*+?").find(text_[at_]) != std::string_view::npos) wrong("nothing to repeat");
    if (eat(".")) return character(dot_is_all_ ? Regex::Set{true, {}} : Regex::Set{true, {{'\n', '\n'}}});
    if (eat("[")) return character(bracket());
    Regex::Set set;
    add_character(set);
    return character(std::move(set));
  }

  // {n}, {n,}, {n,m}, *, +, ?. A brace that is none of them is an ordinary character.
  bool quantifier(int& min, int& max) {
    if (eat("*")) return min = 0, max = unbounded, true;
    if (eat("+")) return min = 1, max = unbounded, true;
    if (eat("?")) return min = 0, max = 1, true;
    const size_t begin = at_;
    if (!eat("{") || !number(min)) return at_ = begin, false;
    max = min;
    if (eat(",") && !number(max)) max = unbounded;
    if (!eat("}")) return at_ = begin, false;
    if (max != unbounded && max < min) wrong("the greater number comes first");
    return true;
  }

  bool number(int& n) {
    const size_t begin = at_;
    for (n = 0; more() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_)
      if (n = n * 10 + (text_[at_] - '0'); n > max_repeats) wrong("more than 1,000 repetitions");
    return at_ > begin;
  }

  Regex::Set bracket() {
    Regex::Set set;
    set.negated = eat("^");
    for (bool first = true; first || !eat("]"); first = false) {
      if (!more()) wrong("a ] is missing");
      const uint32_t low = add_character(set);
      if (low == no_character || text_.substr(at_, 1) != "-" || text_.substr(at_, 2) == "-]") continue;
      ++at_;
      if (!more()) wrong("a ] is missing");
      const uint32_t high = add_character(set);
      if (high == no_character || high < low) wrong("a range from high to low");
      set.ranges.back() = {low, high};
    }
    return set;
  }

  // One character or class (\d) from the pattern; the character, or no_character.
  uint32_t add_character(Regex::Set& set) {
    uint32_t c = next_character(text_, at_);
    if (c == '\\') {
      if (!more()) wrong("a \\ at the end");
      c = next_character(text_, at_);
      using Ranges = std::vector<std::pair<uint32_t, uint32_t>>;
      constexpr uint32_t last = UINT32_MAX;
      static const std::pair<char, Ranges> classes[] = {
          {'d', {{'0', '9'}}},
          {'D', {{0, '0' - 1}, {'9' + 1, last}}},
          {'w', {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}},
          {'W', {{0, '0' - 1}, {'9' + 1, 'A' - 1}, {'Z' + 1, '_' - 1}, {'_' + 1, 'a' - 1}, {'z' + 1, last}}},
          {'s', {{'\t', '\r'}, {' ', ' '}}},
          {'S', {{0, '\t' - 1}, {'\r' + 1, ' ' - 1}, {' ' + 1, last}}},
      };
      for (const auto& [letter, ranges] : classes)
        if (c == static_cast<uint32_t>(letter)) return set.ranges.insert(set.ranges.end(), ranges.begin(), ranges.end()), no_character;
      if (c == 'n') c = '\n';
      else if (c == 't') c = '\t';
      else if (c == 'r') c = '\r';
      else if (c == 'x') c = hexadecimal();
      else if (c < 0x80 && is_word(c)) wrong("this character has no meaning behind a \\ (there are no back references)");
    }
    set.ranges.emplace_back(c, c);
    return c;
  }

  uint32_t hexadecimal() {
    uint32_t c = 0;
    for (int i = 0; i < 2; ++i, ++at_) {
      const size_t v = more() ? std::string_view("0123456789abcdefABCDEF").find(text_[at_]) : std::string_view::npos;
      if (v == std::string_view::npos) wrong("\\x needs two hexadecimal digits");
      c = c * 16 + static_cast<uint32_t>(v < 16 ? v : v - 6);
    }
    return c;
  }

  static Node single(Regex::State s) { return {.kind = Node::single, .state = s}; }
  Node character(Regex::Set set) {
    if (any_case_)
      for (size_t i = 0, n = set.ranges.size(); i < n; ++i)
        for (const auto& [from, to] : {std::pair<uint32_t, uint32_t>('a', 'A'), {'A', 'a'}}) {
          const uint32_t low = std::max(set.ranges[i].first, from), high = std::min(set.ranges[i].second, from + 25);
          if (low <= high) set.ranges.emplace_back(low - from + to, high - from + to);
        }
    regex_.sets_.push_back(std::move(set));
    return single({.op = Op::character, .set = static_cast<int32_t>(regex_.sets_.size()) - 1});
  }

  int32_t state(Regex::State s) {
    if (regex_.states_.size() == max_states) fail(Kind::usage, "pattern \"{}\": too large: it needs more than {} states", printable(text_), max_states);
    regex_.states_.push_back(s);
    return static_cast<int32_t>(regex_.states_.size()) - 1;
  }

  // The state where `node` begins, if what follows it begins at `next`.
  int32_t compile(const Node& node, int32_t next) {
    if (++work_ > max_work) fail(Kind::usage, "pattern \"{}\": too large: its repetitions multiply", printable(text_));
    switch (node.kind) {
      case Node::single: {
        Regex::State s = node.state;
        s.next = next;
        return state(s);
      }
      case Node::sequence:
        for (size_t i = node.parts.size(); i-- > 0;) next = compile(node.parts[i], next);
        return next;
      case Node::choice: {
        int32_t first = compile(node.parts.back(), next);
        for (size_t i = node.parts.size() - 1; i-- > 0;) {
          const int32_t other = compile(node.parts[i], next);
          first = state({.op = Op::split, .next = other, .other = first});
        }
        return first;
      }
      case Node::repeat: break;
    }
    const Node& part = node.parts[0];
    if (node.max == unbounded) {
      const int32_t loop = state({.op = Op::split, .next = -1, .other = next});
      const int32_t body = compile(part, loop);
      regex_.states_[static_cast<size_t>(loop)].next = body;
      next = loop;
    } else {
      const int32_t behind = next;
      for (int i = node.min; i < node.max; ++i) {
        const int32_t body = compile(part, next);
        next = state({.op = Op::split, .next = body, .other = behind});
      }
    }
    for (int i = 0; i < node.min; ++i) next = compile(part, next);
    return next;
  }

  static constexpr uint32_t no_character = UINT32_MAX;
  Regex& regex_;
  std::string_view text_;
  size_t at_ = 0, work_ = 0;
  bool any_case_ = false, dot_is_all_ = false;
};

Regex::Regex(std::string_view pattern) { RegexParser(*this, pattern); }

bool Regex::search(std::string_view text) const {
  std::vector<int32_t> here, seeds, open;  // states that wait for a character; where they lead; still to be followed
  std::vector<size_t> seen(states_.size(), SIZE_MAX);
  bool word_before = false;
  for (size_t at = 0;;) {
    const bool at_end = at == text.size();
    size_t behind = at;
    const uint32_t c = at_end ? 0 : next_character(text, behind);
    const bool word_here = !at_end && is_word(c);
    here.clear();
    open.assign(1, start_);  // a match may begin anywhere
    open.insert(open.end(), seeds.begin(), seeds.end());
    while (!open.empty()) {
      const int32_t i = open.back();
      open.pop_back();
      if (std::exchange(seen[static_cast<size_t>(i)], at) == at) continue;
      const State& s = states_[static_cast<size_t>(i)];
      bool passes = false;
      switch (s.op) {
        case Op::match: return true;
        case Op::character: here.push_back(i); break;
        case Op::split:
          open.push_back(s.other);
          passes = true;
          break;
        case Op::begin: passes = at == 0; break;
        case Op::end: passes = at_end || (c == '\n' && behind == text.size()); break;
        case Op::word_edge: passes = word_before != word_here; break;
        case Op::no_word_edge: passes = word_before == word_here; break;
      }
      if (passes) open.push_back(s.next);
    }
    if (at_end) return false;
    seeds.clear();
    for (const int32_t i : here)
      if (const State& s = states_[static_cast<size_t>(i)]; sets_[static_cast<size_t>(s.set)].has(c)) seeds.push_back(s.next);
    word_before = word_here;
    at = behind;
  }
}

}  // namespace facet
