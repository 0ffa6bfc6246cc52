#include "train/completions.h"

#include <nlohmann/json.hpp>

namespace facet {

std::string completions_jsonl(std::span<const Completion> list, const Rewards& rewards) {
  using Line = nlohmann::ordered_json;
  std::string text;
  for (const Completion& c : list) {
    const bool judged = c.reward.error.empty();
    Line each = Line::object();
    for (size_t i = 0; i < rewards.size(); ++i) each[rewards.name(i)] = judged ? Line(c.reward.each[i]) : Line();
    Line line = {{"prompt", c.question->prompt}, {"text", c.text}, {"rewards", std::move(each)},
                 {"total", judged ? Line(c.reward.total) : Line()}, {"verdict", c.reward.verdict}, {"advantage", c.advantage},
                 {"tokens", c.tokens}, {"stop", name_of(c.stop)}};
    if (!judged) line["error"] = c.reward.error;
    text += line.dump(-1, ' ', false, Line::error_handler_t::replace) + "\n";
  }
  return text;
}

}  // namespace facet
