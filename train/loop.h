// The training loop: one step = gradients from an objective, clipping, one optimizer step; around it evaluation, samples,
// checkpoints, logs, stop requests and guards. SFT, DPO and GRPO are objectives; the loop is written once.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "nn/module.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "train/checkpoint.h"
#include "train/guard.h"
#include "train/run_folder.h"

namespace facet {

/// What one step says of itself; `extra` goes to the metrics as it is.
struct StepReport {
  double loss = 0;        ///< token-weighted mean of the whole step
  int64_t tokens = 0;     ///< tokens computed, padding not counted
  int64_t supervised = 0; ///< tokens that carried loss
  double flops = 0;       ///< floating-point operations that the step could not do without; 0: nobody counted
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
  /// The gradients of accumulate(step) once more, right after it, from the same batch and weights; returns the loss. Changes nothing else.
  virtual double repeat(int64_t step) { return accumulate(step).loss; }
  /// What the step learned from, for people: "train.jsonl lines 3, 17".
  virtual std::string samples(int64_t /*step*/) const { return {}; }
  /// Losses of different steps measure the same thing (a policy gradient's surrogate does not).
  virtual bool loss_compares() const { return true; }
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
  bool spike_guard = true;      ///< skip steps whose loss or gradient norm is far above those before (train/guard.h)
  int64_t repeat_every = 1000;  ///< steps between two computations of one batch, which must agree bit for bit; 0: never
  bool anomaly = false;         ///< look for the operation that makes the first NaN or infinity, and end the run there
  double peak_flops = 0;        ///< per second, what the machine can do; 0: unknown
  bool assert_no_sync = false;  ///< on a GPU, from this run's fifth step on: a wait that is not documented is an error (tensor/gpu/waits.h)
};

class Loop {
 public:
  /// `identity` names every setting that a resumed run must share (data, seed, batch, ...). Checkpoints hold the parameters that
  /// train; those that do not come from where the model came from, so their hash belongs into the identity.
  Loop(Module& model, Optimizer& optimizer, Objective& objective, RunFolder& folder, LoopOptions options,
       std::map<std::string, std::string> identity);

  /// Answers to the same prompts over time, written to samples/ (optional).
  std::function<std::vector<SampleAnswer>()> sample;

  /// The newest checkpoint that verifies, if there is one. Changes nothing. Throws Error(Kind::usage) naming every setting of `identity`
  /// that differs and is not in `allow_changed`, with both values.
  std::optional<FoundCheckpoint> find(const std::vector<std::string>& allow_changed = {}) const;
  /// Continues from what find() found; from nothing: starts over.
  void restore(const std::optional<FoundCheckpoint>&);
  /// Both; false when there was no checkpoint.
  bool resume(const std::vector<std::string>& allow_changed = {});

  /// Runs to the end. Throws Error(Kind::interrupted or requeue) after saving when a signal asked to stop, Error(Kind::guard)
  /// after saving when a guard fired, Error(Kind::nondeterminism) when a batch computed twice gave two results. A checkpoint that cannot be
  /// written (disk full) is said and tried again when the next one is due; only where the run ends it is Error(Kind::environment).
  void run();

  int64_t step() const { return step_; }
  int64_t tokens() const { return tokens_; }  ///< computed since step 0
  const std::map<std::string, double>& last_evaluation() const { return evaluation_; }

 private:
  struct Watch;  // what run() keeps beside the state
  /// One step. False: the run went back to an earlier one.
  bool learn(Watch&);
  void pass_over();
  void report(Watch&, const StepReport&, const Clip&, double lr, const StepGuard::Judgement&);
  std::string explain(int64_t step);
  void check_repeat(int64_t step, double loss);
  void go_back(int64_t first_spike);
  /// Saves, and throws an error of this kind whatever became of that.
  [[noreturn]] void stop(Kind, const std::string& why);
  void load(const FoundCheckpoint&);
  void save();
  void try_save();
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
  int64_t tokens_ = 0;      ///< tokens computed since step 0
  StepGuard guard_;
  int64_t skip_begin_ = 0, skip_end_ = 0;  ///< steps whose batches are passed over since the run went back
  int64_t went_back_to_ = -1;              ///< step of the checkpoint that it last went back to
};

}  // namespace facet
