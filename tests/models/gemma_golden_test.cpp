// The model against Hugging Face, block by block, on the reference checkpoints.
#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "nn/tap.h"
#include "tests/models/reference.h"

using namespace facet;
using facet::test::Golden;
using facet::test::golden_model;
using facet::test::max_difference;
using facet::test::tokens_of;

namespace {

double loss_backward(Gemma& model, const Golden& g, const std::string& set) {
  const Tokens t = tokens_of(g, set);
  const int64_t B = t.ids.dim(0), T = t.ids.dim(1);
  Tensor labels = Tensor::full({B, T}, -1, DType::i32);
  int32_t* l = labels.out().as<int32_t>();
  int64_t count = 0;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t i = 0; i + 1 < T; ++i)
      if (g[set + ".attention_mask"].at({b, i + 1}) != 0) {
        l[b * T + i] = static_cast<int32_t>(t.ids.at({b, i + 1}));
        ++count;
      }
  const Tensor h = model.hidden(t);
  return linear_cross_entropy_backward(reshape(h, {B * T, h.dim(2)}), model.head().value(), labels.reshape({B * T}),
                                       Tensor::full({B * T}, 1.0 / static_cast<double>(count), acc_dtype(h.dtype())),
                                       {.cap = model.final_cap(), .label_smoothing = 0, .z_loss = 0});
}

}  // namespace

TEST_CASE("gemma3-tiny: every tap equals Hugging Face's") {
  const auto model = golden_model("gemma3-tiny");
  const Golden g("gemma3-tiny-ref/taps.safetensors");
  for (const auto& [set, tolerance] : {std::pair{"a", 1.6e-4}, std::pair{"b", 1.4e-4}}) {
    const std::string prefix = std::string(set) + ".";
    int compared = 0;
    const Tensor mask = g[prefix + "attention_mask"];
    const NoGrad off;
    const Taps taps([&](const std::string& path, const Tensor& value) {
      if (!g.has(prefix + path)) return;
      INFO(prefix + path);
      CHECK(max_difference(value, g[prefix + path], mask) <= tolerance);
      ++compared;
    });
    model->logits(model->hidden(tokens_of(g, set)));
    CHECK(compared == 7 * 15 + 3);
  }
}

TEST_CASE("gemma3-rope8: scaled RoPE, sharded bf16, positions far out") {
  const auto model = golden_model("gemma3-rope8");
  const Golden g("gemma3-rope8-ref/taps.safetensors");
  for (const auto& [set, tolerance] : {std::pair{"a", 1.6e-4}, std::pair{"b", 1.8e-4}, std::pair{"far", 1.1e-3}}) {
    const std::string prefix = std::string(set) + ".";
    const Tensor mask = g[prefix + "attention_mask"];
    const NoGrad off;
    int compared = 0;
    const Taps taps([&](const std::string& path, const Tensor& value) {
      if (!g.has(prefix + path)) return;
      INFO(prefix + path);
      CHECK(max_difference(value, g[prefix + path], mask) <= tolerance);
      ++compared;
    });
    model->logits(model->hidden(tokens_of(g, set)));
    CHECK(compared == 8 + 3);
  }
  // Weights kept in bf16 are widened as they are read: the same numbers.
  const auto small = golden_model("gemma3-rope8", DType::bf16);
  const NoGrad off;
  const Tokens t = tokens_of(g, "a");
  CHECK(max_difference(small->logits(small->hidden(t)), g["a.logits"], g["a.attention_mask"]) <= 1.6e-4);
}

namespace {

// Logits and what else the reference holds of a small model, the loss, and the f64 gradients where the file has them.
void check_generation_of(const std::string& name, std::initializer_list<std::pair<const char*, double>> sets, int compared_per_set,
                         double gradient_tolerance) {
  const auto model = golden_model(name);
  const Golden g(name + "-ref/taps.safetensors"), truth(name + "-ref/truth.safetensors");
  for (const auto& [set, tolerance] : sets) {
    const std::string prefix = std::string(set) + ".";
    int compared = 0;
    {
      const NoGrad off;
      const Taps taps([&](const std::string& path, const Tensor& value) {
        if (!g.has(prefix + path)) return;
        INFO(prefix + path);
        CHECK(max_difference(value, g[prefix + path], g[prefix + "attention_mask"]) <= tolerance);
        ++compared;
      });
      model->logits(model->hidden(tokens_of(g, set)));
    }
    CHECK(compared == compared_per_set);
    for (Parameter* p : parameters(*model)) p->clear_grad();
    CHECK(loss_backward(*model, g, set) == Approx(truth[prefix + "loss"].item()).epsilon(1e-5));
    for (Parameter* p : parameters(*model)) {
      const std::string key = prefix + "grad.model." + p->name;
      if (!truth.has(key)) continue;
      INFO(key);
      const auto a = p->grad().to_vector(), b = truth[key].to_vector();
      double top = 0, worst = 0;
      for (size_t i = 0; i < a.size(); ++i) {
        top = std::max(top, std::abs(b[i]));
        worst = std::max(worst, std::abs(a[i] - b[i]));
      }
      CHECK(worst <= gradient_tolerance * top);
      ++compared;
    }
    if (prefix == "a.") CHECK(compared == compared_per_set + static_cast<int>(parameters(*model).size()));
  }
}

}  // namespace

TEST_CASE("gemma2-tiny: capped scores and logits, alternating windows") {
  check_generation_of("gemma2-tiny", {{"a", 8.8e-4}, {"b", 9.1e-4}}, 4 + 4, 2.7e-4);
}

TEST_CASE("gemma1-tiny: two norms a block, one key head, no window") {
  check_generation_of("gemma1-tiny", {{"a", 5.3e-5}, {"b", 4.0e-5}}, 3 + 3, 1.8e-5);
}

TEST_CASE("gemma3-tiny: f64 gives the truth") {
  const auto model = golden_model("gemma3-tiny", DType::f64);
  const Golden g("gemma3-tiny-ref/taps.safetensors"), truth("gemma3-tiny-ref/truth.safetensors");
  CHECK(loss_backward(*model, g, "a") == Approx(truth["a.loss"].item()).epsilon(1e-9));
  {
    const NoGrad off;
    const Tensor y = model->logits(model->hidden(tokens_of(g, "a")));
    CHECK(max_difference(y, truth["a.logits"], g["a.attention_mask"]) <= 1e-9);
  }
  for (Parameter* p : parameters(*model)) {
    INFO(p->name);
    const Tensor want = truth["a.grad.model." + p->name];
    REQUIRE(p->grad());
    const auto a = p->grad().to_vector(), b = want.to_vector();
    double top = 0, worst = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      top = std::max(top, std::abs(b[i]));
      worst = std::max(worst, std::abs(a[i] - b[i]));
    }
    CHECK(worst <= 1e-6 * top);  // the reference was rounded to f32
  }
}

TEST_CASE("gemma3-tiny: f32 gradients of every parameter, recomputed or not") {
  const Golden g("gemma3-tiny-ref/taps.safetensors"), truth("gemma3-tiny-ref/truth.safetensors");
  std::vector<std::vector<double>> kept;
  for (const Recompute r : {Recompute::none, Recompute::norms, Recompute::mlp, Recompute::block}) {
    const auto model = golden_model("gemma3-tiny");
    model->recompute = r;
    CHECK(loss_backward(*model, g, "a") == Approx(g["a.loss"].item()).epsilon(1e-5));
    size_t index = 0;
    for (Parameter* p : parameters(*model)) {
      INFO(p->name);
      const auto a = p->grad().to_vector(), b = truth["a.grad.model." + p->name].to_vector();
      double top = 0, worst = 0;
      for (size_t i = 0; i < a.size(); ++i) {
        top = std::max(top, std::abs(b[i]));
        worst = std::max(worst, std::abs(a[i] - b[i]));
      }
      CHECK(worst <= 1e-4 * top);
      if (r == Recompute::none) kept.push_back(a);
      else CHECK((kept[index] == a));  // bitwise
      ++index;
    }
  }
}
