#include "app/train_run.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>

#include "app/limits.h"
#include "app/machine.h"
#include "app/trace_file.h"
#include "app/version.h"
#include "infer/generator.h"
#include "models/gemma/hf_config.h"
#include "models/gemma/peft.h"
#include "nn/body_graphs.h"
#include "tensor/io/crc32c.h"
#include "tensor/io/durable.h"
#include "tensor/io/file.h"
#include "tensor/io/text.h"
#include "tensor/parallel.h"
#include "train/signals.h"

namespace facet::app {
namespace fs = std::filesystem;
namespace {

constexpr const char* adapter_name = "default";

// Of the parameters that do not train: a checkpoint leaves them out, so a resumed run must find the same ones.
uint32_t hash_of_frozen(Module& model) {
  uint32_t hash = 0;
  for (Parameter* p : parameters(model)) {
    if (p->trains()) continue;
    hash = crc32c(p->name.data(), p->name.size(), hash);
    const Tensor value = p->value().detach().to(Device::cpu);
    hash = crc32c(value.view().data, static_cast<size_t>(value.numel() * size_of(value.dtype())), hash);
  }
  return hash;
}

// The first words of some training examples: what samples show when no prompt was asked for.
std::vector<std::string> first_words(const Dataset& data, const Tokenizer& tokenizer) {
  std::vector<std::string> prompts;
  for (int64_t i = 0; i < std::min<int64_t>(3 * data.group(), data.size()); i += data.group()) {
    const auto [ids, mask, line] = data[i];
    const auto learned = std::find(mask.begin() + 1, mask.end(), 1) - mask.begin();  // a prompt ends where learning begins
    const auto words = std::min<std::ptrdiff_t>(8, std::ssize(ids));
    const auto n = learned > 1 ? learned : words;
    prompts.push_back(tokenizer.decode(ids.subspan(1, static_cast<size_t>(n - 1))));
  }
  return prompts;
}

}  // namespace

void TrainSettings::declare_start(Options& o) {
  o.add("model", &model, "folder of the model to start from").positional().required().alias({"model-name-or-path", "checkpoint-dir"});
  o.add("out", &out, "run folder").required().alias({"output-dir"});
  DataSettings::declare(o).required();
}

void TrainSettings::declare_batches(Options& o) {
  o.add("pack", &pack, "several documents in one row, invisible to each other");
  o.add("bucket", &bucket, "examples of similar length share a batch, which wastes less on padding: so many batches are sorted at a time; 1: as they come").range(1, 1e6);
  o.rule([this] { return pack && bucket > 1 ? std::string("--bucket and --pack: packed rows are all of one length; choose one") : std::string(); });
  o.section("train");
  o.add("batch", &batch, "examples per step").alias({"batch-size", "per-device-train-batch-size"}).range(1, 1 << 20);
  o.add("accum", &accum, "micro-batches a step is computed in; the gradient is the same")
      .alias({"grad-accumulation-steps", "gradient-accumulation-steps", "grad-accumulation"}).range(1, 1 << 20);
  o.add("epochs", &epochs, "passes over the data; if neither is given 3, and at least 400 steps over a .txt file").alias({"num-train-epochs"}).range(1e-6, 1e6);
  o.rule([this] { return steps && epochs ? std::string("--steps and --epochs: choose one") : std::string(); });
}

void TrainSettings::declare_train(Options& o) {
  o.section("train");
  o.add("steps", &steps, "optimizer steps").alias({"iters", "max-steps"}).range(1, 1e12);
  o.add("lr", &lr, "peak learning rate; 0: 2e-3 for models below ten million parameters, else 2e-5, for an adapter 2e-4 (grpo: 1e-4, 1e-6, 1e-5); 0.3 of it for lion, 50 times it for adafactor and sgd").alias({"learning-rate"}).range(0, 100);
  o.add("schedule", &schedule, "how the rate falls").alias({"lr-scheduler-type"}).choices({"constant", "linear", "cosine", "wsd", "exponential", "inverse-sqrt"});
  o.add("decay", &decay, "wsd: the last share of the steps, in which the rate falls").range(0, 1);
  o.add("warmup", &warmup, "steps until the peak").alias({"warmup-steps"}).range(0, 1e12);
  o.add("min-lr-ratio", &min_lr_ratio, "last rate as a share of the peak").range(0, 1);
  o.add("clip", &clip, "global norm of the gradient; 0: off").alias({"max-grad-norm", "grad-clip"}).range(0, 1e9);
  optimizer.declare(o);
  o.add("recompute", &recompute, "what backward computes again to save memory: elementwise results (norms), the feed-forward block too, or all").alias({"grad-checkpoint"}).choices(recompute_names());
  o.add("train", &train, "the only parameters that train, e.g. 'layers.-2.*,final_norm': a name, a module, * for any characters, layers from the end as -1, -2, ...")
      .alias({"trainable"});
  o.add("freeze", &freeze, "parameters that stay as they are, e.g. 'embed_tokens.*'");
  o.pass_through("model", model_overrides);
  o.section("lora");
  o.add("adapter", &adapter, "train a low-rank adapter (LoRA, or DoRA) and leave the model as it is").alias({"fine-tune-type", "train-type"}).choices({"none", "lora", "dora"});
  o.add("lora-rank", &lora.rank, "rank of the update").alias({"lora-r"}).range(1, 65536);
  o.add("lora-alpha", &lora.alpha, "the update is scaled by alpha / rank").range(0, 1e6);
  o.add("lora-dropout", &lora.dropout, "share of an adapter's inputs that is dropped in training").range(0, 0.99);
  o.add("lora-targets", &lora.targets, "q, k, v, o, gate, up, down, embedding, all-linear, or paths with *").alias({"lora-target-modules"});
  o.add("rslora", &lora.rslora, "scale by alpha / sqrt(rank) instead").alias({"use-rslora"});
  o.rule([this, &o]() -> std::string {
    for (const char* name : {"lora-rank", "lora-alpha", "lora-dropout", "lora-targets", "rslora"})
      if (adapter == "none" && std::as_const(o).find(name)->layer() == Layer::flag) return fmt::format("--{} has no effect without --adapter lora", name);
    for (const auto& [option, patterns] : {std::pair("freeze", &freeze), std::pair("train", &train)})
      if (adapter != "none" && !patterns->empty()) return fmt::format("--{} and --adapter: an adapter freezes the whole model", option);
    if (std::as_const(o).find("decay")->layer() == Layer::flag && schedule != "wsd") return fmt::format("--decay has no effect with --schedule {}; wsd has one", schedule);
    if (schedule == "exponential" && min_lr_ratio == 0) return "--schedule exponential: the rate falls by one factor a step and never to 0; say with --min-lr-ratio where it ends, e.g. 0.01";
    return {};
  });
}

void TrainSettings::declare_run(Options& o) {
  o.section("run");
  o.add("eval-every", &eval_every, "steps between validations; 0: ten in all").alias({"eval-steps", "steps-per-eval"});
  o.add("save-every", &save_every, "steps between checkpoints; 0: at the end").alias({"save-steps"});
  o.add("sample-every", &sample_every, "steps between samples; 0: with each validation");
  o.add("sample", &samples, "prompt to answer over time, may be repeated; default: three of the data").verbatim();
  o.add("keep", &keep, "checkpoints that stay").alias({"save-total-limit"}).range(1, 1e6);
  o.add("log-every", &log_every, "steps between lines that stay; 0: about twenty").alias({"logging-steps", "steps-per-report"});
  o.add("resume", &resume, "continue from the newest checkpoint that verifies").alias({"resume-from-checkpoint", "continue"}).transient();
  o.add("allow-changed", &allow_changed, "settings that may differ from the checkpoint's").transient();
  declare_profile(o, &profile);
  o.add("assert-no-sync", &assert_no_sync, "for finding faults: a wait for the GPU inside a step, where none is documented, ends the run and is named").transient();
  o.add("spike-guard", &spike_guard, "skip steps whose loss or gradient norm is far above those before; after the third of twenty go back to the last checkpoint").choices({"on", "off"});
  o.add("repeat-every", &repeat_every, "steps between two computations of one batch, which must agree bit for bit (exit code 7 if not); 0: never").range(0, 1e12);
  o.add("anomaly", &anomaly, "for finding faults: look at every value, end the run at the first NaN or infinity and name the operation that made it").transient();
  o.add("mem-report", &mem_report, "at the end, the planned memory beside what the run held").transient();
  o.add("dry-run", &dry_run, "print memory, steps and the first masked example, then stop").transient();
}

std::vector<SampleAnswer> sample_answers(LanguageModel& model, const Tokenizer& tokenizer, const std::vector<std::string>& prompts, uint64_t seed) {
  std::vector<std::vector<int32_t>> ids;
  for (const std::string& p : prompts) ids.push_back(encode_prompt(tokenizer, p));
  GenerateOptions o;
  o.sampling.temperature = 0;
  o.max_new = 48;
  o.seed = seed;
  o.stop = tokenizer.stop_ids();
  const auto answers = generate(model, ids, o);
  std::vector<SampleAnswer> list;
  for (size_t i = 0; i < prompts.size(); ++i) list.push_back({prompts[i], tokenizer.decode(answers[i].tokens)});
  return list;
}

std::vector<std::string> sample_prompts(const TrainSettings& s, const Dataset& data, const Tokenizer& tokenizer, const LanguageModel& model) {
  const std::vector<std::string> prompts = s.samples.empty() ? first_words(data, tokenizer) : s.samples;
  for (const std::string& p : prompts)
    if (const auto n = static_cast<int64_t>(encode_prompt(tokenizer, p).size()); n > model.context())
      fail(Kind::usage, "--sample: a prompt has {} tokens, the context is {}; shorten it", n, model.context());
  return prompts;
}

void prepare_model(const TrainSettings& s, uint64_t seed, ModelFolder& folder, Console& console) {
  Gemma& model = *folder.model;
  if (s.adapter != "none") {
    folder.adapters = std::make_unique<Adapters>(model);
    LoraOptions lora = s.lora;
    lora.dora = s.adapter == "dora";
    folder.adapters->add(adapter_name, lora, fold_in(key(seed), 0x10fau));
    const auto all = static_cast<double>(count_parameters(model)), trained = static_cast<double>(count_parameters(model, true));
    console.note("adapter: {} of rank {} on {} modules, {} of {} parameters train ({:.2f}%)", s.adapter, lora.rank,
                 folder.adapters->factors(adapter_name).size(), grouped(static_cast<uint64_t>(trained)), grouped(static_cast<uint64_t>(all)), 100 * trained / all);
  }
  if (!s.train.empty()) set_trains(model, "*", false);
  for (const auto& [option, patterns] : {std::pair("train", &s.train), std::pair("freeze", &s.freeze)})
    for (const std::string& pattern : *patterns)
      if (set_trains(model, pattern == "final_norm" ? "norm" : pattern, option[0] == 't') == 0)  // as taps and papers call it
        fail(Kind::usage, "--{} {}: no parameter has such a name; facet inspect model lists them", option, pattern);
  if (count_parameters(model, true) == 0) fail(Kind::usage, "--freeze {}: nothing is left to train", fmt::join(s.freeze, ","));
  if (!s.train.empty() || !s.freeze.empty())
    console.note("{} of {} parameters train", grouped(static_cast<uint64_t>(count_parameters(model, true))), grouped(static_cast<uint64_t>(count_parameters(model))));
  model.recompute = recompute_of(s.recompute);
  if (model.device() == Device::gpu) model.graphs = std::make_shared<BodyGraphs>(model);
}

double learning_rate(const TrainSettings& s, Module& model) {
  if (s.lr > 0) return s.lr;
  return s.optimizer.rate_factor() * (count_parameters(model) < 10'000'000 ? 2e-3 : s.adapter != "none" ? 2e-4 : 2e-5);
}

int64_t count_steps(const TrainSettings& s, int64_t steps_per_epoch) {
  const auto n = s.steps ? *s.steps : static_cast<int64_t>(std::ceil(s.epochs.value_or(3) * static_cast<double>(steps_per_epoch)));
  if (n < 1) fail(Kind::usage, "--steps {}: at least one step is needed", n);
  return n;
}

Batch random_batch(int64_t rows, int64_t length, int64_t vocab, uint64_t seed) {
  Batch b;
  b.ids = randint(fold_in(key(seed), 1), {rows, length}, 0, vocab);
  b.labels = randint(fold_in(key(seed), 2), {rows, length}, 0, vocab);
  b.positions = plain_tokens(b.ids).positions;
  b.tokens = b.supervised = rows * length;
  return b;
}

TrainResult run_training(const TrainSettings& s, uint64_t seed, ModelFolder& folder, const Training& training, const Options& options, Console& console) {
  Gemma& model = *folder.model;
  const TraceFile trace(s.profile, model.device(), console);
  // Before anything is written: it takes the memory and checks the settings.
  const std::unique_ptr<Optimizer> optimizer = s.optimizer.make(model, seed);
  optimizer->keep_gradients(model.device() == Device::gpu);  // captured passes add to them by address
  RunFolder run(s.out, s.resume);
  run.watcher = [&console](const std::string& line, bool transient) { transient ? console.status(line) : console.note("{}", line); };

  LoopOptions o;
  o.steps = training.steps;
  o.lr = training.lr;
  if (s.warmup >= o.steps && s.warmup > 0)
    console.warn("--warmup {}: the run has {} steps, and its rate never gets to the peak", s.warmup, o.steps);
  o.schedule = {.shape = schedule_shape(s.schedule), .warmup = s.warmup, .steps = o.steps, .min_ratio = s.min_lr_ratio};
  o.schedule.decay = static_cast<int64_t>(std::ceil(s.decay * static_cast<double>(o.steps)));
  o.clip = s.clip;
  o.eval_every = s.eval_every > 0 ? s.eval_every : std::max<int64_t>(1, o.steps / 10);
  o.sample_every = s.sample_every > 0 ? s.sample_every : o.eval_every;
  o.save_every = s.save_every;
  o.keep = static_cast<int>(s.keep);
  o.log_every = s.log_every;
  o.assert_no_sync = s.assert_no_sync;
  o.spike_guard = s.spike_guard == "on";
  o.repeat_every = s.repeat_every;
  o.anomaly = s.anomaly;
  o.peak_flops = peak_flops(model.device(), model.compute());

  // Everything that decides the numbers, so that what is resumed is the same run.
  const std::string config = hf_config_json(model.config, model.head().value().dtype());
  std::map<std::string, std::string> identity = {
      {"model", fmt::format("{}, config {:08x}", model.describe(), crc32c(config.data(), config.size()))},
      {"seed", std::to_string(seed)},
      {"steps", std::to_string(o.steps)}, {"lr", fmt::format("{}", o.lr)}, {"schedule", s.schedule},
      {"warmup", std::to_string(s.warmup)}, {"min-lr-ratio", fmt::format("{}", s.min_lr_ratio)}, {"clip", fmt::format("{}", s.clip)},
      {"tokenizer", fmt::format("{:016x}", folder.tokenizer.hash())}};
  if (!o.spike_guard) identity["spike-guard"] = "off";
  if (model.device() == Device::gpu) identity["device"] = "cuda";  // sums of another order than the CPU's
  if (s.schedule == "wsd") identity["decay"] = fmt::format("{}", s.decay);
  identity.merge(s.optimizer.identity());
  if (const uint32_t frozen = hash_of_frozen(model)) identity["frozen weights"] = fmt::format("{:08x}", frozen);
  if (s.adapter != "none")
    identity.insert({{"adapter", s.adapter}, {"lora-rank", std::to_string(s.lora.rank)}, {"lora-alpha", fmt::format("{}", s.lora.alpha)},
                     {"lora-dropout", fmt::format("{}", s.lora.dropout)}, {"lora-targets", fmt::format("{}", fmt::join(s.lora.targets, ","))},
                     {"rslora", s.lora.rslora ? "yes" : "no"}});
  identity.insert(training.identity.begin(), training.identity.end());
  Loop loop(model, *optimizer, training.objective, run, o, identity);
  loop.sample = training.sample;
  const auto from = s.resume ? loop.find(s.allow_changed) : std::nullopt;

  const StopSignals signals("stopping as soon as nothing is lost (again to quit at once)");
  // Written once it is certain that this run may write here.
  run.write("config.resolved.yaml", options.dump());
  const std::string earlier = fs::exists(run.file("command.txt")) ? read_file(run.file("command.txt")) : "";
  run.write("command.txt", earlier + s.command + "\n");  // a line per start
  nlohmann::ordered_json env = {{"facet", version()}, {"built", build_notes()}, {"cpu", machine().cpu_model}, {"threads", threads()}};
  for (const auto& [name, bytes] : training.memory.parts()) env["memory"][name] = bytes;
  run.write("env.json", env.dump() + "\n");

  if (training.begin) training.begin(run);
  if (s.resume) loop.restore(from);
  if (s.resume && !from) console.note("{}: no checkpoint yet, starting from the model", s.out);
  const auto begin = std::chrono::steady_clock::now();
  loop.run();
  if (s.mem_report) report_memory(training.memory, model.device(), run);
  TrainResult result;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  result.tokens = static_cast<double>(loop.tokens());
  result.steps = o.steps;
  result.evaluation = loop.last_evaluation();
  if (folder.adapters) save_adapter(run.file("final"), *folder.adapters, adapter_name, folder.path, true);
  else save_model(run.file("final"), model, folder.tokenizer, folder.chat || training.chat, folder.home);
  console.note("wrote {}", run.file("final"));
  return result;
}

}  // namespace facet::app
