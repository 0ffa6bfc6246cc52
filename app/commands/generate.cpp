// Text from a model: one prompt, many, or standard input; and the values inside one forward pass.
#include <nlohmann/json.hpp>

#include <iostream>
#include <iterator>

#include "app/answers.h"
#include "app/command.h"
#include "app/sampling_settings.h"
#include "app/trace_file.h"
#include "app/verifier_settings.h"
#include "data/chat.h"
#include "data/jsonl.h"
#include "infer/text.h"
#include "nn/tap.h"
#include "tensor/gpu/waits.h"
#include "tensor/io/npy.h"
#include "tensor/io/safetensors.h"
#include "train/signals.h"

namespace facet::app {
namespace {

struct Settings : Common, SamplingSettings, VerifierSettings {
  std::string model, adapter, prompt, prompts, system, dump, out, profile;
  bool raw = false, chat = false, logprobs = false, assert_no_sync = false;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("model", &model, "folder of the model").positional().required();
    o.add("adapter", &adapter, "folder of an adapter (LoRA or DoRA, as PEFT or --adapter lora writes it) to put over the model");
    o.add("prompt", &prompt, "text to go on from; - reads standard input").letter('p');
    o.add("prompts", &prompts, "a .jsonl file of {\"prompt\"}, or any other with a prompt a line, answered as one batch");
    o.add("chat", &chat, "the prompt is a user's turn (the default for folders with a chat template)");
    o.add("raw", &raw, "the prompt is plain text, whatever the folder says");
    o.add("system", &system, "put before the first message of a chat");
    o.add("logprobs", &logprobs, "print each token with its log-probability and, where filters cut, how many tokens and what share of the probability they left");
    o.add("dump", &dump, "write the intermediate values of the prompt's forward pass that match, e.g. 'layers.*.out', to --out");
    o.add("out", &out, "file for --dump: safetensors, or NumPy's format where the name ends in .npz");
    declare_profile(o, &profile);
    o.add("assert-no-sync", &assert_no_sync, "for finding faults: a wait for the GPU that is not for tokens drawn ends the run and is named").transient();
    declare_sampling(o).alias({"max-len"});
    declare_verifiers(o);
    o.pass_through("model", overrides);
    o.rule([this]() -> std::string {
      if (raw && chat) return "--raw and --chat: choose one";
      if (prompt.empty() == prompts.empty()) return "give one of --prompt and --prompts";
      if (dump.empty() != out.empty()) return "--dump PATTERN and --out FILE go together";
      return {};
    });
  }
};

void dump_taps(const Settings& s, ModelFolder& folder, const Ids& ids, Console& console) {
  const Tensor input = Tensor::from(ids, {1, static_cast<int64_t>(ids.size())});
  std::vector<std::pair<std::string, Tensor>> values = {{"input_ids", input}, {"attention_mask", Tensor::full(input.shape(), 1, DType::i32)}};
  const NoGrad off;
  const Taps taps([&](const std::string& path, const Tensor& value) {
    if (matches(s.dump, path)) values.emplace_back(path, value.dense());
  });
  folder.model->logits(folder.model->hidden(plain_tokens(input)));
  if (values.size() == 2) fail(Kind::usage, "--dump {}: no value has such a name; try 'layers.*.out', 'final_norm' or '*'", s.dump);
  if (s.out.ends_with(".npz")) save_npz(s.out, values);
  else save_safetensors(s.out, values);
  console.note("wrote {} tensors to {}", values.size(), s.out);
}

// What the model is asked: a user's turn, or plain text to go on from.
Question question_of(const Settings& s, const Tokenizer& tokenizer, bool as_chat, std::string prompt, std::string where) {
  Question q;
  if (as_chat) {
    std::vector<Message> messages;
    if (!s.system.empty()) messages.emplace_back("system", s.system);
    messages.emplace_back("user", prompt);
    q.ids = encode_chat(tokenizer, messages, {.generation_prompt = true, .merge_roles = false, .safe = false}).ids;
  } else {
    q.ids = encode_prompt(tokenizer, prompt);
  }
  q.prompt = std::move(prompt);
  q.where = std::move(where);
  return q;
}

// Rows of a .jsonl file, or every line of any other.
std::vector<Question> questions_of(const Settings& s, const Tokenizer& tokenizer, bool as_chat) {
  if (s.prompts.ends_with(".jsonl")) {
    DataOptions o;
    o.max_len = 1 << 24;  // what is too long for the model is an error there, never left out
    o.chat_template = as_chat;
    if (!s.system.empty()) fail(Kind::usage, "--system: the rows of a .jsonl file say it themselves, {{\"prompt\": ..., \"system\": ...}}");
    return read_questions(s.prompts, tokenizer, o);
  }
  std::vector<Question> list;
  LineReader lines(s.prompts);
  for (std::string line; lines.next(line);) list.push_back(question_of(s, tokenizer, as_chat, line, lines.where()));
  if (list.empty()) fail(Kind::data, "{}: holds no prompt", s.prompts);
  return list;
}

// Every token that is drawn: shown, or kept for --json.
class TokenLog {
 public:
  TokenLog(const Tokenizer& tokenizer, bool cut) : tokenizer_(tokenizer), cut_(cut) {}
  nlohmann::ordered_json json(int32_t id, float log_prob) const { return {{"id", id}, {"piece", tokenizer_.piece(id)}, {"logprob", log_prob}}; }
  void add(const Draw& d, Console& console, bool show) {
    auto entry = json(d.id, d.log_prob);
    if (cut_) entry["kept"] = d.kept, entry["mass"] = d.mass;
    tokens_.push_back(std::move(entry));
    kept_ += d.kept, mass_ += d.mass;
    if (show) console.line("{:>8} {:>9.4f}{}  {}", d.id, d.log_prob, cut_ ? fmt::format(" {:>7} {:>7.4f}", d.kept, d.mass) : "", tokenizer_.piece(d.id));
  }
  const nlohmann::ordered_json& tokens() const { return tokens_; }
  /// How much of the distribution the filters left, on average.
  void say(Console& console) const {
    if (const auto n = static_cast<double>(tokens_.size()); cut_ && n > 0)
      console.note("the filters left {:.1f} of {} tokens, {:.2f}% of the probability, on average", kept_ / n, tokenizer_.vocab_size(), 100 * mass_ / n);
  }

 private:
  const Tokenizer& tokenizer_;
  bool cut_;  // top-k, top-p or min-p is at work
  nlohmann::ordered_json tokens_ = nlohmann::ordered_json::array();
  double kept_ = 0, mass_ = 0;
};

std::string text_of(const nlohmann::ordered_json& line) { return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace); }

int run(Settings& s, Options&, Console& console) {
  Rewards rewards = s.rewards();
  use_threads(s.threads, console);
  ModelFolder folder = open_model(s.model, s.overrides, s.dtype, TokenizerNeed::required, s.adapter, s.where());
  const Tokenizer& tokenizer = folder.tokenizer;
  GenerateOptions options = s.options(tokenizer, static_cast<uint64_t>(s.seed));
  const bool as_chat = s.chat || (!s.raw && folder.chat);
  const TraceFile trace(s.profile, s.where(), console);
  const gpu::NoSync strict(s.assert_no_sync);

  if (!s.prompts.empty()) {
    const auto questions = questions_of(s, tokenizer, as_chat);
    rewards.check(questions);
    const auto answers = answer_all(*folder.model, tokenizer, questions, options, 1, rewards);
    const TokenLog log(tokenizer, false);
    for (size_t i = 0; i < questions.size(); ++i) {
      const Answer& a = answers[i][0];
      nlohmann::ordered_json line{{"prompt", questions[i].prompt}, {"completion", a.text}, {"stop", name_of(a.stop)}};
      if (s.logprobs)
        for (size_t t = 0; t < a.tokens.size(); ++t) line["tokens"].push_back(log.json(a.tokens[t], a.log_probs[t]));
      if (!a.error.empty()) line["error"] = a.error;
      else if (rewards.size() > 0) line["reward"] = a.reward, line["verdict"] = a.verdict;
      console.line("{}", text_of(line));
    }
    return 0;
  }

  std::string prompt = s.prompt == "-" ? std::string(std::istreambuf_iterator<char>(std::cin), {}) : s.prompt;
  const Question asked = question_of(s, tokenizer, as_chat, std::move(prompt), "--prompt");
  rewards.check({&asked, 1});
  if (!s.dump.empty()) {
    dump_taps(s, folder, asked.ids, console);
    return 0;
  }

  const StopSignals signals;  // Ctrl-C ends the answer; what there is of it is printed
  options.sampling.tell_cut = (s.logprobs || console.json()) && (s.top_k > 0 || s.top_p < 1 || s.min_p > 0) && options.sampling.temperature > 0;
  TokenLog log(tokenizer, options.sampling.tell_cut);
  const auto show = [&](std::string_view piece) {
    if (!console.json() && !s.logprobs) console.text(std::string(piece));
    return true;
  };
  const Completion c = complete(*folder.model, tokenizer, asked.ids, options, show, [&](int64_t, const Draw& d) {
    log.add(d, console, s.logprobs && !console.json());
    return StopSignals::requested() == 0;
  });
  const int signal = StopSignals::requested();
  std::string verdict;
  if (rewards.size() > 0) {
    const Judged judged{&asked, c.text};
    const Reward r = rewards.judge({&judged, 1})[0];
    verdict = r.error.empty() ? r.verdict : r.error;
  }
  if (console.json()) {
    nlohmann::ordered_json line{{"completion", c.text}, {"stop", name_of(c.generation.stop)}, {"tokens", log.tokens()}};
    if (!verdict.empty()) line["verdict"] = verdict;
    console.line("{}", text_of(line));
  } else {
    console.line();
    log.say(console);
    if (!verdict.empty()) console.line("verdict: {}", verdict);
  }
  return signal ? 128 + signal : 0;
}

}  // namespace

Command generate_command() {
  return command<Settings>("generate", "Continue a prompt", "  facet generate runs/book/final -p 'The old house'\n"
                           "  facet generate m -p 'Hello' --dump 'layers.*.out' --out taps.npz", run);
}

}  // namespace facet::app
