#include "train/sft.h"

#include <algorithm>
#include <set>

#include "nn/body_graphs.h"
#include "tensor/trace.h"

namespace facet {

double batch_loss(LanguageModel& model, const Batch& batch, double weight, const SftLoss& options) {
  const TrainingPass pass = in_phase("forward", [&] { return TrainingPass(model, {batch.ids, batch.positions, batch.segments}); });
  const Phase phase(grad_enabled() ? "backward" : "head");  // with the head, whose loss and gradients come in one pass
  return pass.cross_entropy(batch.labels, Tensor::full(batch.labels.shape(), weight, acc_dtype(pass.h.dtype())),
                            {.cap = model.final_cap(), .label_smoothing = options.label_smoothing, .z_loss = options.z_loss,
                             .block = options.whole_logits ? batch.labels.numel() : 0});
}

int64_t count_right(LanguageModel& model, const Batch& batch) {
  const NoGrad off;
  const Tensor hidden = model.hidden({batch.ids, batch.positions, batch.segments});
  const int64_t rows = hidden.shape().rows();
  const Tensor h = reshape(hidden, {rows, hidden.dim(-1)});
  const Tensor labels = batch.labels.reshape({rows});
  const auto label = labels.data<int32_t>();
  constexpr int64_t block = 64;  // rows whose logits are held
  int64_t right = 0;
  for (int64_t begin = 0; begin < rows; begin += block) {
    const int64_t end = std::min(rows, begin + block);
    if (std::none_of(label.begin() + begin, label.begin() + end, [](int32_t l) { return l >= 0; })) continue;
    const Tensor chosen = argmax(model.logits(h.slice(0, begin, end))).to(Device::cpu);
    for (int64_t i = begin; i < end; ++i) right += label[static_cast<size_t>(i)] >= 0 && label[static_cast<size_t>(i)] == chosen.data<int32_t>()[static_cast<size_t>(i - begin)];
  }
  return right;
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

double step_flops(const LanguageModel& model, const Tensor& positions, double head_rows) {
  double tokens = 0, seen = 0;
  for (const int32_t p : positions.data<int32_t>())
    if (p >= 0) tokens += 1, seen += p + 1;
  return tokens > 0 ? model.step_flops(tokens, seen / tokens, head_rows) : 0;
}

std::string sample_lines(const Dataset& data, std::span<const Batch> micro) {
  std::set<int64_t> lines;
  for (const Batch& b : micro)
    for (const int64_t example : b.examples) lines.insert(data[example].line);
  return fmt::format("{} line{} {}", data.path().empty() ? "the data's" : data.path(), lines.size() == 1 ? "" : "s", fmt::join(lines, ", "));
}

Sft::Sft(LanguageModel& model, const Loader& train, std::vector<Batch> valid, const SftLoss& loss)
    : model_(model), train_(train), valid_(std::move(valid)), loss_(loss) {}

StepReport accumulate_sft(LanguageModel& model, std::span<const Batch> micro, std::optional<Key> dropout, const SftLoss& loss) {
  StepReport r;
  for (const Batch& b : micro) {
    r.tokens += b.tokens;
    r.supervised += b.supervised;
    r.flops += step_flops(model, b.positions, static_cast<double>(b.supervised));
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
