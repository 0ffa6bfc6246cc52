#include "app/sampling_settings.h"

namespace facet::app {

Option& SamplingSettings::declare_sampling(Options& o) {
  o.section("sampling");
  o.add("max-new", &max_new, "most new tokens").alias({"max-tokens", "max-new-tokens", "n-predict"}).letter('n').range(1, 1 << 24);
  o.add("temp", &temp, "temperature; 0 takes the most likely token").alias({"temperature"}).range(0, 100);
  o.add("greedy", &greedy, "the same as --temp 0");
  o.add("top-k", &top_k, "draw from the k most likely tokens; 0: all").range(0, 1e9);
  o.add("top-p", &top_p, "draw from the likeliest tokens that make up this mass").range(0, 1);
  o.add("min-p", &min_p, "drop tokens below this share of the likeliest one's probability").range(0, 1);
  o.add("repetition-penalty", &repetition_penalty, "above 1 makes tokens seen before less likely").range(1e-3, 1e3);
  o.add("stop", &stop, "a piece that ends the answer, besides the model's own stop tokens; may be repeated").verbatim();
  o.add("forbid", &forbid, "a piece that is never produced; may be repeated").verbatim();
  return o.add("context", &context, "most tokens in all; 0: what the model was made for").range(0, 1 << 24);
}

GenerateOptions SamplingSettings::options(const Tokenizer& tokenizer, uint64_t seed) const {
  GenerateOptions g;
  g.sampling = {.temperature = greedy ? 0 : temp, .top_k = top_k, .top_p = top_p, .min_p = min_p, .repetition_penalty = repetition_penalty};
  g.max_new = max_new;
  g.context = context;
  g.seed = seed;
  g.stop = tokenizer.stop_ids();
  const auto piece = [&](const char* flag, const std::string& text) {
    if (const int32_t id = tokenizer.id_of(text); id >= 0) return id;
    const Ids ids = tokenizer.encode(text);
    if (ids.size() != 1)
      fail(Kind::usage, "{}: \"{}\" is {} tokens of this tokenizer, expected one piece", flag, text, ids.size());
    return ids[0];
  };
  for (const std::string& s : stop) g.stop.push_back(piece("--stop", s));
  for (const std::string& s : forbid) g.sampling.forbidden.push_back(piece("--forbid", s));
  g.sampling.check();
  return g;
}

}  // namespace facet::app
