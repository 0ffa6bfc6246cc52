// What every trainer of the program shares: its settings, the memory it will need, and the run around an objective.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "app/console.h"
#include "app/data_settings.h"
#include "app/memory_plan.h"
#include "app/model_folder.h"
#include "app/optimizer_settings.h"
#include "app/options.h"
#include "data/loader.h"
#include "nn/lora.h"
#include "train/loop.h"

namespace facet::app {

struct TrainSettings : DataSettings {
  std::string model, out;
  std::string command;  ///< as typed, for the run folder
  std::string profile;  ///< file of a trace; "": none
  bool pack = false, resume = false, dry_run = false, assert_no_sync = false, anomaly = false, mem_report = false;
  std::string spike_guard = "on";
  int64_t batch = 8, accum = 1, bucket = 1;
  std::optional<int64_t> steps;
  std::optional<double> epochs;
  double lr = 0, min_lr_ratio = 0, decay = 0.2, clip = 1;
  OptimizerSettings optimizer;
  int64_t warmup = 0;
  std::string schedule = "cosine", recompute = "none";
  int64_t eval_every = 0, save_every = 0, sample_every = 0, keep = 2, log_every = 0, repeat_every = 1000;
  Values samples, train, freeze, allow_changed;
  std::string adapter = "none";
  LoraOptions lora;
  std::map<std::string, std::string> model_overrides;

  void declare_start(Options&);    ///< model, out, data
  void declare_batches(Options&);  ///< pack, bucket, batch, accum, epochs: of trainers that walk through a dataset
  void declare_train(Options&);    ///< steps, rate, optimizer, what trains
  void declare_run(Options&);      ///< how often things happen, resuming
};

/// Everything about a run that the command decides.
struct Training {
  Objective& objective;
  int64_t steps = 0;
  double lr = 0;
  std::map<std::string, std::string> identity = {};  ///< the command's own settings that a resumed run must share
  std::function<std::vector<SampleAnswer>()> sample = {};
  bool chat = false;                            ///< what is learned takes turns: final/ gets a chat template
  MemoryPlan memory = {};                       ///< what the run was planned to hold, for its folder
  /// Called when it is certain that this run goes on in the folder, before the first step; on resume while the model is still that of the
  /// start. Should stop when StopSignals::requested().
  std::function<void(RunFolder&)> begin = {};
};

struct TrainResult {
  std::map<std::string, double> evaluation;  ///< the last one
  int64_t steps = 0;
  double seconds = 0, tokens = 0;
};

/// Decides what trains (--adapter, --train, --freeze) and what backward recomputes. Before the objective is made.
void prepare_model(const TrainSettings&, uint64_t seed, ModelFolder&, Console&);
/// Runs to the end, or to where it was stopped, and writes the run folder with final/. Errors as the parts raise them.
TrainResult run_training(const TrainSettings&, uint64_t seed, ModelFolder&, const Training&, const Options&, Console&);

/// --lr, or what suits the size of what trains.
double learning_rate(const TrainSettings&, Module&);
/// --steps, or --epochs over a loader with so many steps an epoch (3 when neither is given).
int64_t count_steps(const TrainSettings&, int64_t steps_per_epoch);

/// Greedy answers to the prompts, for samples/.
std::vector<SampleAnswer> sample_answers(LanguageModel&, const Tokenizer&, const std::vector<std::string>& prompts, uint64_t seed);
/// Those of --sample, else the first words of some training examples; checked against the model's context.
std::vector<std::string> sample_prompts(const TrainSettings&, const Dataset&, const Tokenizer&, const LanguageModel&);

/// Random tokens, all of them learned, for benchmarks.
Batch random_batch(int64_t rows, int64_t length, int64_t vocab, uint64_t seed);

}  // namespace facet::app
