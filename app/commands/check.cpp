// A model against numbers from elsewhere.
#include <filesystem>

#include "app/check/checks.h"
#include "app/command.h"
#include "app/model_folder.h"
#include "app/optimizer_settings.h"
#include "models/gemma/hf_config.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string model, adapter, only;
  Values ref;
  double tol = 0;
  bool first_fail = false;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("model", &model, "folder of the model").positional().required();
    o.add("adapter", &adapter, "folder of an adapter (LoRA or DoRA, as PEFT or --adapter lora writes it) to put over the model");
    o.add("ref", &ref, "file with reference numbers; may be repeated, files are merged").required();
    o.add("tol", &tol, "largest difference allowed; 0: 1e-4 of the reference's root mean square (gradients: of its largest entry)").range(0, 1e9);
    o.add("only", &only, "names to look at, * stands for anything");
    o.add("first-fail", &first_fail, "stop at the first red row");
    o.pass_through("model", overrides);
  }
  CheckReport report() const {
    CheckReport r;
    r.json = json;
    r.first_fail = first_fail;
    r.only = only;
    return r;
  }
};

template <auto check>
int run_model(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  const ModelFolder folder = open_model(s.model, s.overrides, s.dtype, TokenizerNeed::optional, s.adapter, s.where());
  CheckReport report = s.report();
  const CheckTolerances tolerance{.absolute = s.tol};
  if constexpr (std::is_invocable_v<decltype(check), Gemma&, const Reference&, const CheckTolerances&, CheckReport&>)
    check(*folder.model, Reference(s.ref, !s.adapter.empty()), tolerance, report);
  else check(*folder.model, s.ref, tolerance, report);
  report.finish();
  return 0;
}

int run_discrepancies(Settings& s, Options& o, Console& console) {
  if (!s.adapter.empty()) fail(Kind::usage, "check discrepancies: no --adapter: the mistakes are those of a model; `facet merge` makes one of both");
  return run_model<check_discrepancies>(s, o, console);
}

// There need not be a model.
struct TokenizerSettings : Common {
  std::string model, only;
  Values ref;
  bool first_fail = false;
  void declare(Options& o) {
    o.add("model", &model, "folder of a model, or of a tokenizer.model alone").positional().required();
    o.add("ref", &ref, "JSON file with a reference's ids and texts; may be repeated. Without one: special pieces, one <bos>, text that comes back");
    o.add("only", &only, "rows to look at, * stands for anything");
    o.add("first-fail", &first_fail, "stop at the first red row");
  }
};

int run_tokenizer(TokenizerSettings& s, Options&, Console&) {
  const Tokenizer tokenizer = Tokenizer::load(s.model);
  CheckReport report;
  report.json = s.json;
  report.first_fail = s.first_fail;
  report.only = s.only;
  for (const std::string& path : s.ref) check_tokenizer(tokenizer, path, report);
  const bool has_model = std::filesystem::exists(std::filesystem::path(s.model) / "config.json");
  if (s.ref.empty()) check_tokenizer_alone(tokenizer, has_model ? read_hf_config(s.model).vocab : 0, report);
  report.finish();
  return 0;
}

// The model's own numbers, twice: there is no reference.
struct AloneSettings : Common {
  std::string model;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("model", &model, "folder of the model").positional().required();
    o.pass_through("model", overrides);
  }
  ModelFolder open(Console& console) const {
    use_threads(threads, console);
    return open_model(model, overrides, dtype, TokenizerNeed::optional, "", where());
  }
  CheckReport report() const {
    CheckReport r;
    r.json = json;
    return r;
  }
};

struct StepSettings : AloneSettings {
  OptimizerSettings optimizer;
  bool clone = false;
  void declare(Options& o) {
    AloneSettings::declare(o);
    o.add("clone", &clone, "from a copied state only, not on another number of threads too");
    optimizer.declare(o);
  }
};

int run_step(StepSettings& s, Options&, Console& console) {
  const ModelFolder folder = s.open(console);
  CheckReport report = s.report();
  check_step(*folder.model, s.optimizer, static_cast<uint64_t>(s.seed), !s.clone, report);
  report.finish();
  return 0;
}

struct MlpSettings : AloneSettings {
  std::string only;
  bool fused_vs_split = false;
  void declare(Options& o) {
    AloneSettings::declare(o);
    o.add("only", &only, "blocks to look at, e.g. 'layers.0.mlp', * stands for anything");
    o.add("fused-vs-split", &fused_vs_split, "gate and up as one product against two, with a histogram of the distances");
  }
};

int run_mlp(MlpSettings& s, Options&, Console& console) {
  const ModelFolder folder = s.open(console);
  CheckReport report = s.report();
  report.only = s.only;
  check_mlp(*folder.model, static_cast<uint64_t>(s.seed), s.fused_vs_split, report);
  report.finish();
  return 0;
}

// There is no model here.
struct OpsSettings : Common {
  std::string only;
  bool first_fail = false;
  void declare(Options& o) {
    o.add("only", &only, "operations to look at, * stands for anything");
    o.add("first-fail", &first_fail, "stop at the first red row");
  }
};

int run_ops(OpsSettings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  CheckReport report;
  report.json = s.json;
  report.first_fail = s.first_fail;
  report.only = s.only;
  check_ops(s.where(), report);
  report.finish();
  return 0;
}

constexpr const char* details =
    "References are safetensors or .npz files with [SET.]input_ids, attention_mask, position_ids and what came out of them\n"
    "(tools/dump_hf.py and tools/dump_jax.py write such files). Exit code 1 when anything is red.\n"
    "  facet check blocks --model m --ref taps.safetensors --set model.sliding_window=9";

}  // namespace

Command check_logits_command() { return command<Settings>("check logits", "Compare logits with a reference", details, run_model<check_logits>); }
Command check_blocks_command() {
  return command<Settings>("check blocks", "Compare every intermediate value with a reference; names the first bad block", details, run_model<check_blocks>);
}
Command check_grads_command() {
  return command<Settings>("check grads", "Compare the gradient of every parameter with a reference", details, run_model<check_grads>);
}
Command check_discrepancies_command() {
  return command<Settings>("check discrepancies", "Make every known mistake, and see whether a reference notices",
                           "Each line of docs/discrepancies.md is one of them: --only gelu_erf.", run_discrepancies);
}
Command check_generation_command() {
  return command<Settings>("check generation", "Compare cached greedy decoding with a reference", details, run_model<check_generation>);
}
Command check_ops_command() {
  return command<OpsSettings>("check ops", "Compare every operation and its gradient with slow twins and finite differences",
                              "With --device cuda: with the CPU, in f32 and bf16.\n  facet check ops --only 'rms_norm*'", run_ops);
}
Command check_step_command() {
  return command<StepSettings>("check step", "Take a training step again from copied state: the same bits, and on another number of threads",
                               "Everything that a step reads is in the weights and the optimizer's state, or it could not be repeated.\n"
                               "  facet check step m --clone\n  facet check step m --optimizer adafactor", run_step);
}
Command check_mlp_command() {
  return command<MlpSettings>("check mlp", "Compare every feed-forward block with primitive operations",
                              "  facet check mlp m --fused-vs-split", run_mlp);
}
Command check_tokenizer_command() {
  return command<TokenizerSettings>("check tokenizer", "Compare token ids, texts and chat renderings with a reference, or see that they make sense",
                                    "References are JSON files: an object with \"encode\", \"decode\" or \"cases\", or a list of [text, ids] or of\n"
                                    "conversations, as tools/dump_tokenizer.py writes them. Exit code 1 when anything is red.\n"
                                    "  facet check tokenizer m --ref nasty.json",
                                    run_tokenizer);
}

}  // namespace facet::app
