#include <algorithm>
#include <cmath>
#include <map>

#include "app/check/checks.h"
#include "autograd/ops.h"
#include "models/gemma/twin.h"
#include "nn/tap.h"

namespace facet::app {
namespace {

using Values = std::map<std::string, Tensor>;

bool ends_with(const std::string& s, const std::string& end) {
  return s.size() >= end.size() && s.compare(s.size() - end.size(), end.size(), end) == 0;
}

// Runs the model forward and keeps the taps that `wanted` names, with those that the reference spells differently.
Values forward(LanguageModel& model, const Tokens& tokens, bool with_probs) {
  Values values;
  {
    const NoGrad off;
    const Taps taps([&](const std::string& path, const Tensor& value) { values[path] = value.detach().to(Device::cpu); });
    model.logits(model.hidden(tokens));
  }
  auto* gemma = dynamic_cast<Gemma*>(&model);
  for (int64_t i = 0; gemma && i < model.layers(); ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    const NoGrad off;
    if (with_probs) {
      const GemmaAttention& a = gemma->blocks[static_cast<size_t>(i)]->attention;  // its probabilities, which the fused path never holds
      const Tensor p = attention_probabilities(values[layer + "q_rope"], repeat_heads(values[layer + "k_rope"], a.heads), tokens.positions, a.window,
                                               a.scale, a.cap);
      values[layer + "probs"] = p;
      values[layer + "probs_bthk"] = p.permute({0, 2, 1, 3}).clone();
    }
    const auto pair = [&](const char* a, const char* b, int dim) {  // two taps side by side in a new dimension
      const Tensor x = values[layer + a], y = values[layer + b];
      Shape s;
      for (int d = 0; d <= x.rank(); ++d) s.push(d == dim ? 1 : x.dim(d < dim ? d : d - 1));
      return concat({x.reshape(s), y.reshape(s)}, dim);
    };
    values[layer + "kv"] = pair("k", "v", 0);        // [2, B, T, K, Dh]
    values[layer + "gate_up"] = pair("gate", "up", 2);  // [B, T, 2, F]
  }
  return values;
}

struct Labels {
  Tensor labels, weights;  ///< [B * T]
};

Labels shifted_labels(const Tokens& t, const Tensor& mask, DType compute) {
  const int64_t B = t.ids.dim(0), T = t.ids.dim(1);
  const Tensor labels = Tensor::full({B * T}, -1, DType::i32);
  int32_t* l = labels.out().as<int32_t>();
  int64_t count = 0;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t i = 0; i + 1 < T; ++i)
      if (mask.at({b, i + 1}) != 0) {
        l[b * T + i] = static_cast<int32_t>(t.ids.at({b, i + 1}));
        ++count;
      }
  return {labels, Tensor::full({B * T}, count ? 1.0 / static_cast<double>(count) : 0.0, compute)};
}

// Loss of a set; with gradients it also runs backward.
double loss_of(LanguageModel& model, const Tokens& tokens, const Tensor& mask, bool gradients) {
  const CrossEntropyOptions options{.cap = model.final_cap(), .label_smoothing = 0, .z_loss = 0};
  if (!gradients) {
    const NoGrad off;
    const Tensor h = model.hidden(tokens);
    const Labels l = shifted_labels(tokens, mask, acc_dtype(h.dtype()));
    return linear_cross_entropy(reshape(h, {h.shape().rows(), h.dim(-1)}), model.head().value(), l.labels, l.weights, options).item();
  }
  const Tensor h = model.hidden(tokens);
  const Labels l = shifted_labels(tokens, mask, acc_dtype(h.dtype()));
  return linear_cross_entropy_backward(reshape(h, {h.shape().rows(), h.dim(-1)}), model.head().value(), l.labels, l.weights, options);
}

void check_values(LanguageModel& model, const Reference& reference, const CheckTolerances& tolerance, CheckReport& report, bool blocks) {
  for (const std::string& set : reference.sets()) {
    const Tokens tokens = reference.tokens(set);
    const Tensor mask = reference.mask(set);
    const auto list = reference.tensors(set);
    const bool probs = blocks && std::any_of(list.begin(), list.end(), [](const auto& t) { return t.tap.find(".probs") != std::string::npos; });
    const Values values = forward(model, tokens, probs);
    for (const ReferenceTensor& t : list) {
      if (!report.wanted(t.label)) continue;
      if (t.tap == "loss") {
        const Tensor want = t.load();
        report.add(compare(t.label, Tensor::scalar(loss_of(model, tokens, mask, false), DType::f64), want.reshape({}), {},
                           {.of_rms = tolerance.taps, .of_max = 0, .absolute = tolerance.absolute}));
        continue;
      }
      const bool is_logits = t.tap == "logits" || t.tap == "logits_before_cap";
      if (!blocks && !is_logits) {
        if (t.tap.rfind("grad.", 0) != 0 && t.tap.rfind("layers.", 0) != 0 && t.tap != "embed" && t.tap != "final_norm")
          report.not_compared(t.label, "no counterpart");
        continue;
      }
      const auto found = values.find(t.tap);
      if (found == values.end()) {
        if (t.tap.rfind("grad.", 0) == 0) continue;  // `check grads` looks at these
        report.not_compared(t.label, "no counterpart");
        continue;
      }
      // In [2, B, T, ..] the mask belongs to each half; [B, H, T, T] has its rows inside.
      Tensor got = found->second, want = t.load(), m = mask;
      if (ends_with(t.tap, ".kv") && got.shape() == want.shape()) m = expand(reshape(mask, {1, mask.dim(0), mask.dim(1)}), {2, mask.dim(0), mask.dim(1)}).clone();
      if (ends_with(t.tap, ".probs") && got.shape() == want.shape()) {
        got = got.permute({0, 2, 1, 3}).clone();
        want = want.permute({0, 2, 1, 3}).clone();
      }
      report.add(compare(t.label, got, want, m, {.of_rms = tolerance.taps, .of_max = 0, .absolute = tolerance.absolute}));
    }
  }
  for (const ReferenceTensor& t : reference.strays())
    if (report.wanted(t.label)) report.not_compared(t.label, "no input_ids of that set");
}

}  // namespace

void check_logits(LanguageModel& m, const Reference& r, const CheckTolerances& t, CheckReport& report) { check_values(m, r, t, report, false); }
void check_blocks(LanguageModel& m, const Reference& r, const CheckTolerances& t, CheckReport& report) { check_values(m, r, t, report, true); }

void check_grads(LanguageModel& model, const Reference& reference, const CheckTolerances& tolerance, CheckReport& report) {
  const auto list = parameters(model);
  for (const std::string& set : reference.sets()) {
    const auto tensors = reference.tensors(set);
    const auto is_grad = [](const ReferenceTensor& t) { return t.tap.rfind("grad.", 0) == 0; };
    if (std::none_of(tensors.begin(), tensors.end(), is_grad)) continue;
    for (Parameter* p : list) p->clear_grad();
    const double loss = loss_of(model, reference.tokens(set), reference.mask(set), true);
    // Gradients under flax names: ours, fused and transposed as the weights are there.
    const bool flax = std::any_of(tensors.begin(), tensors.end(), [](const auto& t) { return t.tap.rfind("grad.transformer/", 0) == 0; });
    Values flax_gradients;
    if (auto* gemma = flax ? dynamic_cast<Gemma*>(&model) : nullptr) {
      NamedTensors ours;
      for (Parameter* p : list)
        if (p->grad()) ours.emplace_back(p->name, p->grad().to(Device::cpu));
      for (auto& [name, g] : to_flax(gemma->config, ours)) flax_gradients[name] = g;
    }
    for (const ReferenceTensor& t : tensors) {
      if (!report.wanted(t.label)) continue;
      if (t.tap == "loss")
        report.add(compare(t.label, Tensor::scalar(loss, DType::f64), t.load().reshape({}), {},
                           {.of_rms = tolerance.taps, .of_max = 0, .absolute = tolerance.absolute}));
      if (!is_grad(t)) continue;
      const Tolerance allowed{.of_rms = 0, .of_max = tolerance.grads, .absolute = tolerance.absolute};
      if (const auto f = flax_gradients.find(t.tap.substr(5)); f != flax_gradients.end()) {
        report.add(compare(t.label, f->second, t.load(), {}, allowed));
        continue;
      }
      const auto p = std::find_if(list.begin(), list.end(), [&](const Parameter* q) { return q->name == t.tap.substr(5); });
      if (p == list.end()) report.not_compared(t.label, "no such parameter");
      else if (!(*p)->grad()) report.not_compared(t.label, "the parameter got no gradient");
      else report.add(compare(t.label, (*p)->grad().to(Device::cpu), t.load(), {}, allowed));
    }
  }
}

}  // namespace facet::app
