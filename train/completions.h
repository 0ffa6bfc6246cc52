// What was sampled and how it was judged, for people: completions/step-NNNNNN.jsonl, a line each.
#pragma once
#include <span>
#include <string>

#include "data/verifier.h"
#include "infer/generator.h"

namespace facet {

struct Completion {
  const Question* question = nullptr;
  int64_t member = 0;    ///< within its group
  std::string text;      ///< without the stop token
  int64_t tokens = 0;    ///< the stop token included
  Stop stop = Stop::running;
  Reward reward;
  double advantage = 0;  ///< 0 also where nothing is learned: flat groups, excluded rows
};

/// {"prompt", "text", "rewards": {"radicals": 1}, "total", "verdict", "advantage", "tokens", "stop"} and, for an excluded row, "error" with
/// rewards and total null. Text that is no UTF-8 gets replacement characters.
std::string completions_jsonl(std::span<const Completion>, const Rewards&);

}  // namespace facet
