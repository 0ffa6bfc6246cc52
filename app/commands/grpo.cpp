// Reinforcement learning from the command line.
#include "app/command.h"
#include "app/grpo_run.h"

namespace facet::app {
namespace {

struct Settings : Common, GrpoSettings {
  void declare(Options& o) { declare_grpo(o); }
};

int run(Settings& s, Options& options, Console& console) {
  use_threads(s.threads, console);
  s.command = options.typed();
  ModelFolder folder = open_model(s.model, s.model_overrides, s.dtype, TokenizerNeed::required, "", s.where());
  run_grpo(s, static_cast<uint64_t>(s.seed), folder, options, console);
  return 0;
}

}  // namespace

Command grpo_command() {
  return command<Settings>("grpo", "Learn from rewards: ask, let verifiers judge, make the better answers likelier",
                           "Group-relative policy optimisation. Rows are {\"prompt\": text or messages, ...}; verifiers see the whole row. Answers are sampled\n"
                           "unfiltered (no top-k, no top-p): what samples is what learns. Writes what sft writes, and completions/, every answer with its rewards.\n"
                           "  facet grpo --model runs/radicals/sft/final --data runs/radicals/data --verifier radicals --steps 160 --out runs/rl\n"
                           "  facet grpo --model m --data gsm8k.jsonl --prompt-key question --verifier numeric --adapter lora --max-new 256 --out runs/math",
                           run);
}

}  // namespace facet::app
