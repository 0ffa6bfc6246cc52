// Group-relative policy optimization (Shao et al. 2024, DeepSeekMath) for verifiable rewards: ask every question several times, let verifiers
// judge the answers, and make those more likely that beat their group's mean.
//
// A rollout is sampled by the same weights and kernels that learn, and serves `updates` consecutive steps, all of its completions in
// each (TRL's num_iterations). Its log-probabilities are the "old" ones of the ratio: stored when they were drawn, never recomputed, so that
// the largest |ratio - 1| of its first step, printed as `gap`, shows any difference between what samples and what learns.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "data/verifier.h"
#include "infer/rollout.h"
#include "train/completions.h"
#include "train/grpo_guard.h"
#include "train/grpo_loss.h"
#include "train/loop.h"
#include "train/policy_batch.h"

namespace facet {

struct GrpoOptions {
  PolicyOptions policy;
  RewardScale scale = RewardScale::group;
  RolloutOptions rollout;      ///< its key is set for every rollout from `seed`
  int64_t prompts = 32;        ///< per rollout, each `rollout.group` times
  int64_t updates = 1;         ///< steps that learn from one rollout
  PolicyLayout layout;
  bool mask_truncated = false; ///< completions that did not end by themselves teach nothing (they stay in their group's mean)
  uint64_t seed = 1;
  int64_t most_failures = 10;  ///< rows without a reward that a run may have
  int64_t eval_max_new = 0;    ///< tokens of held-out answers; 0: rollout.max_new
};

class Grpo final : public Objective {
 public:
  /// Calls its argument with the reference policy, for as long as the call lasts.
  using WithReference = std::function<void(const std::function<void(LanguageModel&)>&)>;
  using OnCompletions = std::function<void(int64_t step, std::span<const Completion>)>;

  /// Everything must outlive the objective; `valid` may be empty. `reference` is needed when options.policy.kl > 0. Throws Error(Kind::usage)
  /// about options, Error(Kind::data) about questions that leave no room for an answer or that a verifier can never judge.
  Grpo(LanguageModel&, const Tokenizer&, const std::vector<Question>& train, const std::vector<Question>& valid, Rewards&, GrpoOptions,
       WithReference reference = {});

  OnCompletions on_completions;                        ///< of every rollout, at the first step that learns from it (counted from 1)
  std::function<void(const std::string&)> say;         ///< warnings

  const char* tag() const override { return "G"; }
  StepReport accumulate(int64_t step) override;
  double repeat(int64_t step) override;
  std::string samples(int64_t step) const override;
  bool loss_compares() const override { return false; }
  /// Greedy answers to the held-out questions: "pass", "reward", "length", "ended".
  std::map<std::string, double> evaluate() override;
  void save(Snapshot&) const override;
  void restore(const FoundCheckpoint&) override;

  /// The questions of a rollout: epochs of shuffled questions follow each other without a gap.
  std::vector<int64_t> questions_of(int64_t rollout) const;
  double sampling_seconds() const { return sampling_seconds_; }  ///< spent on drawing and judging by this object

 private:
  // A rollout as numbers: all that its updates read, and all that a checkpoint between two of them keeps. Tokens of all completions lie
  // one after the other.
  struct Sampled {
    int64_t index = -1;                             // which rollout
    std::vector<int32_t> tokens, lengths, ended;    // ended: 1 by a stop token
    std::vector<float> log_probs, entropy;
    std::vector<double> rewards;                    // [completions, 1 + verifiers]: total, each; NaN: excluded
    std::vector<double> reference;                  // log-probabilities of `tokens`; empty without KL
  };
  struct Figures;
  struct Learned;

  void sample(int64_t rollout, int64_t step, std::map<std::string, double>& extra);
  void judge(int64_t step, std::vector<Completion>&);
  Figures figures_of(const Sampled&) const;
  std::vector<PolicySequence> sequences(const Figures&) const;
  void reference_log_probs(std::span<const PolicySequence>);
  Learned learn(std::span<const PolicySequence>, const Figures&);
  double sampling_flops() const;

  LanguageModel& model_;
  const Tokenizer& tokenizer_;
  const std::vector<Question>&train_, &valid_;
  Rewards& rewards_;
  GrpoOptions options_;
  WithReference reference_;
  Roller roller_;
  Sampled now_;
  GrpoGuard guard_;
  int64_t done_ = 0;             // steps
  int64_t failures_ = 0;         // rows without a reward
  int64_t flat_ = 0;             // rollouts in a row whose groups were all flat
  bool said_truncated_ = false;
  double sampling_seconds_ = 0;
};

}  // namespace facet
