// Direct preference optimisation as an objective: per pair of completions the loss of train/dpo_loss.h, its mean over the pairs of a
// step, with log-probabilities from the chunked head (temperature 1, final cap; [T, V] never exists).
#pragma once
#include <functional>
#include <optional>

#include "data/loader.h"
#include "nn/lora.h"
#include "train/dpo_loss.h"
#include "train/loop.h"

namespace facet {

/// Summed log-probabilities of the learned tokens of each of a batch's examples, in the batch's order.
using LogProbs = std::vector<double>;
/// Those of the reference policy.
using Reference = std::function<LogProbs(const Batch&)>;

/// Forward only. Throws Error(Kind::data) with file and line when a completion's log-probability is -inf.
LogProbs completion_log_probs(LanguageModel&, const Dataset&, const Batch&);
/// As completion_log_probs for all examples of the data, in their order, added to `all`, which may already hold those of the first pairs.
/// `batch`: pairs at a time; `progress`: of pairs, after each of these, `all` being what is there so far.
void reference_pass(LanguageModel&, const Dataset&, int64_t batch, bool share, int32_t pad_id, LogProbs& all,
                    const std::function<void(int64_t done, int64_t of)>& progress);

/// The base that an adapter stands on: no second copy of the weights.
Reference adapter_off_reference(Adapters&, const Dataset&);

/// Throws Error(Kind::data) with the line of the first pair that teaches nothing: no learned token on a side, or both sides equal after
/// tokenising and cutting.
void check_pairs(const Dataset&);

/// Means over pairs.
struct DpoFigures {
  double loss = 0, accuracy = 0;
  double chosen_reward = 0, rejected_reward = 0;
  double chosen_log_prob = 0, rejected_log_prob = 0;  ///< the policy's, summed over tokens
  int64_t pairs = 0;
  double margin() const { return chosen_reward - rejected_reward; }
};

struct DpoStep {
  DpoFigures figures;
  int64_t tokens = 0, supervised = 0;
  double flops = 0;  ///< the policy's; those of a reference that is not stored come on top
};
/// Adds the gradient of the mean loss over all pairs of all micro-batches to the parameters. `dropout`: the step's key, of which every
/// micro-batch gets its own; absent: nothing is dropped.
DpoStep accumulate_dpo(LanguageModel&, const Dataset&, std::span<const Batch> micro, const Reference&, const DpoLossOptions&,
                       std::optional<Key> dropout = {});
/// Forward only.
DpoFigures evaluate_dpo(LanguageModel&, const Dataset&, std::span<const Batch>, const Reference&, const DpoLossOptions&);

class Dpo final : public Objective {
 public:
  /// Held-out pairs; `data` null: none.
  struct HeldOut {
    const Dataset* data = nullptr;
    std::vector<Batch> batches = {};
    Reference reference = {};
  };
  /// The data must be preference data whose pairs check_pairs() accepts; it is called here.
  Dpo(LanguageModel& model, const Loader& train, Reference reference, HeldOut valid, const DpoLossOptions&);
  StepReport accumulate(int64_t step) override;
  std::string samples(int64_t step) const override;
  std::map<std::string, double> evaluate() override;

 private:
  LanguageModel& model_;
  const Loader& train_;
  Reference reference_;
  HeldOut valid_;
  DpoLossOptions options_;
};

}  // namespace facet
