#include "app/check/checks.h"
#include "app/train_run.h"
#include "tensor/kernels/copy.h"
#include "tensor/parallel.h"
#include "train/sft.h"

namespace facet::app {
namespace {

// All that a training step reads and writes: weights, and what the optimizer remembers.
struct State {
  Gemma& model;
  std::unique_ptr<Optimizer> optimizer;
  double loss = 0;

  State(Gemma& m, const OptimizerSettings& settings, uint64_t seed) : model(m), optimizer(settings.make(m, seed)) {}
  void step(const Batch& batch) {
    loss = batch_loss(model, batch, 1.0 / static_cast<double>(batch.supervised));
    const Clip clip = optimizer->clip(1.0);
    optimizer->step(1e-3, clip.scale);
  }
};

NamedTensors copies_of(const NamedTensors& list) {
  NamedTensors copies;
  for (const auto& [name, value] : list) copies.emplace_back(name, value.clone());
  return copies;
}

// One row for all of them: the first that differs is named.
CheckRow same_bits(const std::string& name, const NamedTensors& got, const NamedTensors& want) {
  CheckRow row;
  row.name = name;
  std::string first;
  for (size_t i = 0; i < want.size(); ++i) {
    const CheckRow one = compare(want[i].first, got[i].second.to(Device::cpu), want[i].second.to(Device::cpu), {}, {});
    row.elements += one.elements;
    row.differ += one.differ;
    if (!(one.ok && one.differ == 0) && first.empty()) first = one.name;
  }
  row.ok = first.empty();
  row.note = row.ok ? fmt::format("{} tensors, {} numbers: the same bits", want.size(), row.elements)
                    : fmt::format("{} of {} numbers differ, first in {}", row.differ, row.elements, first);
  return row;
}

}  // namespace

void check_step(Gemma& model, const OptimizerSettings& settings, uint64_t seed, bool threads_too, CheckReport& report) {
  constexpr int64_t rows = 4, before = 2;  // steps that give the optimizer something to remember
  const int64_t length = std::min<int64_t>(24, model.context());
  const auto batch = [&](int64_t step) { return random_batch(rows, length, model.vocab(), seed + static_cast<uint64_t>(step)); };
  State original(model, settings, seed);
  for (int64_t i = 0; i < before; ++i) original.step(batch(i));
  const NamedTensors weights = copies_of(named_values(model)), remembered = copies_of(original.optimizer->state());

  Gemma copy(model.config, model.head().value().dtype());
  copy.to(model.device());
  const auto step_of_copy = [&] {
    const NamedTensors into = named_values(copy);
    for (size_t i = 0; i < into.size(); ++i) facet::copy(weights[i].second.view(), into[i].second.out());
    State cloned(copy, settings, seed);
    cloned.optimizer->load_state(remembered);
    cloned.step(batch(before));
    return cloned;
  };
  const State cloned = step_of_copy();
  report.add(same_bits("clone: the original's weights", named_values(model), weights));
  report.add(same_bits("clone: the original's optimizer", original.optimizer->state(), remembered));

  original.step(batch(before));
  const auto compare_with_original = [&](const std::string& name, const State& other) {
    report.add(same_bits(name + ": loss", {{"loss", Tensor::scalar(other.loss, DType::f64)}}, {{"loss", Tensor::scalar(original.loss, DType::f64)}}));
    report.add(same_bits(name + ": weights", named_values(other.model), named_values(model)));
    report.add(same_bits(name + ": optimizer", other.optimizer->state(), original.optimizer->state()));
  };
  compare_with_original("clone", cloned);
  if (!threads_too) return;
  const int here = threads(), other = here == 1 ? 2 : 1;
  set_threads(other);
  const State again = step_of_copy();
  set_threads(here);
  compare_with_original(fmt::format("{} thread{} against {}", other, other > 1 ? "s" : "", here), again);
}

}  // namespace facet::app
