// Supervised fine-tuning: token-weighted cross-entropy on the tokens that the loss mask marks.
#pragma once
#include "autograd/ops.h"
#include "data/loader.h"
#include "nn/dropout.h"
#include "nn/language_model.h"
#include "train/loop.h"

namespace facet {

struct SftFigures {
  double loss = 0;         ///< token-weighted mean, nats
  int64_t supervised = 0;  ///< tokens that counted
};

/// What is added to the loss that is learned from (autograd/ops.h, CrossEntropyOptions); validation measures the plain one.
struct SftLoss {
  double label_smoothing = 0, z_loss = 0;
  bool whole_logits = false;  ///< of all rows of a micro-batch at once, as textbooks have it, instead of block by block
};

/// Sum of the losses of the supervised tokens times `weight`; unless under NoGrad, adds the gradients to the parameters.
double batch_loss(LanguageModel&, const Batch&, double weight, const SftLoss& = {});
/// Supervised tokens that the model would have chosen itself, given all before them. Forward only.
int64_t count_right(LanguageModel&, const Batch&);
/// Forward only.
SftFigures evaluate_loss(LanguageModel&, const std::vector<Batch>&);

/// Adds the gradients of the token-weighted mean over all micro-batches: what one step learns from. `dropout`: the step's key, of which
/// every micro-batch gets its own; absent: nothing is dropped.
StepReport accumulate_sft(LanguageModel&, std::span<const Batch> micro, std::optional<Key> dropout = {},
                          const SftLoss& = {});

/// Floating-point operations of a step over tokens at these positions (-1: padding), of which `head_rows` carry loss.
double step_flops(const LanguageModel&, const Tensor& positions, double head_rows);
/// "train.jsonl lines 3, 17": where a step's examples come from, each line once.
std::string sample_lines(const Dataset&, std::span<const Batch> micro);

class Sft final : public Objective {
 public:
  /// A step is what `train` gives for it, computed micro-batch by micro-batch; its gradient is that of the token-weighted mean over the
  /// whole step. `valid` may be empty.
  Sft(LanguageModel& model, const Loader& train, std::vector<Batch> valid, const SftLoss& = {});
  StepReport accumulate(int64_t step) override;
  std::string samples(int64_t step) const override { return sample_lines(train_.data(), train_.at(step)); }
  std::map<std::string, double> evaluate() override;

 private:
  LanguageModel& model_;
  const Loader& train_;
  std::vector<Batch> valid_;
  SftLoss loss_;
};

}  // namespace facet
