// One supervised run, whoever asks for it: the sft command and the demo.
#pragma once
#include "app/train_run.h"
#include "train/sft.h"

namespace facet::app {

struct SftSettings : TrainSettings {
  SftLoss loss;
  std::string ce = "chunked";
  void declare_sft(Options&);
};

struct SftResult : TrainResult {
  double unigram_entropy = 0;  ///< of the learned tokens, nats: the loss of a model that knows nothing else
};

/// Trains folder.model and writes the run folder. Errors as the parts raise them.
SftResult run_sft(const SftSettings&, uint64_t seed, ModelFolder& folder, const Options&, Console&);

}  // namespace facet::app
