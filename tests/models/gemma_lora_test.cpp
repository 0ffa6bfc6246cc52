// Adapters on Gemma: what they promise before and while they learn.
#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "models/gemma/hf.h"
#include "models/gemma/model.h"
#include "nn/dropout.h"
#include "nn/lora.h"
#include "tensor/profile.h"
#include "tensor/storage.h"
#include "tests/models/reference.h"
#include "tests/support/compare.h"

using namespace facet;
using facet::test::bitwise_equal;
using facet::test::close;
using facet::test::Golden;
using facet::test::golden_model;

namespace {

Tokens some_tokens() {
  const Golden g("gemma3-tiny-ref/taps.safetensors");
  return plain_tokens(g["b.input_ids"]);
}

Tensor logits(Gemma& model, const Tokens& t) {
  const NoGrad off;
  return model.logits(model.hidden(t));
}

// Gives B something to say: a step away from zero.
void move(Adapters& adapters, const std::string& name, uint32_t seed) {
  for (const auto& [path, f] : adapters.factors(name)) {
    Parameter& p = f->of_table ? f->a : f->b;
    const Tensor noise = normal(fold_in(key(seed), f->salt), p.value().shape());
    p.reset(mul(noise, 0.05).to(p.value().dtype()), true);
  }
}

double mean_square_backward(Gemma& model, const Tokens& t) {
  const Tensor loss = mean(square(model.hidden(t)));
  const double value = loss.item();
  backward(loss);
  return value;
}

std::vector<Tensor> adapter_gradients(Gemma& model) {
  std::vector<Tensor> list;
  for (Parameter* p : parameters(model))
    if (p->trains()) list.push_back(p->grad().clone()), p->clear_grad();
  return list;
}

}  // namespace

TEST_CASE("lora: a fresh adapter changes no bit of the model, whatever it is put on") {
  for (DType storage : {DType::f32, DType::bf16, DType::f64}) {
    const auto model = golden_model("gemma3-tiny", storage);
    const Tokens t = some_tokens();
    const Tensor base = logits(*model, t);
    const uint32_t hash = base_hash(*model);
    Adapters adapters(*model);
    adapters.add("plain", {.targets = {"all-linear", "embedding"}}, key(1));
    CHECK(bitwise_equal(logits(*model, t), base));
    adapters.add("dora", {.rank = 3, .dora = true}, key(2));
    CHECK(bitwise_equal(logits(*model, t), base));
    adapters.add("dropping", {.dropout = 0.5}, key(2));
    const DropoutScope scope(key(5));
    CHECK(bitwise_equal(logits(*model, t), base));
    CHECK(base_hash(*model) == hash);
    for (const auto& [path, f] : adapters.factors("plain")) CHECK(f->a.value().dtype() == acc_dtype(storage));
  }
}

TEST_CASE("lora: only the adapter in use trains and is listed; the base keeps its names") {
  const auto model = golden_model("gemma3-tiny");
  std::vector<std::string> before;
  for (Parameter* p : parameters(*model)) before.push_back(p->name);
  Adapters adapters(*model);
  adapters.add("x", {.rank = 4, .targets = {"q", "v_proj", "layers.5.mlp.*"}}, key(1));
  std::vector<std::string> trained, frozen;
  for (Parameter* p : parameters(*model)) (p->trains() ? trained : frozen).push_back(p->name);
  CHECK(frozen == before);
  CHECK(trained.size() == 2 * (7 + 7 + 3));
  CHECK(trained[0] == "layers.0.self_attn.q_proj.lora_A.weight");
  CHECK(trained[1] == "layers.0.self_attn.q_proj.lora_B.weight");
  CHECK(count_parameters(*model, true) == 7 * (4 * (64 + 128) + 4 * (64 + 64)) + 3 * 4 * (64 + 128));
  adapters.use("");
  CHECK(parameters(*model).size() == before.size());
}

TEST_CASE("lora: adapters are switched without a copy; off is the base") {
  const auto model = golden_model("gemma3-tiny");
  const Tokens t = some_tokens();
  const Tensor base = logits(*model, t);
  Adapters adapters(*model);
  adapters.add("one", {.targets = {"all-linear", "embedding"}}, key(1));
  move(adapters, "one", 1);
  const Tensor one = logits(*model, t);
  adapters.add("two", {.rank = 2, .rslora = true, .targets = {"q", "down"}}, key(2));
  move(adapters, "two", 2);
  const Tensor two = logits(*model, t);
  CHECK_FALSE(close(one, base, 1e-3, 1e-3).ok);
  CHECK_FALSE(close(two, one, 1e-3, 1e-3).ok);
  adapters.use("one");
  CHECK(bitwise_equal(logits(*model, t), one));
  {
    const AdapterOff off(adapters);
    CHECK(adapters.active().empty());
    CHECK(bitwise_equal(logits(*model, t), base));
  }
  CHECK(adapters.active() == "one");
  CHECK(bitwise_equal(logits(*model, t), one));
  CHECK_THROWS_WITH(adapters.use("three"), Catch::Contains("no adapter \"three\"; there are one, two"));
}

TEST_CASE("lora: switching takes no memory; an adapter takes its factors' and no more") {
  for (const DType storage : {DType::f32, DType::bf16}) {
    const auto model = golden_model("gemma3-tiny", storage);
    const Tokens t = some_tokens();
    Adapters adapters(*model);
    logits(*model, t);
    const size_t alone = pool_stats().live_bytes;
    size_t factors = 0;
    for (const char* name : {"one", "two", "three"}) {
      adapters.add(name, {.rank = 4, .targets = {"all-linear", "embedding"}}, key(1));
      move(adapters, name, 1);
      for (const auto& [path, f] : adapters.factors(name)) factors += 4 * static_cast<size_t>(f->a.value().numel() + f->b.value().numel());
    }
    logits(*model, t);
    const size_t all = pool_stats().live_bytes;
    CHECK(all - alone >= factors);
    CHECK(all - alone <= 2 * factors);  // the pool rounds up
    const void* table = model->embed_tokens.weight.value().view().data;
    pool_reset_peak();
    for (int i = 0; i < 3; ++i)
      for (const char* name : {"one", "", "three", "two"}) adapters.use(name);
    CHECK(pool_stats().peak_bytes == all);
    const size_t blocks = pool_stats().sys_allocs;
    for (const char* name : {"three", "", "one"}) adapters.use(name), logits(*model, t);
    CHECK(pool_stats().live_bytes == all);
    CHECK(pool_stats().sys_allocs == blocks);
    CHECK(model->embed_tokens.weight.value().view().data == table);
  }
}

TEST_CASE("lora: backward computes no gradient of a base weight") {
  const auto model = golden_model("gemma3-tiny");
  const Tokens t = some_tokens();
  const GemmaConfig& c = model->config;
  const int64_t r = 4, N = t.ids.numel();
  Adapters adapters(*model);
  adapters.add("x", {.rank = r}, key(1));
  const Tensor loss = mean(square(model->hidden(t)));
  count_products();
  backward(loss);
  const Products p = counted_products();
  // Of every projection [O, I]: dx through W; of its adapter: dB, dt, dA, dx through A. The first block's q, k, v and nothing else
  // pass no dx on: the embedding is frozen.
  const int64_t D = c.width, Q = c.heads * c.head_dim, KV = c.kv_heads * c.head_dim, F = c.hidden;
  const auto adapter = [&](int64_t I, int64_t O, bool dx) { return 2 * N * r * (2 * O + I + (dx ? I : 0)); };
  const auto block = [&](bool dx) {
    return (dx ? 2 * N * D * (Q + 2 * KV) : 0) + 2 * N * (Q * D + 3 * D * F) + adapter(D, Q, dx) + 2 * adapter(D, KV, dx) + adapter(Q, D, true) +
           2 * adapter(D, F, true) + adapter(F, D, true);
  };
  CHECK(p.flops == (c.layers - 1) * block(true) + block(false));
  CHECK(p.count == (c.layers - 1) * 7 * 5 + 4 * 5 + 3 * 3);
  for (Parameter* q : parameters(*model)) CHECK(static_cast<bool>(q->grad()) == is_adapter(q->name));
}

TEST_CASE("lora: the model knows what its passes cost") {
  const Tokens t = some_tokens();
  const auto N = static_cast<double>(t.ids.numel());
  const auto counted = [&](Gemma& model) {
    count_products();
    mean_square_backward(model, t);
    return static_cast<double>(counted_products().flops);
  };
  const auto model = golden_model("gemma3-tiny");
  const double forward = model->forward_flops(N, 0, 0);
  CHECK(model->step_flops(N, 0, 0) == 3 * forward);
  CHECK(counted(*model) == 3 * forward);
  CHECK(model->step_flops(N, 0, N) == 3 * model->forward_flops(N, 0, N));
  const double tokens = 1024, all = model->activation_bytes(tokens, Recompute::none);  // the pool rounds nothing of such a size

  Adapters adapters(*model);
  adapters.add("all", {.rank = 4, .targets = {"all-linear", "embedding"}}, key(1));
  CHECK(model->forward_flops(N, 0, 0) == forward + 2 * N * (7 * 4 * (64 + 128 + 2 * (64 + 64) + 128 + 64 + 3 * (64 + 128)) + 4 * 64));
  const double step = model->step_flops(N, 0, 0);
  CHECK(step < 0.8 * 3 * forward);
  CHECK(counted(*model) == Approx(step).epsilon(1e-3));
  CHECK(model->step_flops(N, 0, N) - step == 2 * N * 2 * 512 * 64);  // no gradient of the table
  CHECK(model->activation_bytes(tokens, Recompute::none) == all + 4 * tokens * 7 * 7 * 4);
  adapters.add("few", {.rank = 4, .targets = {"q"}}, key(2));
  CHECK(model->activation_bytes(tokens, Recompute::none) == all + 4 * tokens * 7 * (4 - 64 - 128));
}

TEST_CASE("lora: recomputation replays the masks, even when backward runs outside the scope") {
  const auto model = golden_model("gemma3-tiny");
  const Tokens t = some_tokens();
  Adapters adapters(*model);
  adapters.add("x", {.dropout = 0.4}, key(1));
  move(adapters, "x", 3);
  std::vector<Tensor> plain;
  for (const Recompute r : {Recompute::none, Recompute::norms, Recompute::mlp, Recompute::block}) {
    model->recompute = r;
    Tensor loss;
    {
      const DropoutScope scope(key(11));
      loss = mean(square(model->hidden(t)));
    }
    backward(loss);
    const auto gradients = adapter_gradients(*model);
    if (plain.empty()) plain = gradients;
    for (size_t i = 0; i < plain.size(); ++i) CHECK(bitwise_equal(gradients[i], plain[i]));
  }
  model->recompute = Recompute::none;
  {
    const DropoutScope scope(key(12));
    mean_square_backward(*model, t);
  }
  CHECK_FALSE(bitwise_equal(adapter_gradients(*model)[0], plain[0]));  // another micro-batch, another mask
  const Tensor quiet = logits(*model, t);
  CHECK(bitwise_equal(logits(*model, t), quiet));  // no scope, no dropout
}

TEST_CASE("lora: scales, and what an adapted embedding looks up") {
  CHECK(LoraOptions{.rank = 4, .alpha = 6}.scale() == 1.5);
  CHECK(LoraOptions{.rank = 4, .alpha = 6, .rslora = true}.scale() == 3);
  const auto model = golden_model("gemma3-tiny", DType::f64);
  Adapters adapters(*model);
  adapters.add("x", {.rank = 2, .alpha = 6, .targets = {"embedding"}}, key(1));
  move(adapters, "x", 1);
  const LoraFactors& f = *adapters.factors("x")[0].second;
  const Tensor table = add(model->embed_tokens.weight.value(), mul(linear(f.a.value(), f.b.value()), 3)).detach();  // [V, D]
  const Tensor ids = Tensor::from(std::vector<int32_t>{3, 500, 3}, {3});
  CHECK(close(model->embed_tokens(ids, 8, DType::f64), embedding(ids, table, 8, DType::f64), 1e-12));
  CHECK(model->head().value().shares_storage(model->embed_tokens.weight.value()));  // the head stays the base's
}

TEST_CASE("lora: scopes of dropout nest") {
  CHECK_FALSE(dropout_key());
  const DropoutScope outer(key(1));
  {
    const DropoutScope inner(key(2));
    CHECK(dropout_key()->key == key(2));
    const DropoutScope none(std::nullopt);
    CHECK_FALSE(dropout_key());
  }
  CHECK(dropout_key()->key == key(1));
}

TEST_CASE("lora: targets that fit nothing are named with their nearest") {
  const auto model = golden_model("gemma3-tiny");
  Adapters adapters(*model);
  CHECK_THROWS_WITH(adapters.add("x", {.targets = {"q", "qq_proj"}}, key(1)), Catch::Contains("\"qq_proj\" fits no module") && Catch::Contains("did you mean q_proj?"));
  CHECK_THROWS_WITH(adapters.add("x", {.targets = {"gat"}}, key(1)), Catch::Contains("did you mean gate?"));
  CHECK_THROWS_WITH(adapters.add("x", {.targets = {"all-linaer"}}, key(1)), Catch::Contains("did you mean all-linear?"));
  CHECK_THROWS_AS(adapters.add("x", {.targets = {}}, key(1)), Error);
  CHECK_THROWS_AS(adapters.add("x", {.rank = 0}, key(1)), Error);
  CHECK_THROWS_AS(adapters.add("x", {.alpha = -1}, key(1)), Error);
  CHECK_THROWS_AS(adapters.add("x", {.dropout = 1}, key(1)), Error);
  CHECK_THROWS_WITH(adapters.add("x", {.dora = true, .targets = {"embedding"}}, key(1)), Catch::Contains("DoRA is for linear layers"));
  CHECK(adapters.names().empty());
  for (Parameter* p : parameters(*model)) CHECK(p->trains());  // a refused adapter freezes nothing
  adapters.add("x", {}, key(1));
  CHECK_THROWS_WITH(adapters.add("x", {}, key(1)), Catch::Contains("taken"));
  CHECK_THROWS_AS(Adapters(*model), Error);
}

TEST_CASE("lora: DoRA's row norms need no second matrix and are those of W + s B A") {
  const auto model = golden_model("gemma3-tiny", DType::f64);
  Adapters adapters(*model);
  adapters.add("x", {.rank = 3, .dora = true, .targets = {"q"}}, key(1));
  move(adapters, "x", 4);
  const auto [path, f] = adapters.factors("x")[0];
  const auto& weight = static_cast<LoraWeight&>(*model->blocks[0]->attention.q_proj.weight);
  const Tensor w = static_cast<DenseWeight&>(*weight.base).weight.value();
  const Tensor whole = add(w, mul(matmul(f->b.value(), f->a.value()), f->scale)).detach();  // [O, I]
  const Tensor norms = sqrt(sum(square(whole), {1}));
  CHECK(close(adapted_row_norms(w, *f), norms, 1e-12));
  f->magnitude.reset(mul(f->magnitude.value().detach(), 1.5).detach(), true);
  const Tensor x = normal(key(9), {5, w.dim(1)}).to(DType::f64);
  const Tensor c = div(f->magnitude.value().detach(), norms);
  CHECK(close(weight.apply(x).detach(), mul(linear(x, whole), c), 1e-12, 1e-12));

  // The norm counts as a constant: the gradient of B is that of B in c (W x + s B A x) with c fixed.
  backward(sum(weight.apply(x)));
  const Tensor b = leaf(f->b.value().detach());
  backward(sum(mul(add(linear(x, w), mul(linear(linear(x, f->a.value().detach()), b), f->scale)), c)));
  CHECK(close(f->b.grad(), grad_of(b), 1e-12, 1e-12));
  CHECK(close(f->magnitude.grad(), div(sum(linear(x, whole), {0}), norms), 1e-10, 1e-12));
}
