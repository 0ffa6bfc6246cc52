// Training on the GPU and on the CPU from the same weights, step by step.
#include <cmath>

#include "app/conformance/small_model.h"
#include "app/train_run.h"
#include "data/make_tokenizer.h"
#include "nn/body_graphs.h"
#include "nn/lora.h"
#include "optim/adamw.h"
#include "train/dpo.h"
#include "train/grpo.h"
#include "train/sft.h"

namespace facet::app {
namespace {

using Curve = std::vector<double>;

// The losses of so many steps. `gradients` adds those of a step and returns its loss.
Curve learn(Gemma& model, int64_t steps, const std::function<double(int64_t)>& gradients, bool keep_gradients = false) {
  AdamW optimizer(parameter_groups(model, 0.01), {});
  optimizer.keep_gradients(keep_gradients);
  Curve losses;
  for (int64_t i = 0; i < steps; ++i) {
    losses.push_back(gradients(i));
    const Clip clip = optimizer.clip(1.0);
    if (!clip.finite()) fail(Kind::check, "the gradient of step {} is not finite", i);
    optimizer.step(2e-3, clip.scale);
  }
  return losses;
}

Outcome compare_curves(const Curve& got, const Curve& want, double most) {
  double worst = 0;
  size_t where = 0;
  bool finite = true;
  for (size_t i = 0; i < want.size(); ++i) {
    finite = finite && std::isfinite(got[i]);
    const double far = std::abs(got[i] - want[i]);
    if (far > worst) worst = far, where = i;
  }
  return {finite && worst <= most,
          fmt::format("{} steps, {:.4f} -> {:.4f}, largest difference {:.1e} at step {} ({:g} allowed)", want.size(), got.front(), got.back(), worst, where, most),
          {{"steps", static_cast<double>(want.size())}, {"first_loss", got.front()}, {"last_loss", got.back()}, {"largest_difference", worst}}};
}

// Batches of different lengths and paddings, a few of them over and over.
std::vector<Batch> some_batches(const Conformance& c, int64_t vocab) {
  const int64_t rows = c.tiny ? 2 : 8, length = c.tiny ? 10 : 96;
  std::vector<Batch> list;
  for (int64_t i = 0; i < 2; ++i) list.push_back(random_batch(rows, length + 3 * i, vocab, c.seed + static_cast<uint64_t>(i)));
  return list;
}

enum class Lora { none, plain, drops };  // one that sees all of x is part of the base's products, one that drops is not
struct Run {
  DType dtype = DType::f32;
  Device device = Device::gpu;
  Lora lora = Lora::none;
  bool graphs = false;
};
struct Learned {
  Curve losses;
  uint32_t weights = 0;   ///< a hash of what they have become
  int64_t replays = 0;    ///< passes that came from graphs
};

Learned supervised(const Conformance& c, const Run& r) {
  const auto model = small_model(c, r.dtype, Device::cpu);
  std::unique_ptr<Adapters> adapters;
  if (r.lora != Lora::none) {
    adapters = std::make_unique<Adapters>(*model);
    adapters->add("conformance", {.rank = 8, .alpha = 16, .dropout = r.lora == Lora::drops ? 0.1 : 0}, key(c.seed + 5));
  }
  model->to(r.device);
  const std::vector<Batch> batches = some_batches(c, model->vocab());
  if (r.graphs) model->graphs = std::make_shared<BodyGraphs>(*model);
  Learned result;
  result.losses = learn(*model, c.tiny ? 8 : 20, [&](int64_t step) {
    const Batch& b = batches[static_cast<size_t>(step) % batches.size()];
    const DropoutScope scope(fold_in(key(c.seed), static_cast<uint32_t>(step)));
    return batch_loss(*model, b, 1.0 / static_cast<double>(b.supervised));
  }, r.graphs);
  WeightHash hash;
  for (Parameter* p : parameters(*model)) hash.add(p->name, p->value());
  result.weights = hash.value();
  if (r.graphs) result.replays = model->graphs->replays();
  return result;
}

Outcome same_bits(const Learned& a, const Learned& b, const char* good) {
  for (size_t i = 0; i < a.losses.size(); ++i)
    if (a.losses[i] != b.losses[i]) return {false, fmt::format("the losses of step {} differ: {:.9g} and {:.9g}", i, a.losses[i], b.losses[i])};
  return {a.weights == b.weights, a.weights == b.weights ? good : "the losses agree, the weights after the last step do not"};
}

Curve dpo_curve(const Conformance& c, Device device, bool graphs = false) {
  const auto model = small_model(c, DType::f32, device);
  if (graphs) model->graphs = std::make_shared<BodyGraphs>(*model);
  Dataset data(Task::preference);
  const int64_t pairs = c.tiny ? 2 : 8, prompt = c.tiny ? 4 : 24, answer = c.tiny ? 4 : 24;
  const Tensor ids = randint(fold_in(key(c.seed), 9), {pairs, prompt + 2 * answer}, 3, model->vocab());
  for (int64_t i = 0; i < pairs; ++i) {
    const auto token = [&](int64_t t) { return static_cast<int32_t>(ids.at({i, t})); };
    for (int64_t side = 0; side < 2; ++side) {
      Example e;
      for (int64_t t = 0; t < prompt; ++t) e.add(token(t), false);
      for (int64_t t = 0; t < answer - side; ++t) e.add(token(prompt + side * answer + t), true);
      data.add(e, i + 1);
    }
  }
  Loader loader(data, {.batch = pairs, .accum = 2, .seed = c.seed, .share = true});
  LogProbs all;
  {
    const NoGrad off;
    reference_pass(*model, data, pairs, true, 0, all, [](int64_t, int64_t) {});
  }
  const Reference reference = [&](const Batch& b) {
    LogProbs r;
    for (int64_t e : b.examples) r.push_back(all[static_cast<size_t>(e)]);
    return r;
  };
  return learn(*model, c.tiny ? 3 : 20, [&](int64_t step) {
    return accumulate_dpo(*model, data, loader.at(step), reference, {}).figures.loss;
  }, graphs);
}

// Completions are drawn on the device too: one other token and the curves part.
Curve grpo_curve(const Conformance& c, Device device, double& gap) {
  const Tokenizer tokenizer = Tokenizer::from_bytes(char_tokenizer("0123456789+-*/=abcdef"), "conformance");
  const auto model = small_model(c, DType::f32, device, tokenizer.vocab_size());
  std::vector<Question> questions;
  for (int64_t i = 0; i < 8; ++i) {
    Question q;
    q.prompt = fmt::format("{}+{}{}=", 3 * i + 1, 7 * i, i % 2 ? "*2" : "");
    q.ids = encode_prompt(tokenizer, q.prompt);
    q.where = "conformance";
    questions.push_back(std::move(q));
  }
  Rewards rewards;
  rewards.add(make_verifier("length:2..4"));
  GrpoOptions o;
  o.prompts = 2;
  o.rollout.group = c.tiny ? 3 : 8;
  o.rollout.max_new = c.tiny ? 5 : 12;
  o.rollout.rows = 4;  // fewer than completions: rows are replaced while others go on
  o.rollout.stop = tokenizer.stop_ids();
  o.layout.share_prompts = true;
  o.seed = c.seed;
  Grpo objective(*model, tokenizer, questions, {}, rewards, o);
  return learn(*model, c.tiny ? 3 : 20, [&](int64_t step) {
    const StepReport r = objective.accumulate(step);
    if (const auto g = r.extra.find("gap"); g != r.extra.end()) gap = std::max(gap, g->second);
    return r.loss;
  });
}

}  // namespace

void conform_train(Conformance& c) {
  c.begin("train");
  const int64_t before = device_bytes();
  const auto curve = [&](DType dtype, Device device, Lora lora) { return supervised(c, {dtype, device, lora, false}).losses; };
  c.check("supervised, f32, CPU against GPU",
          [&] { return compare_curves(curve(DType::f32, Device::gpu, Lora::none), curve(DType::f32, Device::cpu, Lora::none), 1e-3); });
  for (const auto& [name, lora] : {std::pair("LoRA", Lora::plain), std::pair("LoRA with dropout", Lora::drops)})
    c.check(fmt::format("{}, f32, CPU against GPU", name),
            [&, kind = lora] { return compare_curves(curve(DType::f32, Device::gpu, kind), curve(DType::f32, Device::cpu, kind), 1e-3); });
  // On the GPU activations are bf16 as well, on the CPU they are f32: a band, not an equality.
  c.check("supervised, bf16, GPU against f32 on the CPU",
          [&] { return compare_curves(curve(DType::bf16, Device::gpu, Lora::none), curve(DType::f32, Device::cpu, Lora::none), 5e-2); });
  c.check("LoRA, bf16, GPU against f32 on the CPU",
          [&] { return compare_curves(curve(DType::bf16, Device::gpu, Lora::plain), curve(DType::f32, Device::cpu, Lora::plain), 5e-2); });
  c.check("bf16, the same bits in a second run", [&] {
    const Run r{DType::bf16};
    return same_bits(supervised(c, r), supervised(c, r), "losses and weights agree in every bit");
  });
  const auto replayed = [&](const char* name, Run r) {
    c.check(name, [&c, r]() mutable {
      const Learned eager = supervised(c, r);
      r.graphs = true;
      const Learned graphs = supervised(c, r);
      Outcome o = same_bits(graphs, eager, "losses and weights agree in every bit");
      o.detail += fmt::format("; {} passes replayed", graphs.replays);
      o.figures = {{"replays", static_cast<double>(graphs.replays)}};
      o.ok = o.ok && graphs.replays > 0;
      return o;
    });
  };
  replayed("bf16, recorded graphs = eager", {DType::bf16});
  replayed("f32, recorded graphs = eager", {DType::f32});
  replayed("LoRA, bf16, recorded graphs = eager", {.dtype = DType::bf16, .lora = Lora::plain});
  replayed("LoRA with dropout, bf16, recorded graphs = eager", {.dtype = DType::bf16, .lora = Lora::drops});
  c.check("preferences, f32, CPU against GPU", [&] { return compare_curves(dpo_curve(c, Device::gpu), dpo_curve(c, Device::cpu), 1e-3); });
  c.check("preferences, f32, recorded graphs = eager", [&] { return compare_curves(dpo_curve(c, Device::gpu, true), dpo_curve(c, Device::gpu), 0); });
  c.check("rewards, f32, CPU against GPU", [&] {
    double gap = 0, ignored = 0;
    Outcome o = compare_curves(grpo_curve(c, Device::gpu, gap), grpo_curve(c, Device::cpu, ignored), 1e-3);
    o.ok = o.ok && gap < 1e-3;
    o.detail += fmt::format("; what samples and what learns differ by {:.1e}", gap);
    o.figures.emplace_back("largest_gap", gap);
    return o;
  });
  c.check("memory returned after training", [&] {
    const int64_t held = device_bytes() - before;
    return Outcome{held == 0, fmt::format("{} bytes still held", held), {{"held_bytes", static_cast<double>(held)}}};
  });
}

}  // namespace facet::app
