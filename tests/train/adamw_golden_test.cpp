// Three steps of training against torch.optim.AdamW on the Hugging Face model.
#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "models/gemma/hf.h"
#include "models/gemma/model.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include "tensor/io/json.h"
#include "tests/support/compare.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;

namespace {

struct Reference {
  Json json = read_json(golden_path("gemma3-tiny-ref/adamw.json"));
  Golden tensors{"gemma3-tiny-ref/adamw.safetensors"};
  Golden taps{"gemma3-tiny-ref/taps.safetensors"};
};

// Mean over the real labels of batch a, with gradients.
double loss_of(Gemma& model, const Golden& g, bool with_gradient) {
  const Tokens t = masked_tokens(g["a.input_ids"], g["a.attention_mask"]);
  const int64_t B = t.ids.dim(0), T = t.ids.dim(1);
  const Tensor labels = Tensor::full({B * T}, -1, DType::i32);
  int64_t count = 0;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t i = 0; i + 1 < T; ++i)
      if (g["a.attention_mask"].at({b, i + 1}) != 0) {
        labels.out().as<int32_t>()[b * T + i] = static_cast<int32_t>(t.ids.at({b, i + 1}));
        ++count;
      }
  std::optional<NoGrad> off;
  if (!with_gradient) off.emplace();
  const Tensor h = model.hidden(t);
  const Tensor weights = Tensor::full({B * T}, 1.0 / static_cast<double>(count), h.dtype());
  return linear_cross_entropy_backward(reshape(h, {B * T, h.dim(2)}), model.head().value(), labels, weights);
}

}  // namespace

TEST_CASE("three steps of AdamW give torch's losses, norms, parameters and moments") {
  const Reference ref;
  const std::string folder = golden_path("gemma3-tiny");
  Gemma model(read_hf_config(folder));
  load_weights(folder, model.config, named_values(model));
  const Json& s = ref.json.at("settings");
  AdamW optimizer({{.parameters = parameters(model), .weight_decay = s.at("weight_decay")}},
                  {.beta1 = s.at("betas")[0], .beta2 = s.at("betas")[1], .eps = s.at("eps")});
  for (const Json& step : ref.json.at("steps")) {
    CHECK(loss_of(model, ref.taps, true) == Approx(step.at("loss_before_step").get<double>()).epsilon(2e-6));
    const Clip clip = clip_global_norm(optimizer.parameters(), s.at("clip"));
    CHECK(clip.norm == Approx(step.at("grad_norm_before_clip").get<double>()).epsilon(1e-5));
    CHECK(clip.clipped());
    optimizer.step(s.at("lr"), clip.scale);
  }
  CHECK(loss_of(model, ref.taps, false) == Approx(ref.json.at("loss_after").get<double>()).epsilon(5e-6));

  // AdamW divides a moment by the root of another: where a gradient is nearly zero its rounding decides the update's sign, so single
  // elements may differ by a share of the learning rate. The sums and nearly all elements may not.
  int compared = 0;
  for (Parameter* p : parameters(model)) {
    const std::string name = "model." + p->name;
    INFO(name);
    const Json& want = ref.json.at("parameters").at(name);
    double sum = 0, abs_sum = 0;
    const auto values = p->value().to_vector();
    for (const double v : values) sum += v, abs_sum += std::abs(v);
    const double total = want.at("abs_sum");
    CHECK(std::abs(sum - want.at("sum").get<double>()) <= 1e-5 * total);
    CHECK(abs_sum == Approx(total).epsilon(1e-5));
    for (size_t i = 0; i < 8; ++i) CHECK(values[i] == Approx(want.at("first8")[i].get<double>()).margin(1e-5).epsilon(1e-5));
    if (ref.tensors.has(name)) {
      CHECK(nmse_within(p->value(), ref.tensors[name], 1e-10));
      ++compared;
    }
  }
  CHECK(ref.json.at("parameters").size() == parameters(model).size());
  for (const auto& [name, t] : optimizer.state()) {
    INFO(name);
    const std::string theirs = (name[0] == 'm' ? "exp_avg.model." : "exp_avg_sq.model.") + name.substr(std::min<size_t>(2, name.size()));
    if (!ref.tensors.has(theirs)) continue;
    CHECK(nmse_within(t, ref.tensors[theirs], 1e-9));
    ++compared;
  }
  CHECK(compared == static_cast<int>(ref.tensors.all().size()));
}
