#include "app/check/checks.h"
#include "infer/generator.h"

#include <algorithm>

namespace facet::app {

namespace {

// Whether another token was chosen by a hair or by a mile. logits [B, steps, V], tokens [B, steps].
std::string first_other_choice(const Tensor& logits, const Tensor& chosen, const Tensor& generated) {
  for (int64_t s = 0; s < chosen.dim(1); ++s)
    for (int64_t b = 0; b < chosen.dim(0); ++b) {
      const auto here = static_cast<int64_t>(chosen.at({b, s})), there = static_cast<int64_t>(generated.at({b, s}));
      if (here == there) continue;
      return fmt::format("first other token at step {} of row {}: {} here, {} in the reference, whose logit here is {:.2g} lower", s, b, here, there,
                         logits.at({b, s, here}) - logits.at({b, s, there}));
    }
  return {};
}

}  // namespace

void check_generation(LanguageModel& model, const std::vector<std::string>& references, const CheckTolerances& tolerance, CheckReport& report) {
  bool prompts = false;
  for (const std::string& path : references) {
    const TensorFiles file(path);
    for (const auto& [name, info] : file.tensors()) {
      const std::string tail = "prompt";
      if (name != tail && (name.size() < tail.size() + 1 || name.compare(name.size() - 7, 7, ".prompt") != 0)) continue;
      prompts = true;
      const std::string prefix = name.substr(0, name.size() - tail.size());
      const Tensor prompt = file.load(name), generated = file.load(prefix + "generated");
      const Tensor mask = file.has(prefix + "mask") ? file.load(prefix + "mask") : Tensor::full(prompt.shape(), 1, DType::i32);
      const int64_t B = prompt.dim(0), T = prompt.dim(1), steps = generated.dim(1);
      std::vector<int64_t> rows;
      std::vector<std::vector<int32_t>> next(static_cast<size_t>(B));
      for (int64_t b = 0; b < B; ++b) {
        rows.push_back(b);
        for (int64_t t = 0; t < T; ++t)
          if (mask.at({b, t}) != 0) next[static_cast<size_t>(b)].push_back(static_cast<int32_t>(prompt.at({b, t})));
      }
      Generator g(model, B, T + steps);
      const Tensor logits = Tensor::empty({B, steps, model.vocab()}), chosen = Tensor::empty({B, steps}, DType::i32);
      float* out = logits.out().as<float>();
      int32_t* pick = chosen.out().as<int32_t>();
      for (int64_t s = 0; s < steps; ++s) {
        g.feed(rows, next);
        for (int64_t b = 0; b < B; ++b) {
          const auto l = g.logits(b);
          std::copy(l.begin(), l.end(), out + (b * steps + s) * model.vocab());
          pick[b * steps + s] = static_cast<int32_t>(std::max_element(l.begin(), l.end()) - l.begin());
          next[static_cast<size_t>(b)] = {static_cast<int32_t>(generated.at({b, s}))};  // go on as the reference did
        }
      }
      if (report.wanted(prefix + "generated")) {
        CheckRow row = compare(prefix + "generated", chosen, generated, {}, {});
        if (!row.ok && row.note.empty()) row.note = first_other_choice(logits, chosen, generated);
        report.add(row);
      }
      if (!file.has(prefix + "logits")) report.not_compared(prefix + "logits", "not in the file");
      else if (report.wanted(prefix + "logits"))
        report.add(compare(prefix + "logits", logits, file.load(prefix + "logits"), {},
                           {.of_rms = tolerance.taps, .of_max = 0, .absolute = tolerance.absolute}));
    }
  }
  if (!prompts)
    fail(Kind::check, "check: nothing was compared: no file holds [SET.]prompt with mask, generated and logits (tools/dump_hf.py --generate writes one)");
}

}  // namespace facet::app
