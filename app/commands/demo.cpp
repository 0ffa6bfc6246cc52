// The tour without any downloaded weights: make a task, make a model, teach it, and see on problems it never met what it learned.
#include <chrono>
#include <filesystem>

#include "app/answers.h"
#include "app/command.h"
#include "app/sft_run.h"
#include "autograd/ops.h"
#include "data/make_tokenizer.h"
#include "data/radicals.h"
#include "optim/adamw.h"
#include "tensor/io/durable.h"
#include "tensor/io/text.h"
#include "train/sft.h"

namespace facet::app {
namespace {

// 128 demonstrations of up to 24 positions are about the 3,072 tokens a step that the learning rate was chosen for.
constexpr int64_t batch = 128, default_steps = 400;

struct Settings : Common {
  std::string out = "runs/radicals";
  std::optional<int64_t> steps;
  std::optional<double> seconds;
  double lazy = 0.8, lr = 2e-3;
  int64_t problems = 52000;
  bool resume = false;
  void declare(Options& o) {
    o.add("out", &out, "folder for data, model and runs");
    o.add("steps", &steps, fmt::format("optimizer steps of supervised training; default {}", default_steps));
    o.add("seconds", &seconds, "instead: as many steps as this machine does in so many seconds").range(1, 1e6);
    o.add("lazy", &lazy, "share of demonstrations that leave a pair under the root").range(0, 1);
    o.add("lr", &lr, "peak learning rate").range(0, 1);
    o.add("problems", &problems, "training problems").range(100, 10'000'000);
    o.rule([this] { return steps && seconds ? std::string("--steps and --seconds: choose one") : std::string(); });
  }
};

struct Stage {
  std::string name;
  PassRate greedy, sampled;
  std::vector<std::string> answers;  // to the shown problems
};

// What a stage of the tour leaves behind is judged the same way each time.
Stage judge(const std::string& name, ModelFolder& folder, const std::vector<Question>& test, size_t shown, uint64_t seed, Console& console) {
  GenerateOptions o;
  o.max_new = 24;
  o.stop = folder.tokenizer.stop_ids();
  o.seed = seed;
  Rewards radicals;
  radicals.add(make_verifier("radicals"));
  Stage stage{name, {}, {}, {}};
  stage.sampled = pass_rate(answer_all(*folder.model, folder.tokenizer, test, o, 1, radicals));
  o.sampling.temperature = 0;
  const auto answers = answer_all(*folder.model, folder.tokenizer, test, o, 1, radicals);
  stage.greedy = pass_rate(answers);
  for (size_t i = 0; i < shown; ++i) stage.answers.push_back(fmt::format("{} ({})", answers[i][0].text, answers[i][0].verdict));
  console.note("{:<5} held-out problems solved: greedy {:.3f}, sampled {:.3f}", name, stage.greedy.pass1, stage.sampled.pass1);
  return stage;
}

// Steps that fit into the asked time, from the time of a few steps on a copy. Only the count depends on the clock.
int64_t steps_in(double seconds, const GemmaConfig& config, const std::string& data, const Tokenizer& tokenizer, Console& console) {
  Gemma model(config);
  model.init(key(1));
  const Dataset train = read_dataset(data, tokenizer);
  const Loader loader(train, {.batch = batch});
  Sft objective(model, loader, {});
  AdamW optimizer({{.parameters = parameters(model)}});
  const auto time_of = [&](int64_t from, int64_t to) {
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = from; i < to; ++i) {
      objective.accumulate(i);
      optimizer.step(0);
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / static_cast<double>(to - from);
  };
  time_of(0, 2);
  const double step = time_of(2, 8);
  const auto n = std::max<int64_t>(20, static_cast<int64_t>(seconds / step));
  console.note("a step takes {:.3f} s here: {} steps in {:.0f} s (--steps {} gives the same bits again)", step, n, seconds, n);
  return n;
}

int run(Settings& s, Options& options, Console& console) {
  use_threads(s.threads, console);
  const auto seed = static_cast<uint64_t>(s.seed);
  const auto begin = std::chrono::steady_clock::now();

  const std::string data = s.out + "/data";
  make_folders(data);
  RadicalsOptions task;
  task.seed = seed;
  task.lazy = s.lazy;
  task.train = s.problems;
  write_radicals(data, task);
  ModelFolder folder;
  folder.tokenizer = Tokenizer::from_bytes(char_tokenizer(radicals_alphabet()), "the demo's tokenizer");
  GemmaConfig config = preset("tiny");
  config.vocab = folder.tokenizer.vocab_size();
  config.stop = folder.tokenizer.stop_ids();
  folder.model = std::make_unique<Gemma>(config);
  folder.model->init(key(seed));
  folder.path = s.out + "/init";
  save_model(folder.path, *folder.model, folder.tokenizer, false);
  console.note("task: √(2·3·3·13)= is 3√(2·13); demonstrations leave a pair under the root {:.0f}% of the time", 100 * s.lazy);
  console.note("model: {} parameters, {} pieces", grouped(static_cast<uint64_t>(count_parameters(*folder.model))), config.vocab);

  const auto test = read_questions(data + "/test.jsonl", folder.tokenizer);
  const size_t shown = std::min<size_t>(5, test.size());
  std::vector<Stage> stages;
  stages.push_back(judge("init", folder, test, shown, seed, console));

  SftSettings sft;
  Options sft_options("sft");
  sft.declare_sft(sft_options);
  sft.command = options.typed();
  sft.model = folder.path;
  sft.data = data;
  sft.out = s.out + "/sft";
  sft.batch = batch;
  sft.lr = s.lr;
  sft.steps = s.steps ? *s.steps : s.seconds ? steps_in(*s.seconds, config, data + "/train.jsonl", folder.tokenizer, console) : default_steps;
  if (std::filesystem::exists(sft.out)) remove_durably(sft.out);  // the demo is a run from nothing
  const SftResult trained = run_sft(sft, seed, folder, sft_options, console);
  stages.push_back(judge("SFT", folder, test, shown, seed, console));

  const double all = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  console.line();
  console.line("held-out problems solved ({} problems whose factors were never trained on together)", test.size());
  console.line("  {:<8}{:>10}{:>12}{:>14}{:>10}", "stage", "greedy", "sampled", "mean reward", "ended");
  for (const Stage& g : stages)
    console.line("  {:<8}{:>10.3f}{:>6.3f} ±{:.3f}{:>13.3f}{:>9.0f}%", g.name, g.greedy.pass1, g.sampled.pass1, g.sampled.pass1_error,
                 g.greedy.mean_reward, 100 * g.greedy.stopped);
  console.line();
  for (size_t i = 0; i < shown; ++i) {
    console.line("  {}   right: {}", test[i].prompt, test[i].expected);
    for (const Stage& g : stages) console.line("      {:<6}{}", g.name, g.answers[i]);
  }
  console.line();
  console.line("{} steps, {} tokens at {} tokens/s; {} in all", trained.steps, grouped(static_cast<uint64_t>(trained.tokens)),
               grouped(static_cast<uint64_t>(trained.tokens / std::max(1e-9, trained.seconds))), clock_text(all));
  console.line("try next:");
  console.line("  facet generate {}/final -p '√(2·2·3·5·5)=' --verifier radicals --greedy", sft.out);
  console.line("  facet inspect run {}", sft.out);
  console.line("  facet demo radicals --lazy 0 --out runs/clean        # demonstrations that always finish");
  return 0;
}

}  // namespace

Command demo_radicals_command() {
  return command<Settings>("demo radicals", "Make a task and a model, train it, and measure it on problems it never saw",
                           "Needs no downloads. The same seed and steps give the same bits.\n  facet demo radicals --seconds 60", run);
}

}  // namespace facet::app
