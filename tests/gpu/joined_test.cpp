// q, k, v and gate, up as one product each, with adapters and without: where their weights and gradients lie, what a layer of a training step
// launches, and that the numbers are those of separate products.
#include "autograd/joined_ops.h"

#include "autograd/ops.h"
#include "nn/body_graphs.h"
#include "nn/dropout.h"
#include "nn/lora.h"
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
      const Tensor& w = *l->weight->matrix();
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
  const bool adapted = GENERATE(false, true);
  const std::vector<Batch> batches = {some_batch(), some_batch(3)};
  std::vector<double> losses;
  std::vector<double> values;
  for (const bool graphs : {false, true, true}) {
    const auto model = on_gpu(DType::bf16);
    std::optional<Adapters> adapters;
    if (adapted) adapters.emplace(*model).add("x", {.rank = 4}, key(1));
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

void training_pass(Gemma& model) {
  const Batch b = some_batch();
  accumulate_sft(model, {&b, 1});
}
void few_rows_without_gradients(Gemma& model) {
  const NoGrad off;
  model.hidden(plain_tokens(Tensor::full({1, 4}, 3, DType::i32)));
}

/// Kernels of a layer in a pass.
int64_t launches_of_layer(bool apart, const LoraOptions* adapter = nullptr, void (*pass)(Gemma&) = training_pass) {
  const auto of = [&](int64_t layers) {
    GemmaConfig c = small_config();
    c.layers = layers, c.kinds = pattern(layers, 0);
    Gemma model(c, DType::bf16);
    model.init(key(7));
    std::optional<Adapters> adapters;
    if (adapter) adapters.emplace(model).add("x", *adapter, key(1));
    model.to(Device::gpu);
    if (apart) set_apart(model);
    pass(model);  // tables and gradients are there
    gpu::synchronize();
    const int64_t before = gpu::emulator::counters().launches;
    pass(model);
    gpu::synchronize();
    return gpu::emulator::counters().launches - before;
  };
  return (of(3) - of(1)) / 2;
}

}  // namespace

TEST_CASE("joined products: how many kernels a layer launches in a training pass") {
  gpu::emulate(true);
  // Separate: 7 products forward, 2 x 7 backward, and two sums of dx that are rounded afterwards. Joined: 4 and 8.
  CHECK(launches_of_layer(true) == 47);
  CHECK(launches_of_layer(false) == 36);
}

// ---- adapters

namespace {

/// The A of an adapter, those that read one x together.
std::vector<std::vector<Tensor>> groups_of_a(const Adapters& adapters, const std::string& name, bool gradients) {
  std::vector<std::vector<Tensor>> list;
  for (int64_t layer = 0; layer < adapters.model().layers(); ++layer)
    for (const char* inputs : {"self_attn.q_proj self_attn.k_proj self_attn.v_proj", "mlp.gate_proj mlp.up_proj"}) {
      list.emplace_back();
      for (const auto& [path, f] : adapters.factors(name)) {
        const std::string of_layer = fmt::format("layers.{}.", layer);
        if (path.starts_with(of_layer) && std::string_view(inputs).find(path.substr(of_layer.size())) != std::string_view::npos)
          list.back().push_back(gradients ? f->a.grad() : f->a.value().detach());
      }
    }
  return list;
}

bool all_a_side_by_side(const Adapters& adapters, const std::string& name, bool gradients) {
  for (const auto& group : groups_of_a(adapters, name, gradients))
    if (!side_by_side(group)) return false;
  return true;
}

/// What all variants agree on: the model on a device, an adapter of which every part says something, a pass with masks of dropout.
struct Adapted {
  std::unique_ptr<Gemma> model;
  Adapters adapters;
  std::vector<Tensor> gradients;
  double loss = 0;

  Adapted(DType dtype, const LoraOptions& o, Device device, bool apart) : model(small_model(dtype)), adapters(*model) {
    gpu::emulate(true);
    adapters.add("x", o, key(1));
    for (const auto& [path, f] : adapters.factors("x")) {
      Parameter& p = f->of_table ? f->a : f->b;
      p.reset(mul(normal(fold_in(key(3), f->salt), p.value().shape()), 0.2), true);
    }
    model->to(device);
    if (apart) set_apart(*model);
    const DropoutScope scope(key(11));
    const Tensor h = model->hidden(plain_tokens(randint(key(2), {2, 9}, 0, small_config().vocab)));
    const Tensor y = sum(mul(h, normal(key(13), h.shape()).to(h.dtype()).to(device)));
    loss = y.item();
    backward(y);
    for (Parameter* p : parameters(*model)) {
      CHECK(p->trains() == static_cast<bool>(p->grad()));
      if (p->trains()) gradients.push_back(p->grad().to(Device::cpu));
    }
  }
};

std::vector<LoraOptions> kinds_of_adapters() {
  const LoraOptions plain{.rank = 4};
  std::vector<LoraOptions> list(8, plain);
  list[1].rslora = true, list[1].targets = {"all-linear", "embedding"};
  list[2].ranks = {{"layers.0.self_attn.k_proj", 7}, {"layers.1.mlp.up_proj", 1}}, list[2].alphas = {{"layers.0.self_attn.v_proj", 3.5}};
  list[3].targets = {"q", "v", "up"};
  list[4].dropout = 0.4;
  list[5].dora = true;
  list[6].dora = true, list[6].dropout = 0.4;
  list[7].dora = true, list[7].targets = {"k", "gate", "layers.1.self_attn.q_proj"};
  return list;
}

}  // namespace

TEST_CASE("joined adapters: the A that read one x lie side by side, whenever they were added, and so do their gradients") {
  for (const bool early : {true, false}) {
    INFO((early ? "added before" : "added after") << " the model moved");
    gpu::emulate(true);
    const auto model = small_model(DType::bf16);
    Adapters adapters(*model);
    if (!early) model->to(Device::gpu);
    adapters.add("few", {.rank = 2, .targets = {"q", "v", "gate", "up"}}, key(4));
    adapters.add("all", {.rank = 4, .targets = {"all-linear", "embedding"}}, key(1));
    if (early) model->to(Device::gpu);
    for (const char* name : {"few", "all"}) {
      CHECK(groups_of_a(adapters, name, false).size() == 6);
      CHECK(all_a_side_by_side(adapters, name, false));
      adapters.use(name);
      CHECK(all_side_by_side(*model, false));
      const Batch b = some_batch();
      train(*model, {b}, 3);
      CHECK(all_a_side_by_side(adapters, name, false));
      accumulate_sft(*model, {&b, 1});
      CHECK(all_a_side_by_side(adapters, name, true));
    }
  }
}

TEST_CASE("joined adapters: losses and gradients are those of separate products, whatever the adapters are") {
  int kind = 0;
  for (const LoraOptions& o : kinds_of_adapters()) {
    INFO("kind " << kind++);
    const Adapted cpu(DType::f32, o, Device::cpu, false), exact(DType::f32, o, Device::gpu, false);
    CHECK(exact.loss == Approx(cpu.loss).epsilon(1e-5));
    REQUIRE(exact.gradients.size() == cpu.gradients.size());
    for (size_t i = 0; i < cpu.gradients.size(); ++i) CHECK(nmse_within(exact.gradients[i], cpu.gradients[i], 1e-8));
    const Adapted joined(DType::bf16, o, Device::gpu, false), apart(DType::bf16, o, Device::gpu, true);
    CHECK(joined.loss == Approx(apart.loss).epsilon(2e-2).margin(0.1));  // a sum of hundreds of bf16 numbers, itself one
    for (size_t i = 0; i < joined.gradients.size(); ++i) CHECK(nmse_within(joined.gradients[i], apart.gradients[i], 1e-2));
  }
}

TEST_CASE("joined adapters: one that says nothing yet changes no bit of the base, recorded or not, however many rows") {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const int64_t length : {3, 9}) {
      INFO(name_of(dtype) << ", " << 2 * length << " rows");
      const auto model = on_gpu(dtype);
      Adapters adapters(*model);
      adapters.add("x", {.rank = 4, .dropout = 0.5}, key(1));
      const DropoutScope scope(key(5));
      const Tokens tokens = plain_tokens(randint(key(2), {2, length}, 0, small_config().vocab));
      const Tensor recorded = model->hidden(tokens).detach();
      const NoGrad off;
      CHECK(bitwise_equal(model->hidden(tokens).to(Device::cpu), recorded.to(Device::cpu)));
      const AdapterOff base(adapters);
      CHECK(bitwise_equal(model->hidden(tokens).to(Device::cpu), recorded.to(Device::cpu)));
    }
}

namespace {

/// Layers of which some are adapted lie in panels, with room behind the rows of each.
int in_panels(const Gemma& model) {
  int n = 0;
  for (const auto& b : model.blocks)
    for (const Linear* l : {&b->attention.q_proj, &b->attention.k_proj, &b->attention.v_proj, &b->attention.o_proj, &b->mlp.gate_proj, &b->mlp.up_proj,
                            &b->mlp.down_proj})
      n += l->weight->matrix()->room() > 0;
  return n;
}

std::vector<double> all_values(Module& m) {
  std::vector<double> list;
  for (const auto& [name, value] : named_values(m))
    if (!is_adapter(name))
      for (double v : value.to_vector()) list.push_back(v);
  return list;
}

/// The gradients of the adapter in use, of sum(h * noise).
std::vector<Tensor> gradients_of(Gemma& model, const Tensor& h) {
  backward(sum(mul(h, normal(key(13), h.shape()).to(h.dtype()).to(h.device()))));
  std::vector<Tensor> list;
  for (Parameter* p : parameters(model))
    if (p->trains()) list.push_back(p->grad().to(Device::cpu)), p->clear_grad();
  return list;
}

}  // namespace

TEST_CASE("joined adapters: matrices lie in panels with room for the largest adapter, and are what they were") {
  for (const bool early : {true, false}) {
    INFO((early ? "added before" : "added after") << " the model moved");
    gpu::emulate(true);
    const auto model = small_model(DType::bf16);
    const std::vector<double> before = all_values(*model);
    const uint32_t hash = base_hash(*model);
    Adapters adapters(*model);
    if (!early) model->to(Device::gpu);
    adapters.add("few", {.rank = 20, .targets = {"q", "gate"}}, key(4));
    adapters.add("all", {.rank = 12}, key(1));
    if (early) model->to(Device::gpu);
    const int layers = static_cast<int>(model->layers());
    CHECK(in_panels(*model) == 7 * layers);
    const Weight& q = *model->blocks[0]->attention.q_proj.weight;
    const Tensor panel = q.panel();
    CHECK(panel.room() == 40);  // q, k and v of rank 12, up to a multiple of 8
    CHECK(panel.dim(0) == q.outputs() + 2 * model->blocks[0]->attention.k_proj.weight->outputs() + 36);
    CHECK((all_values(*model) == before && base_hash(*model) == hash));
    adapters.add("wide", {.rank = 30}, key(2));
    CHECK(q.panel().room() == 96);
    CHECK(all_values(*model) == before);
    const size_t live = gpu::pool_stats().live_bytes;
    model->to(Device::gpu);  // where it is already
    CHECK(gpu::pool_stats().live_bytes == live);
    model->to(Device::cpu);
    CHECK(in_panels(*model) == 0);
    CHECK_FALSE(q.panel());
    CHECK(all_values(*model) == before);
  }
  gpu::emulate(true);  // what trains stays dense: an optimizer changes it
  const auto model = on_gpu(DType::bf16);
  Adapters adapters(*model);
  adapters.add("x", {.rank = 4}, key(1));
  CHECK(in_panels(*model) == 7 * static_cast<int>(model->layers()));
  CHECK(set_trains(*model, "layers.*.up_proj.weight", true) > 0);
  CHECK_THROWS_WITH(AdamW({{.parameters = parameters(*model)}}), Catch::Contains("up_proj.weight") && Catch::Contains("then move the model"));
  model->to(Device::gpu);
  CHECK(model->blocks[0]->mlp.up_proj.weight->matrix()->contiguous());
  const Batch b = some_batch();
  train(*model, {b}, 2);
  CHECK_FALSE(model->blocks[0]->mlp.gate_proj.weight->panel());
  CHECK(model->blocks[0]->mlp.down_proj.weight->panel());
}

TEST_CASE("joined adapters: several of one model share its panels, and each pass and its gradients are those of its own") {
  const Tokens tokens = plain_tokens(randint(key(2), {2, 9}, 0, small_config().vocab));
  const char* const names[] = {"a", "b"};
  const auto adapted = [&](bool apart) {
    const auto model = on_gpu(DType::f32);
    Adapters adapters(*model);
    for (const char* name : names) {
      adapters.add(name, {.rank = name[0] == 'a' ? 4 : 7}, key(static_cast<uint32_t>(name[0])));
      for (const auto& [path, f] : adapters.factors(name))
        f->b.reset(mul(normal(fold_in(key(3), f->salt), f->b.value().shape()), 0.2).to(Device::gpu), true);
    }
    if (apart) set_apart(*model);
    std::vector<Tensor> list;
    std::vector<Tensor> h;
    for (const char* name : {"a", "b", "a"}) {
      adapters.use(name);
      h.push_back(model->hidden(tokens));
      list.push_back(h.back().detach().to(Device::cpu));
    }
    CHECK(bitwise_equal(list[0], list[2]));
    for (int pass : {0, 1, 2}) {  // of "a" after a pass of "b", and the other way round
      adapters.use(pass == 1 ? "b" : "a");
      for (Tensor& g : gradients_of(*model, h[static_cast<size_t>(pass)])) list.push_back(std::move(g));
    }
    return list;
  };
  const std::vector<Tensor> panels = adapted(false), apart = adapted(true);
  REQUIRE(panels.size() == apart.size());
  for (size_t i = 0; i < panels.size(); ++i) CHECK(nmse_within(panels[i], apart[i], 1e-9));
}

TEST_CASE("joined adapters: what is computed again has the gradients of what was kept") {
  for (const Recompute policy : {Recompute::norms, Recompute::mlp, Recompute::block}) {
    INFO("policy " << static_cast<int>(policy));
    std::vector<std::vector<Tensor>> gradients;
    for (const Recompute r : {Recompute::none, policy}) {
      const auto model = on_gpu(DType::bf16);
      Adapters adapters(*model);
      adapters.add("x", {.rank = 4}, key(1));
      for (const auto& [path, f] : adapters.factors("x"))
        f->b.reset(mul(normal(fold_in(key(3), f->salt), f->b.value().shape()), 0.2).to(DType::bf16).to(Device::gpu), true);
      model->recompute = r;
      gradients.push_back(gradients_of(*model, model->hidden(plain_tokens(randint(key(2), {2, 9}, 0, small_config().vocab)))));
    }
    REQUIRE(gradients[0].size() == gradients[1].size());
    for (size_t i = 0; i < gradients[0].size(); ++i) CHECK(nmse_within(gradients[1][i], gradients[0][i], 3e-4));
  }
}

TEST_CASE("joined adapters: how many kernels a layer launches in a training pass") {
  gpu::emulate(true);
  const LoraOptions all{.rank = 4}, some{.rank = 4, .targets = {"q", "v"}}, dora{.rank = 4, .dora = true};
  // Of 7 projections, W and A forward and for dx, dA, dt, dB and t B^T: 7 x 8 products apart, and two sums of dx in f32, rounded afterwards. Joined
  // W, A and dA are 4 each, in panels with t B^T and dt A inside W's, but for o's t B^T. B comes into a panel 3 times, A 4 times.
  CHECK(launches_of_layer(true, &all) == 76);
  CHECK(launches_of_layer(false, &all) == 56);
  CHECK(launches_of_layer(true, &some) == 46);
  CHECK(launches_of_layer(false, &some) == 34);
  CHECK(launches_of_layer(false, &dora) < launches_of_layer(true, &dora));
}

TEST_CASE("joined adapters: in decoding, a kernel reads A beside its W") {
  gpu::emulate(true);
  const LoraOptions all{.rank = 8};
  // 2 for W and A of q, k and v and their 3 sums; 2 for o and 2 for down; 1 and 2 for gate and up; and GeGLU, two norms with sums, two turns and
  // attention.
  CHECK(launches_of_layer(false, &all, few_rows_without_gradients) == 18);
  // W and A of q, k and v in 2, and 2 sums, which in a panel would be 3 in all; one each for o, gate and up with GeGLU, and down.
  const LoraOptions some{.rank = 8, .targets = {"q", "v"}};
  CHECK(launches_of_layer(false, &some, few_rows_without_gradients) == 12);
}
