// The tiny Gemma 3 on the (emulated) GPU against itself on the CPU, which other tests hold against Hugging Face.
#include <cmath>

#include "autograd/anomaly.h"
#include "autograd/ops.h"
#include "infer/generator.h"
#include "nn/body_graphs.h"
#include "nn/lora.h"
#include "tensor/gpu/overlap.h"
#include "tensor/gpu/runtime.h"
#include "tensor/gpu/waits.h"
#include "tensor/kernels/copy.h"
#include "tests/gpu/tiny_model.h"
#include "tests/support/compare.h"
#include "tests/train/small.h"

using namespace facet;
using namespace facet::test;

namespace {

double largest_difference(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector(), y = b.to_vector();
  REQUIRE(x.size() == y.size());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i)
    if (const double d = std::abs(x[i] - y[i]); !(d <= worst)) worst = d;
  return worst;
}

}  // namespace

TEST_CASE("model on the GPU: logits are the CPU's") {
  const NoGrad off;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto cpu = tiny(Device::cpu, dtype), gpu = tiny(Device::gpu, dtype);
    for (const char* set : {"a", "b"}) {
      const Tokens t = tokens_of(set);
      const Tensor want = cpu->logits(cpu->hidden(t)), got = gpu->logits(gpu->hidden(t));
      CHECK(got.device() == Device::gpu);
      const double worst = largest_difference(got, want), size = std::sqrt(mean(square(want)).item());
      INFO(name_of(dtype) << " set " << set << ": " << worst << " of " << size);
      CHECK(worst <= (dtype == DType::f32 ? 2e-5 : 0.2) * size);  // bf16 activations on the GPU, f32 ones on the CPU
    }
  }
}

TEST_CASE("model on the GPU: a step's loss and gradients are the CPU's") {
  const auto cpu = tiny(Device::cpu), gpu = tiny(Device::gpu);
  const Batch b = batch_of(tokens_of("a"));
  const double want = accumulate_sft(*cpu, {&b, 1}).loss, got = accumulate_sft(*gpu, {&b, 1}).loss;
  CHECK(got == Approx(want).epsilon(1e-6));
  const auto p = parameters(*cpu), q = parameters(*gpu);
  for (size_t i = 0; i < p.size(); ++i) {
    INFO(p[i]->name);
    const double size = std::sqrt(mean(square(p[i]->grad())).item());
    CHECK(largest_difference(q[i]->grad(), p[i]->grad()) <= 3e-4 * size + 1e-9);
  }
}

TEST_CASE("model on the GPU: a replayed pass is the eager one, bit for bit, and the CPU's up to rounding") {
  const std::vector<Batch> batches = {batch_of(tokens_of("a"))};
  const int steps = 5;
  const auto cpu = tiny(Device::cpu), eager = tiny(Device::gpu), replayed = tiny(Device::gpu);
  const auto want = train(*cpu, batches, steps), plain = train(*eager, batches, steps);
  replayed->graphs = std::make_shared<BodyGraphs>(*replayed);
  const auto fast = train(*replayed, batches, steps);
  CHECK(replayed->graphs->replays() == steps - 2);
  CHECK(replayed->graphs->loss_replays() == steps - 3);  // launched once, recorded when it comes again
  CHECK(fast == plain);
  for (int i = 0; i < steps; ++i) CHECK(plain[static_cast<size_t>(i)] == Approx(want[static_cast<size_t>(i)]).epsilon(1e-4));
  const auto p = parameters(*eager), q = parameters(*replayed);
  for (size_t i = 0; i < p.size(); ++i) {
    INFO(p[i]->name);
    CHECK(p[i]->value().detach().to_vector() == q[i]->value().detach().to_vector());
  }
}

TEST_CASE("model on the GPU: what is computed again has the bits of what is kept, recorded or not, with an adapter or without") {
  gpu::emulate(true);
  const std::vector<Batch> batches = {batch_of(plain_tokens(randint(key(2), {2, 8}, 0, small_config().vocab)))};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const bool adapter = dtype == DType::bf16;
    std::vector<double> losses;
    std::vector<std::vector<double>> values;
    for (const Recompute r : {Recompute::none, Recompute::norms, Recompute::mlp, Recompute::block}) {
      INFO(name_of(dtype) << ", recompute " << static_cast<int>(r));
      const auto model = small_model(dtype);
      model->recompute = r;
      Adapters adapters(*model);
      if (adapter) adapters.add("x", {.rank = 4}, key(1));
      model->to(Device::gpu);
      model->graphs = std::make_shared<BodyGraphs>(*model);
      tape_stats() = {};
      const auto now = train(*model, batches, 4);
      CHECK(model->graphs->replays() == 2);
      CHECK((tape_stats().recomputed > 0) == (r == Recompute::norms || r == Recompute::mlp));
      if (r == Recompute::none) losses = now;
      CHECK(now == losses);
      size_t i = 0;
      for (Parameter* p : parameters(*model)) {
        if (!p->trains()) continue;
        if (r == Recompute::none) values.push_back(p->value().detach().to_vector());
        CHECK((p->value().detach().to_vector() == values[i++]));
      }
    }
  }
}

TEST_CASE("model on the GPU: all adapters are where the model is, and the same whenever they were added") {
  gpu::emulate(true);
  const Tokens tokens = plain_tokens(randint(key(2), {1, 6}, 0, small_config().vocab));
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const bool dora : {false, true}) {
      INFO(name_of(dtype) << (dora ? ", DoRA" : ""));
      const auto early = small_model(dtype), late = small_model(dtype);
      Adapters before(*early), after(*late);
      late->to(Device::gpu);
      LoraOptions o{.rank = 4};
      o.dora = dora;
      if (!dora) o.targets.push_back("embedding");
      for (Adapters* a : {&before, &after}) a->add("first", o, key(1)), a->add("second", o, key(2));
      early->to(Device::gpu);
      for (const char* name : {"first", "second"}) {
        const auto want = before.factors(name), got = after.factors(name);
        for (size_t i = 0; i < want.size(); ++i)
          for (Parameter LoraFactors::*part : {&LoraFactors::a, &LoraFactors::b, &LoraFactors::magnitude}) {
            const Tensor x = (want[i].second->*part).value(), y = (got[i].second->*part).value();
            REQUIRE(static_cast<bool>(x) == static_cast<bool>(y));
            if (!x) continue;
            CHECK((x.device() == Device::gpu && y.device() == Device::gpu));
            CHECK(x.dtype() == dtype);
            CHECK(y.dtype() == dtype);
            CHECK(nmse_within(y.detach().to(Device::cpu), x.detach().to(Device::cpu), part == &LoraFactors::magnitude ? 1e-5 : 0));
          }
        const NoGrad off;
        before.use(name), after.use(name);
        CHECK(nmse_within(late->hidden(tokens).to(Device::cpu), early->hidden(tokens).to(Device::cpu), dora ? 1e-3 : 0));
      }
    }
}

TEST_CASE("model on the GPU: who looks for a NaN finds none in a step that is right, and names the one that is there") {
  gpu::emulate(true);  // fresh memory is NaN
  const Batch b = batch_of(plain_tokens(randint(key(2), {2, 8}, 0, small_config().vocab)));
  const auto model = small_model();
  model->to(Device::gpu);
  const auto found = [&] {
    Anomaly look(parameters(*model));
    accumulate_sft(*model, {&b, 1});
    return look.found();
  };
  CHECK(found() == "");
  fill(model->blocks[0]->mlp.down_proj.weight->plain()->detach().slice(0, 0, 1).out(), NAN);
  CHECK_THAT(found(), Catch::StartsWith("forward, linear made") && Catch::Contains("layers.0.mlp"));
}

TEST_CASE("model on the GPU: a step waits where its loss and its norm are read, and nowhere else") {
  gpu::emulate(true);
  const Batch b = batch_of(plain_tokens(randint(key(2), {2, 8}, 0, small_config().vocab)));
  const std::vector<Batch> batches = {b, b};
  const auto model = small_model();
  model->to(Device::gpu);
  model->graphs = std::make_shared<BodyGraphs>(*model);
  AdamW optimizer({{.parameters = parameters(*model)}});
  optimizer.keep_gradients(true);
  for (int step = 0; step < 4; ++step) {
    const gpu::NoSync strict(step > 2);
    const int64_t before = gpu::syncs();
    accumulate_sft(*model, batches);
    optimizer.step(1e-3, optimizer.clip(1.0).scale);
    if (step > 2) CHECK(gpu::syncs() - before == 3);  // two losses, one norm
  }
}

TEST_CASE("model on the GPU: cached decoding gives the rows of a whole pass") {
  const NoGrad off;
  const auto model = tiny(Device::gpu);
  const Tokens all = tokens_of("a");
  const Tensor ids = all.ids.slice(0, 0, 1).clone();
  const int64_t T = std::min<int64_t>(ids.dim(1), 12), first = 5;
  const Tensor whole = model->hidden(plain_tokens(ids.slice(1, 0, T).clone()));
  KvCache cache = model->new_cache(1, T, T);
  const auto part = [&](int64_t begin, int64_t end) {
    const Tensor p = Tensor::arange(T).slice(0, begin, end).clone().reshape({1, end - begin});
    return model->hidden({ids.slice(1, begin, end).clone(), p, {}}, &cache);
  };
  CHECK(largest_difference(part(0, first), whole.slice(1, 0, first)) <= 2e-5);
  for (int64_t t = first; t < T; ++t) CHECK(largest_difference(part(t, t + 1), whole.slice(1, t, t + 1)) <= 2e-5);
}

namespace {

struct Launches {
  int64_t all, overlapped;
  Launches operator-(const Launches& o) const { return {all - o.all, overlapped - o.overlapped}; }
};

/// Kernels that one more token for each of `rows` rows launches, with `slots` slots of the cache in sight.
Launches launches_of_step(GemmaConfig config, int64_t layers, int64_t rows, int64_t slots) {
  config.layers = layers;
  config.kinds = pattern(layers, 0);
  Gemma model(config, DType::bf16);
  model.init(Key{7});
  model.to(Device::gpu);
  KvCache cache = model.new_cache(rows, slots, 1);
  const Tokens step{Tensor::full({rows, 1}, 3, DType::i32), Tensor::full({rows, 1}, 0, DType::i32), {}};
  cache.reach_all();  // as a recorded step has it
  model.hidden(step, &cache);
  gpu::synchronize();  // a device that works late counts late
  const auto now = [] { return Launches{gpu::emulator::counters().launches, gpu::emulator::counters().overlapped_launches}; };
  const Launches before = now();
  model.hidden(step, &cache);
  gpu::synchronize();
  return now() - before;
}

}  // namespace

TEST_CASE("model on the GPU: how many kernels a layer launches in decoding") {
  const NoGrad off;
  gpu::emulate(true);
  const auto each = [](const char* name, int64_t rows, int64_t slots) {
    GemmaConfig config = preset(name);
    config.vocab = 32, config.width = 64, config.heads = 2, config.kv_heads = 1, config.head_dim = 32, config.hidden = 128;
    const Launches two = launches_of_step(config, 3, rows, slots) - launches_of_step(config, 1, rows, slots);
    // All but the library's products overlap the one before; there are such with more than 16 rows.
    CHECK(two.overlapped == (rows > 16 ? 2 * 5 : two.all));
    return two.all / 2;
  };
  CHECK(each("gemma3-1b", 1, 64) == 8);
  CHECK(each("gemma3-1b", 1, 300) == 8);  // several pieces of the cache
  CHECK(each("gemma3-1b", 16, 300) == 8);
  CHECK(each("gemma3-1b", 17, 300) == 9);  // more rows than the kernel that has GeGLU in it takes
  CHECK(each("gemma2-2b", 1, 64) == 8);
  CHECK(each("gemma1-2b", 1, 64) == 8);   // no norms behind attention and feed-forward
}

TEST_CASE("model on the GPU: overlapped kernels give the bits of plain ones") {
  const NoGrad off;
  const auto answers = [](bool plain) {
    const gpu::PlainLaunches all(plain);
    const auto model = tiny(Device::gpu);
    GenerateOptions o;
    o.max_new = 6;
    o.ignore_stop = true;
    o.sampling.temperature = 0.8f;
    const int64_t before = gpu::emulator::counters().overlapped_launches;
    const auto got = generate(*model, {{2, 5, 9}, {2, 7}}, o);
    CHECK((gpu::emulator::counters().overlapped_launches == before) == plain);
    return got;
  };
  const auto want = answers(true), got = answers(false);
  for (size_t row = 0; row < 2; ++row) {
    CHECK(got[row].tokens == want[row].tokens);
    CHECK(got[row].log_probs == want[row].log_probs);
  }
}
