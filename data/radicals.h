// Simplifying square roots of factored numbers: the task on which a tiny model shows what reinforcement learning adds.
//
//   √(2·3·3·13)=   ->   3√(2·13)          √(2·2·3·5·5)=   ->   2·5√3
//   √(5·2)=        ->   √(2·5)            √(3·3)=         ->   3
//
// A radicand is given as 2-8 prime factors in random order. Demonstrations are lazy: four in five of those that have a pair leave
// the last one inside, so that supervised training learns the form and an often unfinished answer, and only the verifier, exact integer
// arithmetic, asks for the finished one. Problems are split by their multiset of factors: what is tested was never trained on in
// any order.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace facet {

struct RadicalsOptions {
  int64_t train = 20000, valid = 300, test = 300;
  uint64_t seed = 1;
  std::vector<int> primes = {2, 3, 5, 7, 11, 13};
  int min_factors = 2, max_factors = 8;
  double lazy = 0.8;       ///< share of demonstrations that leave a pair inside; 0: clean
  bool by_length = false;  ///< test on max_factors factors, train on fewer, instead of splitting by multiset
};

struct Radical {
  std::string prompt;      ///< "√(2·3·3·13)="
  std::string completion;  ///< the demonstration
  std::string answer;      ///< fully simplified
  std::string multiset;    ///< "2·3·3·13", sorted: problems that share it are one problem to statistics
  uint64_t n = 0;          ///< the number under the root
};

enum class RadicalSplit : uint32_t { train, valid, test };

/// Problems of one split, a pure function of the options. Demonstrations are lazy in the training split only.
std::vector<Radical> make_radicals(const RadicalsOptions&, RadicalSplit);
/// Writes train.jsonl, valid.jsonl and test.jsonl into the folder: {"prompt", "completion", "answer", "n", "multiset", "verifier"}.
void write_radicals(const std::string& folder, const RadicalsOptions& = {});
/// One split as one file.
void write_radicals_file(const std::string& path, const RadicalsOptions&, RadicalSplit);

/// The characters of prompts and answers, for char_tokenizer.
std::string_view radicals_alphabet();

// ---- the verifier. Any bytes are welcome.

enum class RadicalVerdict {
  malformed,     ///< reward 0: not of the form a·b√(c·d), a·b, √(c·d) or √c
  wrong,         ///< reward 0.1: well-formed, another number
  unsimplified,  ///< reward 0.3: the right number, but a square is left inside (or a factor 1 anywhere)
  correct,       ///< reward 1
};
RadicalVerdict judge_radical(uint64_t n, std::string_view answer);
double reward_of(RadicalVerdict);
const char* name_of(RadicalVerdict);
/// The number under the root of a prompt "√(...)="; nothing when the prompt is no such thing or the number exceeds 2^63.
std::optional<uint64_t> radicand(std::string_view prompt);

}  // namespace facet
