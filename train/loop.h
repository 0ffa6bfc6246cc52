// The training loop: one step = gradients from an objective, clipping, one optimizer step; around it evaluation, samples,
// checkpoints, logs, stop requests and guards. SFT, DPO and GRPO are objectives; the loop is written once.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "nn/module.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "train/checkpoint.h"
#include "train/run_folder.h"

namespace facet {

/// What one step says of itself; `extra` goes to the metrics as it is.
struct StepReport {
  double loss = 0;        ///< token-weighted mean of the whole step
  int64_t tokens = 0;     ///< tokens computed, padding not counted
  int64_t supervised = 0; ///< tokens that carried loss
  std::map<std::string, double> extra;
  std::string line;       ///< the objective's own figures for the step's line, instead of "loss .. ppl .."
  std::string stop;       ///< not empty: a guard fired. The step is finished and saved, then Error(Kind::guard) says this
};

/// What is being learned: supplies the gradients of a step.
class Objective {
 public:
  virtual ~Objective() = default;
  virtual const char* tag() const { return "T"; }  ///< of the step's line
  /// Adds the gradients of step `step` (counted from 0) to the parameters. The batch is a pure function of (seed, step).
  virtual StepReport accumulate(int64_t step) = 0;
  /// Figures on held-out data ("loss", "accuracy", ...); empty when there are none.
  virtual std::map<std::string, double> evaluate() { return {}; }
  /// What a resumed run must find again beside weights and moments: counts as state["objective.NAME"], buffers as
  /// files["objective"]. restore() gets what save() wrote.
  virtual void save(Snapshot&) const {}
  virtual void restore(const FoundCheckpoint&) {}
};

struct LoopOptions {
  int64_t steps = 0;
  double lr = 1e-3;
  Schedule schedule;
  double clip = 1.0;         ///< global norm of the gradient; 0: off
  int64_t eval_every = 0;    ///< 0: only at the end
  int64_t save_every = 0;    ///< 0: only at the end and when asked to stop
  int64_t sample_every = 0;  ///< 0: only at the end
  int keep = 2;              ///< checkpoints that stay
  int64_t log_every = 0;     ///< steps between lines that stay; 0: about twenty lines in all
  bool assert_no_sync = false;  ///< on a GPU, from this run's fifth step on: a wait that is not documented is an error (tensor/gpu/waits.h)
};

class Loop {
 public:
  /// `identity` names every setting that a resumed run must share (data, seed, batch, ...). Checkpoints hold the parameters that
  /// train; those that do not come from where the model came from, so their hash belongs into the identity.
  Loop(Module& model, Optimizer& optimizer, Objective& objective, RunFolder& folder, LoopOptions options,
       std::map<std::string, std::string> identity);

  /// Text of the same prompts over time, written to samples/ (optional).
  std::function<std::string()> sample;

  /// The newest checkpoint that verifies, if there is one. Changes nothing. Throws Error(Kind::usage) naming every setting of `identity`
  /// that differs and is not in `allow_changed`, with both values.
  std::optional<FoundCheckpoint> find(const std::vector<std::string>& allow_changed = {}) const;
  /// Continues from what find() found; from nothing: starts over.
  void restore(const std::optional<FoundCheckpoint>&);
  /// Both; false when there was no checkpoint.
  bool resume(const std::vector<std::string>& allow_changed = {});

  /// Runs to the end. Throws Error(Kind::interrupted or requeue) after saving when a signal asked to stop, Error(Kind::guard)
  /// after saving when a guard fired.
  void run();

  int64_t step() const { return step_; }
  int64_t tokens() const { return tokens_; }  ///< computed since step 0
  const std::map<std::string, double>& last_evaluation() const { return evaluation_; }

 private:
  void save();
  void evaluate();
  void write_sample();

  Module& model_;
  Optimizer& optimizer_;
  Objective& objective_;
  RunFolder& folder_;
  LoopOptions options_;
  std::map<std::string, std::string> identity_;
  std::vector<Parameter*> parameters_;
  std::map<std::string, double> evaluation_;
  int64_t step_ = 0;        ///< steps done
  int64_t saved_ = -1;      ///< step of the last checkpoint
  int64_t bad_in_a_row_ = 0;///< steps skipped because loss or gradient was not finite
  int64_t tokens_ = 0;      ///< tokens computed since step 0
};

}  // namespace facet
