// One run of reinforcement learning, whoever asks for it: the grpo command and the demo.
#pragma once
#include "app/train_run.h"
#include "app/verifier_settings.h"
#include "train/grpo.h"

namespace facet::app {

struct GrpoSettings : TrainSettings, VerifierSettings {
  int64_t group = 8, prompts = 32, max_new = 64, updates = 1, rows = 256, row_len = 0, max_failures = 10, eval_limit = 300;
  double temp = 1, kl = 0, clip_low = 0.2, clip_delta = 0;
  std::optional<double> clip_high;
  std::string loss = "dapo", scale = "group", ratio = "token";
  bool mask_truncated = false, separate = false;

  GrpoSettings() { schedule = "constant"; }
  void declare_grpo(Options&);
  GrpoOptions grpo_options(const Tokenizer&, uint64_t seed) const;
};

struct GrpoResult : TrainResult {
  double sampling_seconds = 0;  ///< of `seconds`: drawing and judging completions
};

/// Trains folder.model and writes the run folder. Errors as the parts raise them.
GrpoResult run_grpo(const GrpoSettings&, uint64_t seed, ModelFolder& folder, const Options&, Console&);

}  // namespace facet::app
