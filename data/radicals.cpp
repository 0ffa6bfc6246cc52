#include "data/radicals.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "data/draws.h"
#include "tensor/error.h"

namespace facet {

namespace {

constexpr std::string_view root = "√", dot = "·";
constexpr uint64_t too_large = uint64_t{1} << 63;  // products saturate here

uint64_t times(uint64_t a, uint64_t b) {
  uint64_t r;
  return __builtin_mul_overflow(a, b, &r) || r > too_large ? too_large : r;
}

// ---- spelling

std::string spell(const std::vector<int>& factors) { return fmt::format("{}", fmt::join(factors, dot)); }

std::string spell(const std::vector<int>& outside, const std::vector<int>& inside) {
  std::string s = spell(outside);
  if (inside.size() == 1) s += fmt::format("√{}", inside[0]);
  if (inside.size() > 1) s += fmt::format("√({})", spell(inside));
  return s;
}

// ---- making

// Of a hundred multisets, ten are for the test and five for validation; the seed has no part in it, so no run ever trains on another
// run's test.
RadicalSplit split_of(const std::vector<int>& sorted, const RadicalsOptions& o) {
  Key hash = key(0x9d1ca75u);
  for (const int f : sorted) hash = fold_in(hash, static_cast<uint32_t>(f));
  const uint32_t percent = hash.lo % 100;
  if (o.by_length) {
    if (static_cast<int>(sorted.size()) == o.max_factors) return RadicalSplit::test;
    return percent < 5 ? RadicalSplit::valid : RadicalSplit::train;
  }
  return percent < 10 ? RadicalSplit::test : percent < 15 ? RadicalSplit::valid : RadicalSplit::train;
}

Radical make_radical(const std::vector<int>& factors, Draws& draws, double lazy) {
  std::vector<int> sorted = factors, outside, inside, pairs;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (i + 1 < sorted.size() && sorted[i] == sorted[i + 1]) outside.push_back(sorted[i++]);
    else inside.push_back(sorted[i]);
  }
  Radical r;
  r.prompt = fmt::format("√({})=", spell(factors));
  r.multiset = spell(sorted);
  r.answer = r.completion = spell(outside, inside);
  r.n = 1;
  for (const int f : factors) r.n = times(r.n, static_cast<uint64_t>(f));
  if (!outside.empty() && draws.chance(lazy)) {
    // Always the last pair: whoever imitates the demonstrations answers unfinished at every problem that has one.
    inside.insert(inside.end(), 2, outside.back());
    outside.pop_back();
    std::sort(inside.begin(), inside.end());
    r.completion = spell(outside, inside);
  }
  return r;
}

void check(const RadicalsOptions& o) {
  if (o.primes.empty() || o.min_factors < 1 || o.max_factors < o.min_factors || o.max_factors > 16)
    fail(Kind::usage, "radicals: {}-{} factors of {} primes; expected 1-16 factors and at least one prime", o.min_factors, o.max_factors, o.primes.size());
  if (o.by_length && o.max_factors == o.min_factors) fail(Kind::usage, "radicals: a split by length needs more than one length");
  for (const int p : o.primes)
    if (p < 2 || p > 13 || spell({p}).find_first_not_of("12357") != std::string::npos)
      fail(Kind::usage, "radicals: factor {} is not one of 2, 3, 5, 7, 11, 13", p);
  if (o.train < 0 || o.valid < 0 || o.test < 0 || !(o.lazy >= 0 && o.lazy <= 1)) fail(Kind::usage, "radicals: sizes and the lazy share must not be negative, the share not above 1");
}

// ---- reading answers

// Walks over an answer; every member says whether what it wants was there.
struct Reader {
  std::string_view rest;
  bool has_one = false;  // a factor 1 was read

  bool eat(std::string_view what) {
    if (!rest.starts_with(what)) return false;
    rest.remove_prefix(what.size());
    return true;
  }
  bool number(uint64_t& v) {
    size_t digits = 0;
    v = 0;
    for (; digits < rest.size() && rest[digits] >= '0' && rest[digits] <= '9'; ++digits)
      v = std::min(times(v, 10) + static_cast<uint64_t>(rest[digits] - '0'), too_large);
    const bool fine = digits > 0 && rest[0] != '0';
    rest.remove_prefix(digits);
    has_one = has_one || v == 1;
    return fine;
  }
  bool product(uint64_t& v) {
    if (!number(v)) return false;
    while (eat(dot)) {
      uint64_t factor;
      if (!number(factor)) return false;
      v = times(v, factor);
    }
    return true;
  }
};

bool square_free(uint64_t n) {
  for (uint64_t p = 2; p * p * p <= n; ++p) {  // beyond the cube root at most two primes are left
    if (n % p) continue;
    n /= p;
    if (n % p == 0) return false;
  }
  uint64_t low = 0, high = uint64_t{1} << 32;  // integer square root
  while (low + 1 < high) {
    const uint64_t middle = (low + high) / 2;
    (middle * middle <= n ? low : high) = middle;
  }
  return n == 1 || low * low != n;
}

}  // namespace

std::vector<Radical> make_radicals(const RadicalsOptions& o, RadicalSplit split) {
  check(o);
  const int64_t n = split == RadicalSplit::train ? o.train : split == RadicalSplit::valid ? o.valid : o.test;
  Draws draws(fold_in(fold_in(key(o.seed), 0x4add1ca1u), static_cast<uint32_t>(split)));
  std::vector<Radical> r;
  r.reserve(static_cast<size_t>(n));
  const int64_t patience = 100 * n + 10000;
  for (int64_t tries = 0; static_cast<int64_t>(r.size()) < n; ++tries) {
    if (tries == patience) fail(Kind::usage, "radicals: these primes and lengths leave no problem for one of the splits");
    const bool longest = o.by_length && split == RadicalSplit::test;
    const int lengths = o.max_factors - o.min_factors + 1;
    const int length = longest ? o.max_factors : o.min_factors + static_cast<int>(draws.below(static_cast<uint32_t>(lengths)));
    std::vector<int> factors;
    for (int i = 0; i < length; ++i) factors.push_back(draws.pick(o.primes));
    std::vector<int> sorted = factors;
    std::sort(sorted.begin(), sorted.end());
    if (split_of(sorted, o) == split) r.push_back(make_radical(factors, draws, split == RadicalSplit::train ? o.lazy : 0));
  }
  return r;
}

void write_radicals(const std::string& folder, const RadicalsOptions& o) {
  check(o);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const std::pair<const char*, RadicalSplit> files[] = {{"train", RadicalSplit::train}, {"valid", RadicalSplit::valid}, {"test", RadicalSplit::test}};
  for (const auto& [name, split] : files) write_radicals_file(fmt::format("{}/{}.jsonl", folder, name), o, split);
}

void write_radicals_file(const std::string& path, const RadicalsOptions& o, RadicalSplit split) {
  std::ofstream file(path, std::ios::binary);
  for (const Radical& r : make_radicals(o, split))
    file << fmt::format(R"({{"prompt": "{}", "completion": "{}", "answer": "{}", "n": {}, "multiset": "{}", "verifier": "radicals"}})", r.prompt,
                        r.completion, r.answer, r.n, r.multiset)
         << '\n';
  file.close();
  if (!file) fail(Kind::environment, "{}: cannot write", path);
}

std::string_view radicals_alphabet() { return "√(·)=12357"; }

RadicalVerdict judge_radical(uint64_t n, std::string_view answer) {
  while (!answer.empty() && (answer.back() == '\n' || answer.back() == ' ')) answer.remove_suffix(1);
  Reader r{answer};
  uint64_t outside = 1, inside = 1;
  if (!answer.starts_with(root) && !r.product(outside)) return RadicalVerdict::malformed;
  if (r.eat(root)) {
    if (r.eat("(")) {
      if (!r.product(inside) || !r.eat(")")) return RadicalVerdict::malformed;
    } else if (!r.number(inside)) {
      return RadicalVerdict::malformed;
    }
  }
  if (!r.rest.empty()) return RadicalVerdict::malformed;
  const uint64_t value = times(times(outside, outside), inside);
  if (value == too_large || value != n) return RadicalVerdict::wrong;
  return square_free(inside) && !r.has_one ? RadicalVerdict::correct : RadicalVerdict::unsimplified;
}

double reward_of(RadicalVerdict v) {
  constexpr double rewards[] = {0, 0.1, 0.3, 1};
  return rewards[static_cast<int>(v)];
}

const char* name_of(RadicalVerdict v) {
  constexpr const char* names[] = {"malformed", "wrong", "not simplified", "correct"};
  return names[static_cast<int>(v)];
}

std::optional<uint64_t> radicand(std::string_view prompt) {
  Reader r{prompt};
  uint64_t n = 0;
  if (!r.eat("√(") || !r.product(n) || !r.eat(")=") || !r.rest.empty() || n == too_large) return std::nullopt;
  return n;
}

}  // namespace facet
