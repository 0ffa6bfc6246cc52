// How good a model is: loss on text, or the share of questions it answers right.
#include <cmath>

#include <nlohmann/json.hpp>

#include "app/answers.h"
#include "app/command.h"
#include "app/data_settings.h"
#include "app/sampling_settings.h"
#include "app/verifier_settings.h"
#include "tensor/io/text.h"
#include "tensor/io/durable.h"
#include "train/sft.h"

namespace facet::app {
namespace {

struct Settings : Common, SamplingSettings, DataSettings, VerifierSettings {
  std::string model, adapter, task = "lm", answers;
  int64_t k = 1, limit = 0, batch = 8;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("model", &model, "folder of the model").positional().required();
    o.add("adapter", &adapter, "folder of an adapter (LoRA or DoRA, as PEFT or --adapter lora writes it) to put over the model");
    DataSettings::declare(o).required();
    o.section("");
    o.add("task", &task, "lm: loss and perplexity; verifier: answer questions and judge them").choices({"lm", "verifier"});
    o.add("k", &k, "answers per question (with --temp above 0)").alias({"num-samples"}).range(1, 4096);
    o.add("limit", &limit, "at most so many rows; 0: all").range(0, 1e12);
    o.add("answers", &answers, "file to write questions, answers and verdicts to, a JSON object a line");
    o.add("batch", &batch, "rows at once (lm)").range(1, 4096);
    declare_sampling(o);
    verifier = {"exact"};
    declare_verifiers(o);
    o.pass_through("model", overrides);
  }
};

int run_lm(const Settings& s, ModelFolder& folder, Console& console) {
  const Splits splits = s.read(folder.tokenizer, static_cast<uint64_t>(s.seed), folder.model->context());
  const Dataset& data = splits.test.size() ? splits.test : splits.valid.size() ? splits.valid : splits.train;
  const SftFigures f = evaluate_loss(*folder.model, batches_in_order(data, s.batch, std::max(0, folder.tokenizer.specials().pad)));
  if (console.json()) {
    console.line("{}", nlohmann::json{{"loss", f.loss}, {"perplexity", std::exp(f.loss)}, {"tokens", f.supervised}}.dump());
  } else {
    console.line("loss {:.4f} nats, perplexity {:.4g} over {} tokens of {}", f.loss, std::exp(f.loss), grouped(f.supervised), data.path());
  }
  return 0;
}

int run_verifier(const Settings& s, ModelFolder& folder, Console& console) {
  Rewards rewards = s.rewards();
  const int64_t context = folder.model->context();
  DataOptions d = s.DataSettings::options(static_cast<uint64_t>(s.seed), context);
  if (s.max_len == 0) d.max_len = context;
  d.limit = s.limit;
  DataReport report;
  const auto questions = read_questions(s.data, folder.tokenizer, d, &report);
  rewards.check(questions);
  if (report.used < report.rows) console.note("{}: {}", s.data, report.summary());
  const auto answers = answer_all(*folder.model, folder.tokenizer, questions, s.SamplingSettings::options(folder.tokenizer, static_cast<uint64_t>(s.seed)), s.k,
                                  rewards, [&](int64_t done, int64_t total) { console.progress("answering", done, total); });
  const PassRate r = pass_rate(answers);
  std::string error;
  for (const auto& list : answers)
    for (const Answer& a : list)
      if (error.empty()) error = a.error;
  if (!s.answers.empty()) {
    std::string text;
    for (size_t i = 0; i < questions.size(); ++i)
      for (const Answer& a : answers[i])
        text += nlohmann::json{{"prompt", questions[i].prompt}, {"answer", a.text}, {"expected", questions[i].expected},
                               {"reward", a.reward}, {"verdict", a.verdict}, {"error", a.error}, {"stop", name_of(a.stop)}}
                    .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    write_file_atomically(s.answers, text);
  }
  if (r.failed > 0) {
    const std::string what = fmt::format("{}; {} of {} answers have no reward", error, r.failed, questions.size() * answers[0].size());
    if (r.failed == static_cast<int64_t>(questions.size() * answers[0].size())) fail(Kind::data, "{}", what);
    console.note("{}; they are left out", what);
  }
  if (console.json()) {
    console.line("{}", nlohmann::json{{"pass1", r.pass1}, {"pass1_error", r.pass1_error}, {"pass_k", r.pass_k}, {"k", answers[0].size()},
                                      {"mean_reward", r.mean_reward}, {"stopped", r.stopped}, {"failed", r.failed}, {"questions", questions.size()}}.dump());
    return 0;
  }
  console.line("pass@1 {:.3f} +- {:.3f}, mean reward {:.3f}, {:.1f}% ended by themselves, {} questions", r.pass1, r.pass1_error, r.mean_reward,
               100 * r.stopped, questions.size());
  if (answers[0].size() > 1) console.line("pass@{} {:.3f}", answers[0].size(), r.pass_k);
  return 0;
}

int run(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  ModelFolder folder = open_model(s.model, s.overrides, s.dtype, TokenizerNeed::required, s.adapter, s.where());
  return s.task == "lm" ? run_lm(s, folder, console) : run_verifier(s, folder, console);
}

}  // namespace

Command eval_command() {
  return command<Settings>("eval", "Loss and perplexity on text, or the share of questions answered right",
                           "  facet eval runs/book/final --data book.txt\n"
                           "  facet eval runs/radicals/final --data data/test.jsonl --task verifier --verifier radicals --greedy", run);
}

}  // namespace facet::app
