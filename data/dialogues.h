// A small conversational data set that a model of half a million parameters can learn: eight kinds of questions, each asked in
// several ways about several things. A question is a way of asking combined with a thing; some combinations are held out. Both halves
// of a held-out question occur in training, so whoever answers it has learned to combine, not to recite.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace facet {

struct Exchange {
  std::string kind;  ///< "sound", "opposite", ...
  std::string text, answer;
};

struct Dialogues {
  std::vector<std::vector<Exchange>> train;  ///< one or two questions each
  std::vector<Exchange> test;                ///< the held-out combinations
};

/// A pure function of the seed.
Dialogues make_dialogues(uint64_t seed = 1, int64_t n = 200);
/// Writes dialogues.jsonl ({"messages"}) and dialogues_test.jsonl ({"prompt", "completion", "kind"}; the prompt is a user turn).
void write_dialogues(const std::string& folder, uint64_t seed = 1, int64_t n = 200);

}  // namespace facet
