// Supervised fine-tuning from the command line.
#include "app/command.h"
#include "app/sft_run.h"

namespace facet::app {
namespace {

struct Settings : Common, SftSettings {
  void declare(Options& o) { declare_sft(o); }
};

int run(Settings& s, Options& options, Console& console) {
  use_threads(s.threads, console);
  s.command = options.typed();
  ModelFolder folder = open_model(s.model, s.model_overrides, s.dtype, TokenizerNeed::required, "", s.where());
  run_sft(s, static_cast<uint64_t>(s.seed), folder, options, console);
  return 0;
}

}  // namespace

Command sft_command() {
  Command c = command<Settings>("sft", "Train all parameters on text, completions or conversations",
                                "Writes a run folder: config.resolved.yaml, metrics.jsonl, samples/, checkpoints/ and final/, a model folder.\n"
                                "  facet sft --model m --data book.txt --val-frac 0.05 --out runs/book\n"
                                "  facet sft --config runs/book/config.resolved.yaml --resume",
                                run);
  c.alias = "train";
  return c;
}

}  // namespace facet::app
