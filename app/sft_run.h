// One supervised run, whoever asks for it: the sft command and the demo.
#pragma once
#include <optional>

#include "app/console.h"
#include "app/data_settings.h"
#include "app/model_folder.h"
#include "app/options.h"
#include "optim/optimizer.h"

namespace facet::app {

struct SftSettings : DataSettings {
  std::string model, out;
  std::string command;  ///< as typed, for the run folder
  bool pack = false, resume = false, dry_run = false;
  int64_t batch = 8, accum = 1;
  std::optional<int64_t> steps;
  std::optional<double> epochs;
  double lr = 0, min_lr_ratio = 0, weight_decay = 0, beta1 = 0.9, beta2 = 0.95, clip = 1;
  int64_t warmup = 0;
  std::string schedule = "cosine", recompute = "none";
  int64_t eval_every = 0, save_every = 0, sample_every = 0, keep = 2, log_every = 0;
  Values samples, freeze, allow_changed;
  std::map<std::string, std::string> model_overrides;

  void declare_sft(Options&);
};

struct SftResult {
  double valid_loss = 0;       ///< 0 without validation data
  double unigram_entropy = 0;  ///< of the learned tokens, nats: the loss of a model that knows nothing else
  int64_t steps = 0;
  double seconds = 0, tokens = 0;
};

/// Trains folder.model and writes the run folder. Errors as the parts raise them.
SftResult run_sft(const SftSettings&, uint64_t seed, ModelFolder& folder, const Options&, Console&);

Recompute recompute_of(const std::string& name);
/// All parameters that train: matrices decay, vectors (norms) do not.
std::vector<ParameterGroup> parameter_groups(Module&, double weight_decay);

/// Applies --threads and says what was chosen with -v.
void use_threads(const std::string& asked, Console&);

}  // namespace facet::app
