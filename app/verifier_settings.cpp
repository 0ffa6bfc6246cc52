#include "app/verifier_settings.h"

#include <charconv>

namespace facet::app {

void VerifierSettings::declare_verifiers(Options& o) {
  o.section("rewards");
  o.add("verifier", &verifier, "how answers are judged: radicals, exact, numeric, regex:PATTERN, length:N..M or exec:COMMAND; repeat it for several")
      .metavar("NAME")
      .verbatim()
      .alias({"verifiers", "reward", "reward-funcs"});
  o.add("reward-weights", &reward_weights, "one for each verifier; 1 by default").metavar("W,W");
  o.add("reward-timeout", &reward_timeout, "seconds that exec:COMMAND may take for a batch, and 0.1 more for each answer").range(0.01, 1e6);
}

Rewards VerifierSettings::rewards() const {
  if (!reward_weights.empty() && reward_weights.size() != verifier.size())
    fail(Kind::usage, "--reward-weights: {} for {} verifiers", reward_weights.size(), verifier.size());
  Rewards r;
  for (size_t i = 0; i < verifier.size(); ++i) {
    double weight = 1;
    if (!reward_weights.empty()) {
      const std::string& text = reward_weights[i];
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), weight);
      if (error != std::errc() || end != text.data() + text.size()) fail(Kind::usage, "--reward-weights: \"{}\" is not a number", text);
    }
    r.add(make_verifier(verifier[i], {.seconds = reward_timeout}), weight);
  }
  return r;
}

}  // namespace facet::app
