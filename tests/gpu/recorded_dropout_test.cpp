// Dropout whose key lies in device memory: the masks of the host's keys, in launched and in replayed passes, whatever is computed again.
#include "autograd/ops.h"
#include "autograd/recorded_dropout.h"
#include "nn/body_graphs.h"
#include "nn/lora.h"
#include "tensor/gpu/graph.h"
#include "tests/gpu/tiny_model.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"
#include "tests/train/small.h"
#include "train/dpo.h"

using namespace facet;
using namespace facet::test;

namespace {

/// Dropped rows and their gradient, both on the CPU.
template <class Drop>
std::pair<Tensor, Tensor> both_ways(const Tensor& value, Drop drop) {
  Tensor x = leaf(value, value.dtype());
  const Tensor y = drop(x);
  backward(y, Tensor::full(y.shape(), 3, y.dtype()).to(y.device()));
  return {y.detach().to(Device::cpu), grad_of(x).to(Device::cpu)};
}

/// A model with an adapter that drops, and what trains it.
struct Trainer {
  std::unique_ptr<Gemma> model;
  std::unique_ptr<Adapters> adapters;
  std::unique_ptr<AdamW> optimizer;

  struct Kind {
    DType dtype = DType::f32;
    Recompute recompute = Recompute::none;
    bool dora = false;
    double dropout = 0.3;
  };
  Trainer(const Kind& k, bool graphs, Device device = Device::gpu) {
    gpu::emulate(true);
    model = small_model(k.dtype);
    model->recompute = k.recompute;
    adapters = std::make_unique<Adapters>(*model);
    LoraOptions o{.rank = 4, .alpha = 32, .dropout = k.dropout, .targets = {"q", "v", "down"}};  // joined with others, and alone
    o.dora = k.dora;
    adapters->add("x", o, key(1));
    model->to(device);
    if (graphs) model->graphs = std::make_shared<BodyGraphs>(*model);
    optimizer = std::make_unique<AdamW>(std::vector<ParameterGroup>{{.parameters = trained()}});
    optimizer->keep_gradients(device == Device::gpu);
  }
  std::vector<Parameter*> trained() const {
    std::vector<Parameter*> list;
    for (Parameter* p : parameters(*model))
      if (p->trains()) list.push_back(p);
    return list;
  }
  /// A step over two micro-batches; its loss.
  double step(int64_t i, std::optional<Key> k) {
    const Tensor ids = randint(key(100 + static_cast<uint64_t>(i)), {2, 9}, 0, small_config().vocab);
    const std::vector<Batch> micro = {batch_of(plain_tokens(ids.slice(0, 0, 1).clone())), batch_of(plain_tokens(ids.slice(0, 1, 2).clone()))};
    const double loss = accumulate_sft(*model, micro, k).loss;
    optimizer->step(1e-2, optimizer->clip(1.0).scale);
    return loss;
  }
  static Key of_step(int64_t i) { return fold_in(key(5), static_cast<uint32_t>(i)); }
  std::vector<double> steps(int64_t begin, int64_t end) {
    std::vector<double> losses;
    for (int64_t i = begin; i < end; ++i) losses.push_back(step(i, of_step(i)));
    return losses;
  }
  std::vector<Tensor> state() const {
    std::vector<Tensor> all;
    for (Parameter* p : trained()) all.push_back(p->value().detach().to(Device::cpu).clone());
    for (const auto& [name, t] : optimizer->state()) all.push_back(t.to(Device::cpu).clone());
    return all;
  }
};

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Tensor& x, const Tensor& y) { return static_cast<bool>(bitwise_equal(x, y)); });
}

}  // namespace

TEST_CASE("recorded dropout: words in memory draw what the key draws, on both devices") {
  gpu::emulate(true);
  Random r(1);
  const Key k{0x12345678u, 0x9abcdef0u};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (const Shape& s : {Shape{1, 1}, Shape{3, 31}, Shape{5, 64}, Shape{2, 4099}}) {
      const Tensor x = r.normal(s, DType::f32).to(dtype);
      const auto want = both_ways(x, [&](const Tensor& v) { return dropout(v, 0.4, fold_in(k, 77)); });
      for (const Device device : {Device::cpu, Device::gpu}) {
        if (dtype == DType::f64 && device == Device::gpu) continue;
        const auto got = both_ways(x.to(device), [&](const Tensor& v) { return dropout(v, 0.4, words_of(k).to(device), 77); });
        CHECK(bitwise_equal(got.first, want.first));
        CHECK(bitwise_equal(got.second, want.second));
      }
    }
  const Tensor x = Tensor::zeros({3});
  CHECK_THROWS_WITH(dropout(x, 0.4, Tensor::zeros({2}), 1), Catch::Contains("dropout: words f32 [2]: expected a key's two, i32, beside x"));
  CHECK_THROWS_WITH(dropout(x, 0.4, words_of(k).to(Device::gpu), 1), Catch::Contains("beside x"));
  CHECK_THROWS_WITH(words_of(key(1, Counters::original)), Catch::Contains("partitionable"));
}

TEST_CASE("recorded dropout: a graph draws by the words of its replay, and refuses a key of the host") {
  gpu::emulate(true);
  const Tensor x = Tensor::full({7, 33}, 1).to(Device::gpu), words = words_of(key(1)).to(Device::gpu);
  Tensor y;
  gpu::Graph graph;
  const auto arena = std::make_shared<gpu::Arena>();
  CHECK_THROWS_WITH(graph.record(arena, [&] { y = dropout(x, 0.5, key(1)); }), Catch::Contains("would be the same in every replay"));
  graph.record(arena, [&] { y = dropout(x, 0.5, words, 4); });
  for (const uint64_t seed : {1, 2, 3}) {
    words.set(words_of(key(seed)));
    graph.replay();
    CHECK(bitwise_equal(y.to(Device::cpu), dropout(x.to(Device::cpu), 0.5, fold_in(key(seed), 4))));
  }
}

TEST_CASE("recorded dropout: replayed steps of an adapter that drops have the bits of launched ones, and launch nothing outside of graphs") {
  for (const Trainer::Kind& k : {Trainer::Kind{.recompute = Recompute::norms}, Trainer::Kind{DType::bf16, Recompute::block}, Trainer::Kind{DType::bf16, Recompute::mlp, true}}) {
    INFO(name_of(k.dtype) << ", recompute " << static_cast<int>(k.recompute) << (k.dora ? ", DoRA" : ""));
    Trainer launched(k, false), replayed(k, true);
    for (int64_t i = 0; i < 5; ++i) {
      const auto of_step = i == 3 ? std::optional<Key>() : Trainer::of_step(i);  // one step that drops nothing
      const double want = launched.step(i, of_step);
      gpu::synchronize();  // a device that works late counts late
      const int64_t before = gpu::emulator::counters().lone_launches;
      CHECK(replayed.step(i, of_step) == want);
      gpu::synchronize();
      if (i == 2 || i == 4) CHECK(gpu::emulator::counters().lone_launches == before);
    }
    CHECK(replayed.model->graphs->replays() == 2 * 3);  // of five steps the first was launched, and the one without dropout
    CHECK(same(replayed.state(), launched.state()));
  }
}

TEST_CASE("recorded dropout: the GPU drops what the CPU drops") {
  Trainer cpu({}, false, Device::cpu), gpu({}, true), none({.dropout = 0}, false, Device::cpu);
  const auto want = cpu.steps(0, 4), got = gpu.steps(0, 4), kept = none.steps(0, 4);
  for (size_t i = 0; i < want.size(); ++i) CHECK(got[i] == Approx(want[i]).epsilon(1e-4));
  CHECK(std::abs(kept[3] - want[3]) > 1e-3 * want[3]);  // ten times what the devices may differ by
}

TEST_CASE("recorded dropout: a run that goes on from a saved state is the one that was not cut") {
  Trainer whole({}, true), second({}, true);
  whole.steps(0, 3);
  for (size_t i = 0; i < whole.trained().size(); ++i) second.trained()[i]->value().set(whole.trained()[i]->value().detach());
  NamedTensors saved;
  for (const auto& [name, t] : whole.optimizer->state()) saved.emplace_back(name, t.clone());
  second.optimizer->load_state(saved);
  CHECK(second.steps(3, 5) == whole.steps(3, 5));
  CHECK(same(second.state(), whole.state()));
}

TEST_CASE("recorded dropout: preferences, with the base under the adapter as reference") {
  const Dataset data = small_pairs();
  const Loader loader(data, {.batch = 2, .accum = 2, .pad_to = 12});
  std::vector<double> figures;
  std::vector<Tensor> state;
  for (const bool graphs : {false, true}) {
    Trainer t({.dtype = DType::bf16}, graphs);
    const Reference reference = adapter_off_reference(*t.adapters, data);
    std::vector<double> now;
    for (int64_t i = 0; i < 4; ++i) {
      const DpoStep s = accumulate_dpo(*t.model, data, loader.at(i), reference, {}, Trainer::of_step(i));
      t.optimizer->step(1e-2, t.optimizer->clip(1.0).scale);
      now.insert(now.end(), {s.figures.loss, s.figures.chosen_reward, s.figures.rejected_reward});
    }
    if (graphs) CHECK(t.model->graphs->replays() == 6);
    else figures = now, state = t.state();
    CHECK(now == figures);
    CHECK(same(t.state(), state));
  }
}
