#include "train/sft.h"

#include "nn/body_graphs.h"
#include "tensor/trace.h"

namespace facet {

double batch_loss(LanguageModel& model, const Batch& batch, double weight, const SftLoss& options) {
  const TrainingPass pass = in_phase("forward", [&] { return TrainingPass(model, {batch.ids, batch.positions, batch.segments}); });
  const Phase phase(grad_enabled() ? "backward" : "head");  // with the head, whose loss and gradients come in one pass
  return pass.cross_entropy(batch.labels, Tensor::full(batch.labels.shape(), weight, acc_dtype(pass.h.dtype())),
                            {.cap = model.final_cap(), .label_smoothing = options.label_smoothing, .z_loss = options.z_loss});
}

SftFigures evaluate_loss(LanguageModel& model, const std::vector<Batch>& batches) {
  const NoGrad off;
  SftFigures f;
  for (const Batch& b : batches) {
    f.loss += batch_loss(model, b, 1.0);
    f.supervised += b.supervised;
  }
  if (f.supervised > 0) f.loss /= static_cast<double>(f.supervised);
  return f;
}

Sft::Sft(LanguageModel& model, const Loader& train, std::vector<Batch> valid, const SftLoss& loss)
    : model_(model), train_(train), valid_(std::move(valid)), loss_(loss) {}

StepReport accumulate_sft(LanguageModel& model, std::span<const Batch> micro, std::optional<Key> dropout, const SftLoss& loss) {
  StepReport r;
  for (const Batch& b : micro) {
    r.tokens += b.tokens;
    r.supervised += b.supervised;
  }
  // One weight for every token of the step: micro-batches of any shape add up to the big batch's mean.
  const double weight = r.supervised > 0 ? 1.0 / static_cast<double>(r.supervised) : 0.0;
  for (size_t i = 0; i < micro.size(); ++i) {
    const DropoutScope scope(dropout ? std::optional(fold_in(*dropout, static_cast<uint32_t>(i))) : std::nullopt);
    r.loss += batch_loss(model, micro[i], weight, loss);
  }
  return r;
}

StepReport Sft::accumulate(int64_t step) {
  const std::vector<Batch> micro = in_phase("data", [&] { return train_.at(step); });
  return accumulate_sft(model_, micro, fold_in(key(train_.options().seed), static_cast<uint32_t>(step)), loss_);
}

std::map<std::string, double> Sft::evaluate() {
  if (valid_.empty()) return {};
  return {{"loss", evaluate_loss(model_, valid_).loss}};
}

}  // namespace facet
