#include <charconv>
#include <cstring>

#include "tensor/error.h"
#include "tensor/gpu/emulator/emulator.h"

namespace facet::gpu::emulator {
namespace {

/// Reads "NAME=N", N not negative.
template <class N>
bool number(const std::string& word, const char* name, N& value) {
  if (!word.starts_with(name)) return false;
  const char* begin = word.data() + std::strlen(name);
  const auto [stop, error] = std::from_chars(begin, word.data() + word.size(), value);
  return error == std::errc() && stop == word.data() + word.size() && value >= 0;
}

}  // namespace

Settings parse_settings(const std::string& words) {
  Settings s;
  bool copies_given = false;
  const auto copies = [&](Copies c) {
    s.copies = c;
    copies_given = true;
  };
  for (size_t at = 0; at < words.size();) {
    const size_t end = std::min(words.find(',', at), words.size());
    const std::string word = words.substr(at, end - at);
    at = end + 1;
    if (word == "forward") s.schedule = Schedule::forward;
    else if (word == "reverse") s.schedule = Schedule::reverse;
    else if (word == "random") s.schedule = Schedule::random;
    else if (word == "eager") copies(Copies::eager);
    else if (word == "late") copies(Copies::late);
    else if (word == "mixed") copies(Copies::mixed);
    else if (word == "at_once") s.deferred = false;
    else if (word == "deferred") s.deferred = true;
    else if (word == "strict") s.strict = true;
    else if (word == "lax") s.strict = false;
    else if (word == "per_block") s.races = Races::per_block;
    else if (word == "between_blocks") s.races = Races::between_blocks;
    else if (!number(word, "seed=", s.seed) && !number(word, "fail_alloc=", s.fail_alloc) && !number(word, "fail_launch=", s.fail_launch))
      fail(Kind::usage,
           "FACET_EMULATOR: '{}' is not one of forward, reverse, random, seed=N, eager, late, mixed, strict, lax, at_once, deferred, per_block, "
           "between_blocks, fail_alloc=N, fail_launch=N",
           word);
  }
  if (!copies_given && s.schedule == Schedule::random) s.copies = Copies::mixed;
  return s;
}

}  // namespace facet::gpu::emulator
