// What recorded training passes do where not all goes as usual: a recording that fails, a body that does not train, passes used twice.
#include "autograd/ops.h"
#include "autograd/ops/linear_loss.h"
#include "nn/body_graphs.h"
#include "tensor/gpu/pool.h"
#include "tests/gpu/tiny_model.h"
#include "tests/support/compare.h"
#include "tests/train/small.h"

using namespace facet;
using namespace facet::test;

namespace {

std::unique_ptr<Gemma> on_gpu(bool graphs, const GemmaConfig& config = small_config()) {
  gpu::emulate(true);
  auto model = std::make_unique<Gemma>(config, DType::f32);
  model->init(key(7));
  model->to(Device::gpu);
  if (graphs) model->graphs = std::make_shared<BodyGraphs>(*model);
  return model;
}

Batch some(uint32_t seed) { return batch_of(plain_tokens(randint(key(seed), {2, 9}, 0, small_config().vocab))); }

std::vector<Tensor> gradients(Gemma& model) {
  std::vector<Tensor> all;
  for (Parameter* p : parameters(model))
    if (p->trains()) all.push_back(p->grad() ? p->grad().to(Device::cpu).clone() : Tensor::zeros(p->value().shape()));
  return all;
}
bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Tensor& x, const Tensor& y) { return static_cast<bool>(bitwise_equal(x, y)); });
}

int64_t allocations() { return gpu::emulator::counters().allocations; }

}  // namespace

TEST_CASE("body graphs: where memory ends while a pass is recorded, the pass can be made again, and gradients of earlier ones are still there") {
  std::vector<double> want;
  const auto launched = on_gpu(false);
  std::vector<Tensor> of_two;
  for (uint32_t pass = 0; pass < 4; ++pass) {
    want.push_back(batch_loss(*launched, some(pass), 0.1));
    if (pass == 1) of_two = gradients(*launched);
  }
  int64_t all = 0;  // allocations of the pass that is recorded, while nothing fails
  for (const int64_t nth : {0, 1, 3, 5, 7, 9}) {  // tenths of them
    const auto model = on_gpu(true);
    std::vector<double> got;
    for (uint32_t pass = 0; pass < 4; ++pass) {
      if (pass == 2) gpu::pool_trim();  // so that recording asks the device for all it takes
      const int64_t before = allocations();
      if (pass == 2 && nth > 0) {
        INFO("at " << nth * all / 10 << " of " << all);
        gpu::emulator::fail_allocation(1 + nth * all / 10);
        CHECK_THROWS_WITH(batch_loss(*model, some(pass), 0.1), Catch::Contains("Live buffers:"));
        gpu::emulator::fail_allocation(0);
        CHECK(same(gradients(*model), of_two));
      }
      got.push_back(batch_loss(*model, some(pass), 0.1));
      if (pass == 2 && nth == 0) all = allocations() - before;
    }
    REQUIRE(all > 50);
    CHECK(got == want);
    CHECK(model->graphs->replays() == 2);
    CHECK(same(gradients(*model), gradients(*launched)));
  }
}

TEST_CASE("body graphs: a model of which the head alone trains") {
  GemmaConfig config = small_config();
  config.tied_head = false;
  std::vector<double> want;
  std::vector<Tensor> of_head;
  for (const bool graphs : {false, true}) {
    const auto model = on_gpu(graphs, config);
    set_trains(*model, "*", false);
    set_trains(*model, "lm_head*", true);
    std::vector<double> got;
    for (uint32_t pass = 0; pass < 4; ++pass) got.push_back(batch_loss(*model, some(pass), 0.1));
    if (graphs) CHECK(model->graphs->replays() == 2);
    else want = got, of_head = gradients(*model);
    REQUIRE(of_head.size() == 1);
    CHECK(got == want);
    CHECK(same(gradients(*model), of_head));
    set_trains(*model, "*", false);  // nor does that
    for (uint32_t pass = 0; pass < 4; ++pass) CHECK(std::isfinite(batch_loss(*model, some(pass), 0.1)));
  }
}

TEST_CASE("body graphs: one pass at a time, and one loss a pass") {
  const auto model = on_gpu(true);
  const Batch b = some(1);
  const auto made = [&] { return TrainingPass(*model, {b.ids, b.positions, {}}); };
  for (int pass = 0; pass < 4; ++pass) {  // launched ones and replayed ones
    const TrainingPass first = made();
    const HeadTask task = cross_entropy_task(first.h, model->head().value(), b.labels, {}, {});
    first.run(task);
    if (model->graphs->replays() > 0) CHECK_THROWS_WITH(first.run(task), "training pass: its backward pass has been run; make another pass for another loss");
    first.finish();  // has been done
    const TrainingPass second = made();
    for (const auto& use : std::vector<std::function<void()>>{[&] { first.run(task); }, [&] { first.values(task); }, [&] { first.finish(); }})
      CHECK_THROWS_WITH(use(), Catch::Contains("training pass: another one was made since"));
    second.finish();
  }
}

TEST_CASE("body graphs: log-probabilities in f32 and in f64 of the same rows") {
  const auto model = on_gpu(true);
  const Batch b = some(1);
  for (int pass = 0; pass < 4; ++pass) {
    const TrainingPass now(*model, {b.ids, b.positions, {}});
    const LinearHead head("test", now.h, model->head().value(), b.labels, {.exact = true});
    const Tensor narrow = now.values(log_prob_task(head, DType::f32)), wide = now.values(log_prob_task(head, DType::f64));
    CHECK(close(narrow, wide.to(DType::f32), 1e-6, 1e-6));
    now.finish();
  }
}
