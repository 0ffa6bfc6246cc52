// Positions that are added: the waves against their formula, the learned ones inside a GPT-2 against Hugging Face's numbers.
#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "nn/language_model.h"
#include "nn/positions.h"
#include "tensor/kernels/copy.h"
#include "tests/support/compare.h"
#include "tests/support/goldens.h"

using namespace facet;
using namespace facet::test;
using Catch::Contains;

TEST_CASE("positions: sinusoids are their formula, and the product of two rows knows the distance alone") {
  const int64_t P = 40, D = 12;
  const Tensor table = sinusoidal_positions(P, D, 10'000, DType::f64);
  CHECK(table.shape() == Shape{P, D});
  for (int64_t p = 0; p < P; ++p)
    for (int64_t d = 0; d < D; ++d) {
      const double angle = static_cast<double>(p) / std::pow(10'000.0, static_cast<double>(d / 2 * 2) / 12.0);
      CHECK(table.at({p, d}) == Approx(d % 2 ? std::cos(angle) : std::sin(angle)).margin(1e-14));
    }
  const Tensor products = matmul(table, transpose(table));
  for (int64_t p = 1; p < P; ++p)
    for (int64_t q = 1; q < P; ++q) CHECK(products.at({p, q}) == Approx(products.at({p - 1, q - 1})).margin(1e-12));
  CHECK(bitwise_equal(sinusoidal_positions(P, D), table.to(DType::f32)));  // rounded once
  CHECK_THROWS_WITH(sinusoidal_positions(4, 5), Contains("even width"));
}

namespace {

// GPT-2, of the operations of this library and its learned positions; weights as its checkpoints name and shape them (x W + b).
struct Gpt2 {
  const Golden& g;
  int64_t heads;
  LearnedPositions wpe;
  Tensor wte, ln_1_bias;  // leaves

  Gpt2(const Golden& golden, int64_t h) : g(golden), heads(h), wpe(golden["weight.wpe.weight"].dim(0), golden["weight.wpe.weight"].dim(1), DType::f64) {
    wpe.weight = Parameter(weight("wpe.weight"));
    wte = leaf(weight("wte.weight"));
    ln_1_bias = leaf(weight("h.0.ln_1.bias"));
  }
  Tensor weight(const std::string& name) const { return g["weight." + name].to(DType::f64); }
  Tensor project(const Tensor& x, const std::string& at) const { return matmul(x, weight(at + ".weight")) + weight(at + ".bias"); }
  Tensor norm(const Tensor& x, const std::string& at) const {
    return layer_norm(x, weight(at + ".weight"), at == "h.0.ln_1" ? ln_1_bias : weight(at + ".bias"), 1e-5);
  }
  Tensor logits(const Tokens& tokens) const {
    const int64_t B = tokens.ids.dim(0), T = tokens.ids.dim(1), D = wte.dim(1), Dh = D / heads;
    Tensor x = wpe(embedding(tokens.ids, wte, 1, DType::f64), tokens.positions);  // [B, T, D]
    for (const std::string at : {"h.0.", "h.1."}) {
      const auto qkv = split(project(norm(x, at + "ln_1"), at + "attn.c_attn"), {D, D, D}, 2);
      const auto in_heads = [&](const Tensor& t) { return reshape(t, {B, T, heads, Dh}); };
      AttentionMask mask;
      mask.q_positions = tokens.positions;
      const Tensor a = attention(in_heads(qkv[0]), in_heads(qkv[1]), in_heads(qkv[2]), mask, 1 / std::sqrt(static_cast<double>(Dh)));
      x = x + project(reshape(a, {B, T, D}), at + "attn.c_proj");
      x = x + project(gelu_tanh(project(norm(x, at + "ln_2"), at + "mlp.c_fc")), at + "mlp.c_proj");
    }
    return linear(norm(x, "ln_f"), wte);  // [B, T, V]
  }
};

}  // namespace

TEST_CASE("positions: a GPT-2 with learned ones has Hugging Face's logits and gradients") {
  const Golden g("gpt2-tiny/gpt2.safetensors");
  const Gpt2 model(g, 3);
  const Tokens tokens = plain_tokens(g["input_ids"]);
  const Tensor y = model.logits(tokens);
  CHECK(close(y.detach(), g["logits"], 1e-11, 1e-11));

  const int64_t B = y.dim(0), T = y.dim(1), V = y.dim(2);
  const Tensor before = reshape(slice(y, 1, 0, T - 1), {B * (T - 1), V});  // what stands before every token but the first
  const Tensor labels = tokens.ids.slice(1, 1, T).dense().reshape({B * (T - 1), 1});
  const Tensor loss = neg(mean(gather(log_softmax(before), 1, labels)));
  CHECK(loss.item() == Approx(g["loss"].item()).epsilon(1e-12));
  backward(loss);
  CHECK(close(model.wpe.weight.grad(), g["grad.wpe.weight"], 1e-10, 1e-12));  // rows 9 to 11 are nobody's: zeros
  CHECK(close(grad_of(model.wte), g["grad.wte.weight"], 1e-10, 1e-12));
  CHECK(close(grad_of(model.ln_1_bias), g["grad.h.0.ln_1.bias"], 1e-10, 1e-12));
}

TEST_CASE("positions: learned rows are found by position, padding reads the first, and there are only so many") {
  LearnedPositions table(3, 2);
  copy(Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {3, 2}).view(), table.weight.value().out());
  const Tensor x = Tensor::zeros({1, 3, 2}), y = table(x, Tensor::from(std::vector<int32_t>{2, 0, -1}, {1, 3}));
  CHECK(y.to_vector() == std::vector<double>{5, 6, 1, 2, 1, 2});
  CHECK(table.describe() == "LearnedPositions 3 x 2");
  CHECK_THROWS_WITH(table(x, Tensor::from(std::vector<int32_t>{0, 1, 3}, {1, 3})), Contains("positions: 3 has no row, 3 are learned"));
}
