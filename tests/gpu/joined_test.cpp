// q, k, v and gate, up as one product each: where their weights and gradients lie, what a layer of a training step launches, and that the
// numbers are those of separate products.
#include "autograd/joined_ops.h"

#include "autograd/ops.h"
#include "nn/body_graphs.h"
#include "tensor/gpu/pool.h"
#include "tensor/gpu/runtime.h"
#include "tensor/gpu/side_by_side.h"
#include "tests/gpu/tiny_model.h"
#include "tests/support/compare.h"
#include "tests/train/small.h"

using namespace facet;
using namespace facet::test;

namespace {

std::vector<std::vector<Tensor>> groups(const Gemma& model, bool gradients) {
  std::vector<std::vector<Tensor>> list;
  const auto add = [&](std::initializer_list<const Linear*> layers) {
    std::vector<Tensor> group;
    for (const Linear* l : layers) {
      const Tensor& w = *l->weight->plain();
      group.push_back(gradients ? grad_of(w) : w.detach());
    }
    list.push_back(std::move(group));
  };
  for (const auto& b : model.blocks) {
    add({&b->attention.q_proj, &b->attention.k_proj, &b->attention.v_proj});
    add({&b->mlp.gate_proj, &b->mlp.up_proj});
  }
  return list;
}

bool all_side_by_side(const Gemma& model, bool gradients) {
  for (const auto& group : groups(model, gradients))
    if (!side_by_side(group)) return false;
  return true;
}

/// Every parameter in memory of its own.
void set_apart(Gemma& model) {
  for (Parameter* p : parameters(model)) p->reset(p->value().detach().clone(), p->trains());
}

Batch some_batch(uint32_t seed = 2) { return batch_of(plain_tokens(randint(key(seed), {2, 9}, 0, small_config().vocab))); }

std::unique_ptr<Gemma> on_gpu(DType dtype) {
  gpu::emulate(true);
  auto model = small_model(dtype);
  model->to(Device::gpu);
  return model;
}

}  // namespace

TEST_CASE("pool: tensors side by side share a block, which goes with the last of them") {
  gpu::emulate(true);
  const auto make = [](int64_t n) { return Tensor::empty({n}, DType::f32, Device::gpu); };
  const auto at = [](const Tensor& t) { return static_cast<const char*>(t.view().data); };
  const size_t before = gpu::pool_stats().live_bytes;
  {
    Tensor a, b, odd, late;
    {
      const gpu::SideBySide row(64 + 32 + 44);
      CHECK(gpu::pool_stats().live_bytes == before);  // taken when it is needed
      a = make(16), b = make(8), odd = make(3);
      CHECK(gpu::pool_stats().live_bytes == before + 140);
      late = make(4);  // would begin at byte 12 of 16
    }
    CHECK(at(b) == at(a) + 64);
    CHECK(at(odd) == at(b) + 32);
    CHECK(gpu::pool_stats().live_bytes == before + 140 + 16);
    CHECK(a.unique());
    CHECK_FALSE(a.shares_storage(b));
    CHECK_THAT(gpu::describe_live_buffer(at(b) + 4), Catch::Contains("byte 4 of tensor f32[8] (32 bytes)"));
    CHECK_THAT(gpu::live_buffers(), Catch::Contains("tensor f32[16]") && !Catch::Contains("side by side"));
    a = {}, odd = {}, late = {};
    CHECK(gpu::pool_stats().live_bytes == before + 140);
    const Tensor elsewhere = make(16);  // the hole is nobody's
    CHECK((at(elsewhere) < at(b) - 64 || at(elsewhere) >= at(b) + 76));
  }
  CHECK(gpu::pool_stats().live_bytes == before);
  { const gpu::SideBySide unused(64); }
  CHECK(gpu::pool_stats().live_bytes == before);
}

TEST_CASE("joined products: weights of one input and their gradients lie side by side, and stay so") {
  for (const bool keep : {true, false}) {
    const auto model = on_gpu(DType::bf16);
    CHECK(all_side_by_side(*model, false));
    const Batch b = some_batch();
    AdamW optimizer({{.parameters = parameters(*model)}});
    optimizer.keep_gradients(keep);
    for (int step = 0; step < 2; ++step) {
      for (int micro = 0; micro < 2; ++micro) {
        accumulate_sft(*model, {&b, 1});
        CHECK(all_side_by_side(*model, true));
      }
      optimizer.step(1e-3);
      CHECK(all_side_by_side(*model, false));
    }
  }
}

TEST_CASE("joined products: losses and gradients are those of separate ones, some frozen or none") {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const char* frozen : {"", "layers.*.k_proj", "layers.*_proj", "*norm*"}) {
      INFO(name_of(dtype) << ", frozen: " << frozen);
      const auto joined = on_gpu(dtype), apart = on_gpu(dtype);
      set_apart(*apart);
      CHECK_FALSE(all_side_by_side(*apart, false));
      const Batch b = some_batch();
      std::vector<double> losses;
      for (Gemma* m : {joined.get(), apart.get()}) {
        if (*frozen) CHECK(set_trains(*m, frozen, false) > 0);
        for (int micro = 0; micro < 2; ++micro) losses.push_back(accumulate_sft(*m, {&b, 1}).loss);
      }
      CHECK(losses[0] == Approx(losses[2]).epsilon(dtype == DType::f32 ? 1e-6 : 1e-3));  // a narrow product may be another kernel's
      const auto p = parameters(*joined), q = parameters(*apart);
      for (size_t i = 0; i < p.size(); ++i) {
        INFO(p[i]->name);
        REQUIRE(static_cast<bool>(p[i]->grad()) == static_cast<bool>(q[i]->grad()));
        if (p[i]->grad()) CHECK(nmse_within(p[i]->grad().to(Device::cpu), q[i]->grad().to(Device::cpu), dtype == DType::f32 ? 1e-10 : 1e-3));
      }
    }
}

TEST_CASE("joined products: recorded steps in bf16 have the bits of eager ones, and of a second run") {
  const std::vector<Batch> batches = {some_batch(), some_batch(3)};
  std::vector<double> losses;
  std::vector<double> values;
  for (const bool graphs : {false, true, true}) {
    const auto model = on_gpu(DType::bf16);
    if (graphs) model->graphs = std::make_shared<BodyGraphs>(*model);
    const auto now = train(*model, batches, 4);
    if (graphs) CHECK((model->graphs->replays() == 6 && model->graphs->loss_replays() == 5));  // other labels, the same rows
    std::vector<double> end;
    for (Parameter* p : parameters(*model))
      for (double v : p->value().detach().to_vector()) end.push_back(v);
    if (losses.empty()) losses = now, values = end;
    CHECK(now == losses);
    CHECK((end == values));
  }
}

namespace {

/// Kernels of a layer in forward and backward, of a pass over `rows` rows.
int64_t launches_of_layer(bool apart) {
  const auto of = [apart](int64_t layers) {
    GemmaConfig c = small_config();
    c.layers = layers, c.kinds = pattern(layers, 0);
    Gemma model(c, DType::bf16);
    model.init(key(7));
    model.to(Device::gpu);
    if (apart) set_apart(model);
    const Batch b = some_batch();
    accumulate_sft(model, {&b, 1});  // tables and gradients are there
    gpu::synchronize();
    const int64_t before = gpu::emulator::counters().launches;
    accumulate_sft(model, {&b, 1});
    gpu::synchronize();
    return gpu::emulator::counters().launches - before;
  };
  return (of(3) - of(1)) / 2;
}

}  // namespace

TEST_CASE("joined products: how many kernels a layer launches in a training pass") {
  gpu::emulate(true);
  // Separate: 7 products forward, 2 x 7 backward, and two sums of dx that are rounded afterwards. Joined: 4 and 8; the gradients of q, k and v
  // are copied side by side (3).
  CHECK(launches_of_layer(true) == 47);
  CHECK(launches_of_layer(false) == 39);
}
