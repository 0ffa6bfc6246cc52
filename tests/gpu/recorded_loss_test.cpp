// The head and its loss behind a recorded training pass: a graph for each of the few numbers of rows it computes, whichever rows they are.
#include "autograd/ops.h"
#include "autograd/ops/linear_loss.h"
#include "nn/body_graphs.h"
#include "tensor/gpu/runtime.h"
#include "tests/gpu/tiny_model.h"
#include "tests/train/small.h"
#include "train/dpo.h"

using namespace facet;
using namespace facet::test;

namespace {

/// Random text of which labels before position `from` of the batch are learned, `skip` of them not.
Batch masked(uint32_t seed, int64_t from, int64_t skip = 0) {
  Batch b = batch_of(plain_tokens(randint(key(seed), {3, 13}, 0, small_config().vocab)));
  for (int64_t i = 0; i < b.labels.numel(); ++i) {
    int32_t& label = b.labels.out().as<int32_t>()[i];
    if (i >= skip && i < from) continue;
    b.supervised -= label >= 0;
    label = -1;
  }
  return b;
}

std::unique_ptr<Gemma> on_gpu(DType dtype, bool graphs) {
  gpu::emulate(true);
  auto model = small_model(dtype);
  model->to(Device::gpu);
  if (graphs) model->graphs = std::make_shared<BodyGraphs>(*model);
  return model;
}

std::vector<double> all_values(Gemma& model) {
  std::vector<double> all;
  for (Parameter* p : parameters(model))
    for (double v : p->value().detach().to_vector()) all.push_back(v);
  return all;
}

}  // namespace

TEST_CASE("recorded loss: other rows, other weights, none, other numbers of rows, other memory: the bits of eager passes") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    std::vector<double> losses, values;
    for (const bool graphs : {false, true}) {
      const auto model = on_gpu(dtype, graphs);
      std::vector<double> now;
      AdamW optimizer({{.parameters = parameters(*model)}});
      optimizer.keep_gradients(true);
      // 36 rows, 28, 24, 26 (32 are computed), 9 and 6 (16), none; then gradients elsewhere, and all is recorded anew. The weight changes in every step.
      const int64_t learned[] = {99, 99, 99, 99, 30, 25, 9, 6, 0, 99, 28, 99, 99, 99, 99, 9, 6};
      for (uint32_t step = 0; step < (dtype == DType::f32 ? std::size(learned) : 9); ++step) {
        if (step == 11)
          for (Parameter* p : parameters(*model)) p->clear_grad();
        now.push_back(batch_loss(*model, masked(step, learned[step]), 1.0 / (3 + step % 2)));
        optimizer.step(1e-3);
      }
      if (graphs) CHECK(model->graphs->loss_replays() == (dtype == DType::f32 ? 6 : 3));  // each number of rows is launched first, also after gradients moved
      const std::vector<double> end = all_values(*model);
      if (losses.empty()) losses = now, values = end;
      CHECK(now == losses);
      CHECK((end == values));
    }
  }
}

TEST_CASE("recorded loss: a step over masked text launches nothing outside of graphs") {
  const auto model = on_gpu(DType::bf16, true);
  AdamW optimizer({{.parameters = parameters(*model)}});
  optimizer.keep_gradients(true);
  for (uint32_t step = 0; step < 6; ++step) {
    gpu::synchronize();
    const int64_t before = gpu::emulator::counters().lone_launches;
    const Batch b = masked(step, 30 - step, step);  // in every step other rows and another number of them
    accumulate_sft(*model, {&b, 1});
    optimizer.step(1e-3, optimizer.clip(1.0).scale);
    gpu::synchronize();
    if (step > 3) CHECK(gpu::emulator::counters().lone_launches == before);
  }
}

TEST_CASE("recorded loss: a policy loss of other tokens in every pass") {
  const auto kernel = [](const std::array<double, 6>& n, const RowBlock& b, const Out& stats, const Out& tokens) {
    policy_rows(stats, tokens, {.cispo = n[0] != 0, .kl = n[1]}, b.scale);
  };
  std::vector<double> answers, values;
  for (const bool graphs : {false, true}) {
    const auto model = on_gpu(DType::bf16, graphs);
    AdamW optimizer({{.parameters = parameters(*model)}});
    optimizer.keep_gradients(true);
    std::vector<double> now;
    for (uint32_t step = 0; step < 7; ++step) {
      const Batch b = masked(step, 30, step);
      const TrainingPass pass(*model, {b.ids, b.positions, {}});
      HeadTask task{LinearHead("test", pass.h, model->head().value(), b.labels, {.temperature = 0.7, .exact = true}), {}, {}};
      task.rows = task.head.rows([](int64_t) { return true; });
      const Tensor tokens = Tensor::zeros({task.head.count(std::ssize(task.rows)), 6}, DType::f64);
      auto* t = reinterpret_cast<PolicyToken*>(tokens.out().as<double>());
      for (size_t i = 0; i < task.rows.size(); ++i) t[i] = {1.0 - static_cast<double>(i % 3), 0.1, -3, 0.01 * static_cast<double>(i), -3.5};
      task.loss = {kernel, {step == 5 ? 1.0 : 0.0, 0.04}, tokens};  // once with other numbers
      for (const double x : pass.run(task).to_vector()) now.push_back(x);
      optimizer.step(1e-3);
    }
    if (graphs) CHECK(model->graphs->loss_replays() == 3);
    const std::vector<double> end = all_values(*model);
    if (answers.empty()) answers = now, values = end;
    CHECK((now == answers));
    CHECK((end == values));
  }
}

TEST_CASE("recorded loss: pairs: the bits of eager passes, nothing launched outside of graphs, no margin before the first update") {
  const Dataset data = small_pairs();
  const Loader loader(data, {.batch = 2, .accum = 2, .pad_to = 12});  // a pair a pass, always [2, 12]
  constexpr int64_t frozen = 3, steps = 5;  // steps without an update, which learn nothing; all
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const DpoLossOptions options{.form = dtype == DType::f32 ? PreferenceLoss::sigmoid : PreferenceLoss::ipo};
    const auto start = on_gpu(dtype, false);
    const Reference reference = [&](const Batch& b) { return completion_log_probs(*start, data, b); };
    std::vector<double> figures, values;
    for (const bool graphs : {false, true}) {
      const auto model = on_gpu(dtype, graphs);
      AdamW optimizer({{.parameters = parameters(*model)}});
      optimizer.keep_gradients(true);
      std::vector<double> now;
      int64_t lone = 0;
      for (int64_t step = 0; step < steps; ++step) {
        const std::vector<Batch> micro = loader.at(step);
        std::vector<LogProbs> of_start;
        for (const Batch& b : micro) of_start.push_back(reference(b));
        gpu::synchronize();
        const int64_t before = gpu::emulator::counters().lone_launches, waited = gpu::syncs();
        size_t at = 0;
        const DpoFigures f = accumulate_dpo(*model, data, micro, [&](const Batch&) { return of_start[at++]; }, options).figures;
        if (step < frozen) optimizer.drop_gradients();
        else optimizer.step(1e-3, optimizer.clip(1.0).scale);
        CHECK(gpu::syncs() - waited == (step < frozen ? 2 : 3));  // two lots of log-probabilities, and a norm
        gpu::synchronize();
        lone = gpu::emulator::counters().lone_launches - before;
        if (step <= frozen) CHECK((f.chosen_reward == 0 && f.rejected_reward == 0));
        now.insert(now.end(), {f.loss, f.chosen_reward, f.rejected_reward, f.chosen_log_prob});
      }
      if (graphs) {
        CHECK(lone == 0);
        CHECK(model->graphs->replays() == 2 * (steps - 1));
        CHECK(model->graphs->loss_replays() == 2 * (2 * (steps - 1) - 1));  // log-probabilities and gradient, each launched once
      }
      const std::vector<double> end = all_values(*model);
      if (figures.empty()) figures = now, values = end;
      CHECK(now == figures);
      CHECK((end == values));
      CHECK(std::abs(now.back() - now[2]) > 0.01);  // it has learned
    }
  }
}

TEST_CASE("recorded loss: a first recorded pass without a row that carries loss") {
  std::vector<double> losses, values;
  for (const bool graphs : {false, true}) {
    const auto model = on_gpu(DType::f32, graphs);
    AdamW optimizer({{.parameters = parameters(*model)}});
    optimizer.keep_gradients(true);
    std::vector<double> now;
    for (const int64_t learned : {99, 99, 0, 99, 99}) {
      now.push_back(batch_loss(*model, masked(static_cast<uint32_t>(now.size()), learned), 0.1));
      optimizer.step(1e-3);
    }
    if (graphs) CHECK(model->graphs->replays() == 3);
    const std::vector<double> end = all_values(*model);
    if (losses.empty()) losses = now, values = end;
    CHECK(now == losses);
    CHECK((end == values));
  }
}
