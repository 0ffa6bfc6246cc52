// How good a model is: loss on text, the labels it gives, or the share of questions it answers right.
#include <algorithm>
#include <cmath>
#include <set>

#include <nlohmann/json.hpp>

#include "app/answers.h"
#include "app/command.h"
#include "app/data_settings.h"
#include "app/sampling_settings.h"
#include "app/verifier_settings.h"
#include "data/question.h"
#include "infer/generator.h"
#include "tensor/io/text.h"
#include "tensor/io/durable.h"
#include "train/sft.h"

namespace facet::app {
namespace {

struct Settings : Common, SamplingSettings, DataSettings, VerifierSettings {
  std::string model, adapter, task = "lm", answers;
  int64_t k = 1, samples = 0, limit = 0, batch = 8;
  Values labels;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("model", &model, "folder of the model").positional().required();
    o.add("adapter", &adapter, "folder of an adapter (LoRA or DoRA, as PEFT or --adapter lora writes it) to put over the model");
    DataSettings::declare(o).required();
    o.section("");
    o.add("task", &task, "lm: loss, perplexity, accuracy; classify: which label follows a prompt; verifier: answer questions and judge them").choices({"lm", "classify", "verifier"});
    o.add("k", &k, "of pass@k: how likely one of k answers is right (with --temp above 0)").range(1, 4096);
    o.add("samples", &samples, "answers drawn per question, from which pass@k is estimated; 0: k").alias({"num-samples"}).range(0, 4096);
    o.add("labels", &labels, "of classify: the labels, each a single token; default: the answers that occur");
    o.add("limit", &limit, "at most so many rows; 0: all").range(0, 1e12);
    o.add("answers", &answers, "file to write questions, answers and verdicts to, a JSON object a line");
    o.add("batch", &batch, "rows at once (lm, classify)").range(1, 4096);
    declare_sampling(o);
    verifier = {"exact"};
    declare_verifiers(o);
    o.pass_through("model", overrides);
    o.rule([this] { return samples > 0 && samples < k ? fmt::format("--samples {}: pass@{} needs at least {} answers to a question", samples, k, k) : std::string(); });
    o.rule([this] { return !labels.empty() && task != "classify" ? std::string("--labels has no effect without --task classify") : std::string(); });
  }

  /// Of --data, whatever --max-len says of training: a question is not cut.
  std::vector<Question> questions(const ModelFolder& folder, Console& console) const {
    const int64_t context = folder.model->context();
    DataOptions d = DataSettings::options(static_cast<uint64_t>(seed), context);
    if (max_len == 0) d.max_len = context;
    d.limit = limit;
    DataReport report;
    auto list = read_questions(data, folder.tokenizer, d, &report);
    if (report.used < report.rows) console.note("{}: {}", data, report.summary());
    return list;
  }
};

int run_lm(const Settings& s, ModelFolder& folder, Console& console) {
  const Splits splits = s.read(folder.tokenizer, static_cast<uint64_t>(s.seed), folder.model->context());
  const Dataset& data = splits.test.size() ? splits.test : splits.valid.size() ? splits.valid : splits.train;
  const std::vector<Batch> batches = batches_in_order(data, s.batch, std::max(0, folder.tokenizer.specials().pad));
  const SftFigures f = evaluate_loss(*folder.model, batches);
  int64_t right = 0;
  for (const Batch& b : batches) right += count_right(*folder.model, b);
  const double accuracy = f.supervised > 0 ? static_cast<double>(right) / static_cast<double>(f.supervised) : 0;
  if (console.json())
    console.line("{}", nlohmann::json{{"loss", f.loss}, {"perplexity", std::exp(f.loss)}, {"accuracy", accuracy}, {"tokens", f.supervised}}.dump());
  else
    console.line("loss {:.4f} nats, perplexity {:.4g}, accuracy {:.3f} over {} tokens of {}", f.loss, std::exp(f.loss), accuracy, grouped(f.supervised), data.path());
  return 0;
}

// ---- classification: the label whose token is the likeliest after the prompt. Only labels compete.

struct Label {
  std::string text;
  int32_t id;
};

std::vector<Label> labels_of(const Settings& s, const Tokenizer& tokenizer, const std::vector<Question>& questions) {
  std::set<std::string> texts(s.labels.begin(), s.labels.end());
  if (texts.empty())
    for (const Question& q : questions) texts.insert(q.expected);
  std::vector<Label> list;
  for (const std::string& text : texts) {
    const Ids ids = tokenizer.encode(text);
    if (ids.size() != 1) {
      std::string pieces;
      for (const int32_t id : ids) pieces += fmt::format("{}\"{}\"", pieces.empty() ? "" : ", ", tokenizer.piece(id));
      fail(Kind::usage, "classify: the label \"{}\" is {} tokens ({}), and has to be one; --labels lists them, and --answer-key says which column holds them",
           printable(text, 60), ids.size(), printable(pieces, 200));
    }
    list.push_back({text, ids[0]});
  }
  if (list.size() < 2) fail(Kind::usage, "classify: {} label; at least 2 (--labels)", list.size());
  return list;
}

int run_classify(const Settings& s, ModelFolder& folder, Console& console) {
  const std::vector<Question> questions = s.questions(folder, console);
  if (questions.empty()) fail(Kind::data, "{}: no questions in it", s.data);
  const std::vector<Label> labels = labels_of(s, folder.tokenizer, questions);
  std::vector<size_t> expected;
  for (const Question& q : questions) {
    const auto at = std::find_if(labels.begin(), labels.end(), [&](const Label& l) { return l.text == q.expected; });
    if (at == labels.end()) fail(Kind::data, "{}: the answer \"{}\" is no label; --labels lists them", q.where, printable(q.expected, 60));
    if (static_cast<int64_t>(q.ids.size()) > folder.model->context())
      fail(Kind::data, "{}: the prompt has {} tokens, the context {}", q.where, q.ids.size(), folder.model->context());
    expected.push_back(static_cast<size_t>(at - labels.begin()));
  }
  const size_t n = labels.size();
  std::vector<std::vector<int64_t>> confusion(n, std::vector<int64_t>(n));  // [expected][chosen]
  double loss = 0, mass = 0;
  size_t longest = 0;
  for (const Question& q : questions) longest = std::max(longest, q.ids.size());
  for (size_t begin = 0; begin < questions.size(); begin += static_cast<size_t>(s.batch)) {
    const size_t count = std::min(static_cast<size_t>(s.batch), questions.size() - begin);
    Generator rows(*folder.model, static_cast<int64_t>(count), static_cast<int64_t>(longest));
    std::vector<int64_t> numbers(count);
    std::vector<std::vector<int32_t>> prompts;
    for (size_t i = 0; i < count; ++i) numbers[i] = static_cast<int64_t>(i), prompts.push_back(questions[begin + i].ids);
    rows.feed(numbers, prompts);
    for (size_t i = 0; i < count; ++i) {
      const auto z = rows.logits(static_cast<int64_t>(i));
      const double top = *std::max_element(z.begin(), z.end());
      double all = 0, of_labels = 0;
      for (const float x : z) all += std::exp(x - top);
      size_t chosen = 0;
      for (size_t l = 0; l < n; ++l) {
        of_labels += std::exp(z[static_cast<size_t>(labels[l].id)] - top);
        if (z[static_cast<size_t>(labels[l].id)] > z[static_cast<size_t>(labels[chosen].id)]) chosen = l;
      }
      const size_t right = expected[begin + i];
      loss += std::log(of_labels) + top - z[static_cast<size_t>(labels[right].id)];
      mass += of_labels / all;
      ++confusion[right][chosen];
    }
    console.progress("classifying", static_cast<int64_t>(begin + count), static_cast<int64_t>(questions.size()));
  }
  console.progress_end();
  const auto total = static_cast<double>(questions.size());
  int64_t right = 0;
  for (size_t l = 0; l < n; ++l) right += confusion[l][l];
  if (console.json()) {
    nlohmann::ordered_json out = {{"accuracy", static_cast<double>(right) / total}, {"loss", loss / total}, {"label_mass", mass / total}, {"questions", questions.size()}};
    for (const Label& l : labels) out["labels"].push_back({{"text", l.text}, {"id", l.id}});
    out["confusion"] = confusion;
    console.line("{}", out.dump());
    return 0;
  }
  console.line("accuracy {:.3f} ({} of {}), loss {:.4f} nats among {} labels, which hold {:.1f}% of the probability", static_cast<double>(right) / total, right,
               questions.size(), loss / total, n, 100 * mass / total);
  size_t width = 8;
  for (const Label& l : labels) width = std::max(width, l.text.size() + 1);
  std::string head = fmt::format("{:<{}}", "expected", width + 2);
  for (const Label& l : labels) head += fmt::format("{:>{}}", printable(l.text, 40), width);
  console.line("{}", head + "   chosen");
  for (size_t l = 0; l < n; ++l) {
    std::string row = fmt::format("{:<{}}", printable(labels[l].text, 40), width + 2);
    for (const int64_t c : confusion[l]) row += fmt::format("{:>{}}", c, width);
    console.line("{}", row);
  }
  return 0;
}

int run_verifier(const Settings& s, ModelFolder& folder, Console& console) {
  Rewards rewards = s.rewards();
  const auto questions = s.questions(folder, console);
  rewards.check(questions);
  const auto answers = answer_all(*folder.model, folder.tokenizer, questions, s.SamplingSettings::options(folder.tokenizer, static_cast<uint64_t>(s.seed)),
                                  std::max(s.k, s.samples),
                                  rewards, [&](int64_t done, int64_t total) { console.progress("answering", done, total); });
  const auto drawn = static_cast<int64_t>(answers[0].size()), k = std::min(s.k, drawn);  // greedy ones are all alike: one is drawn
  const PassRate r = pass_rate(answers, {}, k);
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
    console.line("{}", nlohmann::json{{"pass1", r.pass1}, {"pass1_error", r.pass1_error}, {"pass_k", r.pass_k}, {"k", k}, {"samples", drawn},
                                      {"mean_reward", r.mean_reward}, {"stopped", r.stopped}, {"failed", r.failed}, {"questions", questions.size()}}.dump());
    return 0;
  }
  console.line("pass@1 {:.3f} +- {:.3f}, mean reward {:.3f}, {:.1f}% ended by themselves, {} questions", r.pass1, r.pass1_error, r.mean_reward,
               100 * r.stopped, questions.size());
  if (k > 1) console.line("pass@{} {:.3f}, from {} answers to each", k, r.pass_k, drawn);
  return 0;
}

int run(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  ModelFolder folder = open_model(s.model, s.overrides, s.dtype, TokenizerNeed::required, s.adapter, s.where());
  return s.task == "lm" ? run_lm(s, folder, console) : s.task == "classify" ? run_classify(s, folder, console) : run_verifier(s, folder, console);
}

}  // namespace

Command eval_command() {
  return command<Settings>("eval", "Loss, perplexity and accuracy on text, labels given, or the share of questions answered right",
                           "  facet eval runs/book/final --data book.txt\n"
                           "  facet eval runs/mood/final --data mood.jsonl --task classify --labels good,bad\n"
                           "  facet eval runs/radicals/final --data data/test.jsonl --task verifier --verifier radicals --greedy", run);
}

}  // namespace facet::app
