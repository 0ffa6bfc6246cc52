// The tour without any downloaded weights: make a task, make a model, teach it by demonstrations that show the form and seldom the goal,
// then let it learn the goal from a verifier alone; and see, on problems it never met, what each stage brought.
#include <nlohmann/json.hpp>

#include <chrono>
#include <filesystem>

#include "app/answers.h"
#include "app/command.h"
#include "app/grpo_run.h"
#include "app/sft_run.h"
#include "app/story.h"
#include "data/make_tokenizer.h"
#include "data/radicals.h"
#include "optim/adamw.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"
#include "train/sft.h"

namespace facet::app {
namespace {

// 128 demonstrations of up to 24 positions are about the 3,072 tokens a step that the learning rate was chosen for.
constexpr int64_t batch = 128, default_sft_steps = 1000, default_grpo_steps = 400;
constexpr int64_t longest_answer = 24;
// What reinforcement learning has to add to the share of held-out problems solved: less is a failure of the program, not of luck.
constexpr double least_gain = 0.25;

struct Settings : Common {
  std::string out = "runs/radicals";
  std::optional<int64_t> sft_steps, grpo_steps;
  std::optional<double> seconds;
  double lazy = 0.8, lr = 2e-3, grpo_lr = 2e-4;
  int64_t problems = 52000, prompts = 32, group = 8;
  void declare(Options& o) {
    o.add("out", &out, "folder for data, model and runs");
    o.add("sft-steps", &sft_steps, fmt::format("optimizer steps of supervised training; default {}", default_sft_steps)).alias({"steps"}).range(1, 1e9);
    o.add("grpo-steps", &grpo_steps, fmt::format("optimizer steps of reinforcement learning; 0: leave it out; default {}", default_grpo_steps)).range(0, 1e9);
    o.add("seconds", &seconds, "instead: as many supervised steps as this machine does in half of so many seconds, and as many of reinforcement learning")
        .range(1, 1e6);
    o.add("lazy", &lazy, "share of demonstrations that leave a pair under the root").range(0, 1);
    o.add("lr", &lr, "peak learning rate of supervised training").range(0, 1);
    o.add("grpo-lr", &grpo_lr, "learning rate of reinforcement learning").range(0, 1);
    o.add("prompts-per-step", &prompts, "problems a reinforcement step is about").range(1, 1 << 16);
    o.add("group", &group, "answers to each of them").range(2, 1024);
    o.add("problems", &problems, "training problems").range(100, 10'000'000);
    o.rule([this] { return seconds && (sft_steps || grpo_steps) ? std::string("--seconds and --sft-steps, --grpo-steps: choose one") : std::string(); });
  }
};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The problems a stage is judged by.
struct Exam {
  std::vector<Question> held_out, longer;
  std::vector<std::string> problem, longer_problem;  ///< whose multiset each is: two orders of the same factors are one problem
  size_t shown = 0;

  Exam(const std::string& data, const Tokenizer& tokenizer) {
    const auto read = [&](const char* file, std::vector<std::string>& multisets) {
      auto list = read_questions(data + "/" + file, tokenizer);
      for (const Question& q : list) multisets.push_back(parse_json(q.row, q.where).at("multiset").get<std::string>());
      return list;
    };
    held_out = read("test.jsonl", problem);
    longer = read("test_longer.jsonl", longer_problem);
    shown = std::min<size_t>(5, held_out.size());
  }

  Stage judge(const std::string& name, ModelFolder& folder, uint64_t seed, Console& console) const {
    GenerateOptions o;
    o.max_new = longest_answer;
    o.stop = folder.tokenizer.stop_ids();
    o.seed = seed;
    Rewards radicals;
    radicals.add(make_verifier("radicals"));
    const auto answers = [&](const std::vector<Question>& list) { return answer_all(*folder.model, folder.tokenizer, list, o, 1, radicals); };
    Stage stage{name, {}, {}, {}, {}, {}};
    const auto sampled = answers(held_out);
    stage.sampled = pass_rate(sampled, problem);
    for (const auto& list : sampled) stage.rewards.push_back(list[0].reward);
    o.sampling.temperature = 0;
    const auto greedy = answers(held_out);
    stage.greedy = pass_rate(greedy, problem);
    stage.longer = pass_rate(answers(longer), longer_problem);
    for (size_t i = 0; i < shown; ++i) stage.answers.push_back(fmt::format("{} ({})", greedy[i][0].text, greedy[i][0].verdict));
    console.note("{:<5} held-out problems solved: greedy {:.3f}, sampled {:.3f}", name, stage.greedy.pass1, stage.sampled.pass1);
    return stage;
  }
};

// Steps that fit into the asked time, from the time of a few steps on a copy. Only the count depends on the clock.
int64_t steps_in(double seconds, const Gemma& like, const std::string& data, const Tokenizer& tokenizer, Console& console) {
  Gemma model(like.config);
  model.init(key(1));
  model.to(like.device());
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
    return seconds_since(begin) / static_cast<double>(to - from);
  };
  time_of(0, 2);
  const double step = time_of(2, 8);
  const auto n = std::max<int64_t>(20, static_cast<int64_t>(seconds / step));
  console.note("a step takes {:.3f} s here: {} steps in {:.0f} s (--sft-steps {} gives the same bits again)", step, n, seconds, n);
  return n;
}

void write_problems(const std::string& data, const Settings& s) {
  make_folders(data);
  RadicalsOptions task;
  task.seed = static_cast<uint64_t>(s.seed);
  task.lazy = s.lazy;
  task.train = s.problems;
  write_radicals(data, task);
  task.min_factors = task.max_factors = task.max_factors + 1;
  write_radicals_file(data + "/test_longer.jsonl", task, RadicalSplit::test);
}

ModelFolder new_model(const std::string& path, uint64_t seed, Device device) {
  ModelFolder folder;
  folder.tokenizer = Tokenizer::from_bytes(char_tokenizer(radicals_alphabet()), "the demo's tokenizer");
  GemmaConfig config = preset("tiny");
  config.vocab = folder.tokenizer.vocab_size();
  config.stop = folder.tokenizer.stop_ids();
  folder.model = std::make_unique<Gemma>(config);
  folder.model->init(key(seed));
  folder.path = folder.home = path;
  save_model(path, *folder.model, folder.tokenizer, false);
  folder.model->to(device);
  return folder;
}

void print(const Story& story, Console& console) {
  console.line();
  console.line("held-out problems solved (their multisets of factors were never trained on, in any order)");
  console.line("  {:<6}{:>16}{:>16}{:>20}{:>13}{:>8}", "stage", "greedy", "sampled", "a factor longer", "mean reward", "ended");
  for (const Stage& g : story.stages)
    console.line("  {:<6}{:>17}{:>17}{:>21}{:>13.3f}{:>7.0f}%", g.name, with_error(g.greedy.pass1, g.greedy.pass1_error),
                 with_error(g.sampled.pass1, g.sampled.pass1_error), with_error(g.longer.pass1, g.longer.pass1_error), g.sampled.mean_reward,
                 100 * g.sampled.stopped);
  console.line();
  for (size_t i = 0; i < story.problems.size(); ++i) {
    console.line("  {}   right: {}", story.problems[i].first, story.problems[i].second);
    for (const Stage& g : story.stages) console.line("      {:<6}{}", g.name, g.answers[i]);
  }
  console.line();
  std::string times;
  for (const auto& [name, seconds] : story.seconds) times += fmt::format("{}{} {:.1f} s", times.empty() ? "" : ", ", name, seconds);
  console.line("time: {}", times);
  console.line("try next:");
  for (const std::string& command : story.next) console.line("  {}", command);
}

int run(Settings& s, Options& options, Console& console) {
  use_threads(s.threads, console);
  const auto seed = static_cast<uint64_t>(s.seed);
  const auto begin = std::chrono::steady_clock::now();
  const std::string data = s.out + "/data";
  write_problems(data, s);
  ModelFolder folder = new_model(s.out + "/init", seed, s.device == "cuda" ? Device::gpu : Device::cpu);
  console.note("task: √(2·3·3·13)= is 3√(2·13); demonstrations leave a pair under the root {:.0f}% of the time", 100 * s.lazy);
  console.note("model: {} parameters, {} pieces", grouped(static_cast<uint64_t>(count_parameters(*folder.model))), folder.model->vocab());

  const Exam exam(data, folder.tokenizer);
  Story story;
  story.title = "Square roots: what demonstrations teach and what only a verifier does";
  story.task = fmt::format(
      "A model of {} parameters learns to simplify square roots of factored numbers: `√(2·3·3·13)=` is `3√(2·13)`. The demonstrations leave a "
      "pair under the root {:.0f}% of the time, so supervised training learns the form and an often unfinished answer. Then GRPO samples {} answers to "
      "each of {} problems a step, and exact arithmetic rewards those that are finished.\n\nTested on {} problems whose multisets of factors were never "
      "trained on in any order, and on {} problems with one factor more than any trained on.",
      grouped(static_cast<uint64_t>(count_parameters(*folder.model))), 100 * s.lazy, s.group, s.prompts, exam.held_out.size(), exam.longer.size());
  for (size_t i = 0; i < exam.shown; ++i) story.problems.emplace_back(exam.held_out[i].prompt, exam.held_out[i].expected);
  story.stages.push_back(exam.judge("init", folder, seed, console));

  SftSettings sft;
  Options sft_options("sft");
  sft.declare_sft(sft_options);
  sft.command = options.typed();
  sft.model = folder.path;
  sft.data = data;
  sft.out = story.sft_run = s.out + "/sft";
  sft.batch = batch;
  sft.lr = s.lr;
  sft.steps = s.seconds ? steps_in(*s.seconds / 2, *folder.model, data + "/train.jsonl", folder.tokenizer, console)
                        : s.sft_steps.value_or(default_sft_steps);
  if (std::filesystem::exists(sft.out)) remove_durably(sft.out);  // the demo is a run from nothing
  const SftResult trained = run_sft(sft, seed, folder, sft_options, console);
  story.stages.push_back(exam.judge("SFT", folder, seed, console));
  story.seconds = {{"supervised training", trained.seconds}};

  const int64_t grpo_steps = s.seconds ? *sft.steps : s.grpo_steps.value_or(default_grpo_steps);
  std::string last = sft.out;
  if (grpo_steps > 0) {
    GrpoSettings rl;
    Options rl_options("grpo");
    rl.declare_grpo(rl_options);
    rl.command = options.typed();
    rl.model = sft.out + "/final";
    rl.data = data;
    rl.out = story.grpo_run = s.out + "/grpo";
    rl.verifier = {"radicals"};
    rl.prompts = s.prompts;
    rl.group = s.group;
    rl.max_new = longest_answer;
    rl.lr = s.grpo_lr;
    // Small groups make a noisy gradient: it is averaged over more steps, and the rate falls to nothing in the end.
    rl.optimizer.beta2 = 0.99;
    rl.warmup = 10;
    rl.schedule = "linear";
    rl.scale = "none";
    rl.row_len = 256;  // room for most groups
    rl.steps = grpo_steps;
    if (std::filesystem::exists(rl.out)) remove_durably(rl.out);
    folder.path = folder.home = rl.model;
    const GrpoResult learned = run_grpo(rl, seed, folder, rl_options, console);
    story.stages.push_back(exam.judge("GRPO", folder, seed, console));
    story.seconds.emplace_back("GRPO: sampling", learned.sampling_seconds);
    story.seconds.emplace_back("GRPO: learning", learned.seconds - learned.sampling_seconds);
    last = rl.out;
  }
  const double all = seconds_since(begin);
  double named = 0;
  for (const auto& [name, seconds] : story.seconds) named += seconds;
  story.seconds.emplace_back("data, tests and the rest", all - named);
  story.settings = {{"seed", std::to_string(seed)}, {"supervised steps", fmt::format("{} of {} demonstrations", *sft.steps, batch)},
                    {"GRPO steps", fmt::format("{} of {} problems x {} answers", grpo_steps, s.prompts, s.group)},
                    {"peak rates", fmt::format("{:g}, {:g}", s.lr, s.grpo_lr)}, {"training problems", grouped(static_cast<uint64_t>(s.problems))}};
  story.next = {fmt::format("facet generate {}/final -p '√(2·2·3·5·5)=' --verifier radicals --greedy", last),
                fmt::format("facet inspect run {}", last),
                "facet demo radicals --grpo-lr 3e-3 --out runs/broken   # too high a rate: watch it fall apart",
                "facet demo radicals --group 2 --out runs/pairs         # two answers a problem: most groups agree and teach nothing",
                "facet demo radicals --lazy 0 --out runs/clean          # demonstrations that always finish"};
  write_file_atomically(s.out + "/report.html", story_page(story));

  const double gain = story.stages.back().greedy.pass1 - story.stages[1].greedy.pass1;
  const bool enough = grpo_steps == 0 || gain >= least_gain;
  if (console.json()) {
    nlohmann::ordered_json result{{"seed", seed}, {"seconds", all}, {"gain", gain}};
    for (const Stage& g : story.stages)
      result["stages"].push_back({{"name", g.name}, {"greedy", g.greedy.pass1}, {"sampled", g.sampled.pass1}, {"longer", g.longer.pass1}});
    console.line("{}", result.dump());
  } else {
    print(story, console);
    console.line("{}/report.html shows the curves", s.out);
  }
  if (!enough)
    console.warn("GRPO lifted the held-out rate by {:.3f}, expected at least {}; more --grpo-steps, or another --grpo-lr?", gain, least_gain);
  return enough ? 0 : static_cast<int>(Kind::check);
}

}  // namespace

Command demo_radicals_command() {
  return command<Settings>("demo radicals", "Make a task and a model, train it by demonstrations, then by rewards, and measure it on problems it never saw",
                           "Needs no downloads. The same seed and steps give the same bits. Exit code 1 when reinforcement learning lifts the share of\n"
                           "held-out problems solved by less than 0.25. Writes report.html, one file with curves.\n  facet demo radicals --seconds 60",
                           run);
}

}  // namespace facet::app
