// Learning from preferences from the command line: direct preference optimisation.
#include <algorithm>
#include <chrono>
#include <optional>

#include "app/command.h"
#include "app/train_run.h"
#include "models/gemma/hf_config.h"
#include "nn/lora.h"
#include "tensor/io/crc32c.h"
#include "tensor/io/text.h"
#include "train/dpo.h"
#include "train/reference_cache.h"
#include "train/signals.h"

namespace facet::app {
namespace {

struct Settings : Common, TrainSettings {
  double beta = 0.1, label_smoothing = 0;
  std::string loss = "sigmoid", ref = "auto", ref_model, ref_cache;
  bool ipo_sum = false, separate = false;

  void declare(Options& o) {
    declare_start(o);
    declare_batches(o);
    declare_train(o);
    o.section("dpo");
    o.add("beta", &beta, "how strongly the policy is held to the reference").range(0, 1e6).alias({"dpo-beta"});
    o.add("loss", &loss, "what becomes of a pair's margin").choices({"sigmoid", "robust", "hinge", "ipo"}).alias({"loss-type", "dpo-loss-type"});
    o.add("label-smoothing", &label_smoothing, "share of pairs taken to be mislabelled; sigmoid (conservative DPO) and robust").range(0, 0.5);
    o.add("ipo-sum", &ipo_sum, "ipo over summed log-probabilities, as in its paper; else over means, as TRL");
    o.add("ref", &ref, "the reference policy: a second model, the base under the adapter, or log-probabilities computed once; auto: adapter-off with an adapter, else cache")
        .choices({"auto", "model", "adapter-off", "cache"});
    o.add("ref-model", &ref_model, "folder of the reference, where it is not the model to start from").metavar("DIR").alias({"reference-model-path", "ref-model-path"});
    o.add("ref-cache", &ref_cache, "file of the reference's log-probabilities; default: reference.safetensors in the run folder").metavar("FILE");
    o.add("separate", &separate, "compute a pair's prompt twice instead of once for both completions");
    declare_run(o);
    o.rule([this] { return complaint(); });
  }

  DpoLossOptions loss_options() const {
    return {.form = preference_loss_named(loss), .beta = beta, .label_smoothing = label_smoothing, .ipo_sum = ipo_sum};
  }
  bool adapts() const { return adapter != "none"; }
  /// What `auto` means here.
  std::string reference() const {
    if (ref != "auto") return ref;
    if (!ref_cache.empty()) return "cache";
    if (!ref_model.empty()) return "model";
    return adapts() ? "adapter-off" : "cache";
  }

 private:
  std::string complaint() const {
    if (beta == 0) return "--beta 0: nothing would tell chosen from rejected; above 0, 0.1 is usual";
    if (ref == "adapter-off" && !adapts()) return "--ref adapter-off: there is no adapter; --adapter lora trains one, --ref cache needs none";
    if (ref == "adapter-off" && !ref_model.empty()) return "--ref adapter-off and --ref-model: choose one";
    if (reference() != "cache" && !ref_cache.empty()) return fmt::format("--ref {} and --ref-cache: choose one", ref);
    if (mask == "none") return "--mask none: of a pair only the completions count";
    try {
      loss_options().check();
    } catch (const Error& e) {
      return std::string("--loss ") + loss + ": " + e.what();
    }
    return "";
  }
};

constexpr std::chrono::minutes between_saves(1);  // of a reference pass: what a kill may cost

// What tells one reference from another: the model's shape, its config and every weight.
std::string identity_of(Gemma& model) {
  const std::string config = hf_config_json(model.config, model.head().value().dtype());
  return fmt::format("{}, config {:08x}, weights {}", model.describe(), crc32c(config.data(), config.size()), hash_text(base_hash(model)));
}

// The reference as the objective asks for it, and what it takes to have it.
struct References {
  std::string kind, identity;
  std::unique_ptr<Gemma> other;  // a model beside the policy
  ReferenceCache cache;

  References(const Settings& s, ModelFolder& folder, const Splits& splits) : kind(s.reference()) {
    if (kind == "model" || !s.ref_model.empty()) {
      const bool same = s.ref_model.empty();
      ModelFolder f = open_model(same ? s.model : s.ref_model, same ? s.model_overrides : std::map<std::string, std::string>(), s.dtype, TokenizerNeed::required, "", s.where());
      if (f.tokenizer.hash() != folder.tokenizer.hash())
        fail(Kind::usage, "--ref-model {}: its tokenizer is another one than {}'s; log-probabilities could not be compared", f.path, folder.path);
      other = std::move(f.model);
      for (Parameter* p : parameters(*other)) p->set_trains(false);
    }
    identity = cache.reference = identity_of(other ? *other : *folder.model);
    cache.data = fmt::format("{:016x}-{:016x}", splits.train.fingerprint(), splits.valid.fingerprint());
  }

  Reference of(const std::string& part, ModelFolder& policy, const Dataset& data) {
    if (kind == "cache") return cached_reference(cache.parts[part]);
    if (kind == "adapter-off") return adapter_off_reference(*policy.adapters, data);
    return [&model = *other, &data](const Batch& b) { return completion_log_probs(model, data, b); };
  }

  /// Reads the cache if there is one. One that the user named is refused when it belongs to something else; the run's own is replaced.
  void find(const std::string& path, bool own, const std::function<void(const std::string&)>& say) {
    if (kind != "cache") return;
    try {
      auto found = ReferenceCache::load(path, cache.data, cache.reference);
      if (!found) return;
      for (auto& [part, values] : found->parts) cache.parts[part] = std::move(values);  // in place: the objective looks at these lists
    } catch (const Error& e) {
      if (e.kind() != Kind::file) throw;
      if (!own) fail(Kind::file, "{}; name another --ref-cache, or remove the file and it is computed again", e.what());
      say(fmt::format("reference: {}; it is computed again", e.what()));
    }
  }

  /// Computes and keeps what find() did not find. Before the first step: the policy may be the reference.
  void complete(const std::string& path, ModelFolder& policy, const Splits& splits, const LoaderOptions& l, int64_t batch, RunFolder& run, Console& console) {
    if (kind != "cache") return;
    const std::pair<const char*, const Dataset*> parts[] = {{"train", &splits.train}, {"valid", &splits.valid}};
    int64_t pairs = 0, there = 0;
    for (const auto& [part, data] : parts) {
      LogProbs& values = cache.parts[part];
      if (std::ssize(values) > data->size()) fail(Kind::file, "{}: {} log-probabilities, there are {} completions", path, values.size(), data->size());
      there += std::ssize(values) / 2;
      pairs += data->size() / 2;
    }
    if (there == pairs) {
      run.say(fmt::format("reference: log-probabilities of {} pairs from {}; the pass is skipped", pairs, path));
    } else {
      if (there > 0) run.say(fmt::format("reference: log-probabilities of {} of {} pairs from {}; the pass goes on", there, pairs, path));
      std::optional<AdapterOff> off;
      if (!other && policy.adapters) off.emplace(*policy.adapters);
      auto kept = std::chrono::steady_clock::now();
      for (const auto& [part, data] : parts)
        reference_pass(other ? *other : *policy.model, *data, batch, l.share, l.pad_id, cache.parts[part], [&](int64_t done, int64_t of) {
          console.status(fmt::format("reference: {} of {} {} pairs", done, of, part));
          const int signal = StopSignals::requested();
          if (signal == 0 && std::chrono::steady_clock::now() - kept < between_saves) return;
          cache.save(path);
          kept = std::chrono::steady_clock::now();
          if (signal != 0)
            fail(stop_kind(signal), "stopped while the reference's log-probabilities were computed; they are kept in {}, --resume goes on", path);
        });
      cache.save(path);
      run.say(fmt::format("reference: log-probabilities of {} pairs computed, kept in {} (--ref-cache lets other runs use them)", pairs, path));
    }
    other.reset();
  }
};

int run(Settings& s, Options& options, Console& console) {
  use_threads(s.threads, console);
  s.command = options.typed();
  const auto seed = static_cast<uint64_t>(s.seed);
  ModelFolder folder = open_model(s.model, s.model_overrides, s.dtype, TokenizerNeed::required, "", s.where());
  Gemma& model = *folder.model;
  const Tokenizer& tokenizer = folder.tokenizer;
  const Splits splits = s.read(tokenizer, seed, model.context());
  const Dataset& data = splits.train;
  check_pairs(data);
  prepare_model(s, seed, folder, console);

  LoaderOptions l;
  l.batch = s.batch;
  l.accum = s.accum;
  l.seed = seed;
  l.bucket = s.bucket;
  l.pack = s.pack;
  l.row_len = s.pack ? 2 * s.options(seed, model.context()).max_len : 0;  // room for any pair
  l.share = !s.separate;
  l.pad_id = std::max(0, tokenizer.specials().pad);
  const Loader loader(data, l);
  const int64_t micro = std::max<int64_t>(1, s.batch / s.accum);

  const int64_t steps = count_steps(s, loader.steps_per_epoch());
  const DataStats figures = stats(data);
  console.note("data: {}", data.report().summary());
  console.note("{} pairs, {} tokens ({} of completions), {} pairs for validation", grouped(figures.examples), grouped(figures.tokens),
               grouped(figures.supervised), grouped(splits.valid.size() / 2));

  References references(s, folder, splits);
  const bool own = s.ref_cache.empty();
  const std::string cache = own ? s.out + "/reference.safetensors" : s.ref_cache;
  // A new run is refused before anything is written. One that goes on is first told what else changed.
  if (!s.resume && !own) references.find(cache, own, {});
  int64_t tokens = 0;  // of the largest micro-batch among the first steps
  for (int64_t i = 0; i < std::min<int64_t>(steps, 8); ++i)
    for (const Batch& b : loader.at(i)) tokens = std::max(tokens, b.ids.numel());
  MemoryPlan plan = plan_memory(model, tokens, s.optimizer);
  if (references.other) {
    plan.other_name = "reference";
    for (const auto& [name, value] : named_values(*references.other)) plan.other += static_cast<double>(value.numel() * size_of(value.dtype()));
  }
  check_memory(plan, model.device(), s.dry_run, console);
  console.note("reference: {} ({})", references.kind, references.identity);
  if (s.dry_run) {
    console.line("{} steps of {} pairs in {} micro-batches, {:.2f} epochs", grouped(steps), s.batch, s.accum, loader.epoch(steps));
    console.line("{}", preview(data, tokenizer, 0));
    console.line("{}", preview(data, tokenizer, 1));
    return 0;
  }

  Dpo::HeldOut valid;
  if (splits.valid.size() > 0) valid = {&splits.valid, batches_in_order(splits.valid, micro, l.pad_id, 1, l.share), references.of("valid", folder, splits.valid)};
  Dpo objective(model, loader, references.of("train", folder, data), std::move(valid), s.loss_options());
  const auto prompts = sample_prompts(s, data, tokenizer, model);
  Training training{objective};
  training.steps = steps;
  training.memory = plan;
  // Preferences are learned at about a tenth of the rate of texts: the loss has no floor that would hold the policy back.
  training.lr = s.lr > 0 ? s.lr : 0.1 * learning_rate(s, model);
  training.identity = {{"trainer", "dpo"},
                       {"data", fmt::format("{} pairs {:016x}", data.size() / 2, data.fingerprint())},
                       {"pack", l.pack ? fmt::format("rows of {}", l.row_len) : "no"},
                       {"prompts", s.separate ? "separate" : "shared"},
                       {"batch", std::to_string(s.batch)},
                       {"accum", std::to_string(s.accum)},
                       {"loss", s.loss + (s.ipo_sum ? " of sums" : "")},
                       {"beta", fmt::format("{}", s.beta)},
                       {"label-smoothing", fmt::format("{}", s.label_smoothing)},
                       {"reference", references.identity}};
  if (s.bucket > 1) training.identity["bucket"] = std::to_string(s.bucket);
  training.sample = [&] { return sample_answers(model, tokenizer, prompts, seed); };
  const auto first = data[0].ids;
  training.chat = std::find(first.begin(), first.end(), tokenizer.specials().end_of_turn) != first.end();
  training.begin = [&](RunFolder& run) {
    if (s.resume) references.find(cache, own, [&](const std::string& line) { run.say(line); });
    references.complete(cache, folder, splits, l, micro, run, console);
  };
  run_training(s, seed, folder, training, options, console);
  return 0;
}

}  // namespace

Command dpo_command() {
  return command<Settings>("dpo", "Align a model with preferences: pairs of a chosen and a rejected answer",
                           "Rows are {\"prompt\", \"chosen\", \"rejected\"}. Writes a run folder as sft does. Without --lr a tenth of sft's rate.\n"
                           "  facet dpo --model m --data preferences.jsonl --val-frac 0.1 --out runs/dpo\n"
                           "  facet dpo --model m --data preferences.jsonl --loss ipo --ref-cache ref.safetensors --out runs/ipo",
                           run);
}

}  // namespace facet::app
