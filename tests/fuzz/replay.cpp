// Every target on what can be derived from its seeds without a fuzzer: cut at every byte, every bit flipped, numbers made extreme, parts
// of one put into another. The same inputs every time.
//
//   replay                 all targets
//   replay NAME            one target
//   replay NAME FILE...    the files on one target, as after a finding
//   replay --write DIR     the seeds, in DIR/NAME/
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/fuzz/target.h"

using namespace facet::fuzz;

namespace {

struct Count {
  size_t runs = 0, accepted = 0;
};

void replay(const Target& t) {
  Count n;
  const auto one = [&](const std::string& bytes) {
    ++n.runs;
    n.accepted += run(t, bytes);
  };
  const std::vector<std::string> seeds = t.seeds();
  for (const std::string& seed : seeds) {
    if (!run(t, seed)) {
      std::fprintf(stderr, "%s: DEFECT: a good file is refused\n", t.name);
      std::exit(1);
    }
    const size_t size = std::min<size_t>(seed.size(), 4096);  // of the longest, the first 4 KiB
    for (size_t i = 0; i < size; ++i) one(seed.substr(0, i));
    for (size_t i = 0; i < size; ++i)
      for (const int change : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
        std::string bytes = seed;
        bytes[i] = static_cast<char>(bytes[i] ^ change);
        one(bytes);
      }
    // Numbers: binary ones of 4 bytes, and digits.
    for (size_t i = 0; i + 4 <= size; ++i)
      for (const char* number : {"\xff\xff\xff\xff", "\xff\xff\xff\x7f", "\0\0\0\x80", "\0\0\0\0"}) one(std::string(seed).replace(i, 4, number, 4));
    for (size_t i = 0; i < size; ++i)
      if (seed[i] >= '0' && seed[i] <= '9')
        for (const char* number : {"-1", "0", "4294967296", "18446744073709551616", "1e308", "null", "[]", "\"1\""}) one(std::string(seed).replace(i, 1, number));
    for (const std::string& other : seeds)
      for (size_t i = 0; i < size; i += 7) one(seed.substr(0, i) + other.substr(std::min(other.size(), i)));
    one(seed + seed);
    one(seed + std::string(1, '\0'));
  }
  std::printf("%s: %zu inputs, %zu accepted\n", t.name, n.runs, n.accepted);
}

}  // namespace

int main(int count, char** words) {
  if (count == 3 && std::string(words[1]) == "--write") {
    for (const Target* t : targets()) {
      const std::filesystem::path folder = std::filesystem::path(words[2]) / t->name;
      std::filesystem::create_directories(folder);
      int i = 0;
      for (const std::string& seed : t->seeds()) std::ofstream(folder / std::to_string(i++), std::ios::binary) << seed;
    }
    return 0;
  }
  if (count > 1) {
    const Target* t = find_target(words[1]);
    if (!t) return std::fprintf(stderr, "no target %s\n", words[1]), 2;
    if (count == 2) replay(*t);
    for (int i = 2; i < count; ++i) {
      std::ifstream file(words[i], std::ios::binary);
      run(*t, {std::istreambuf_iterator<char>(file), {}});
    }
    return 0;
  }
  for (const Target* t : targets()) replay(*t);
}
