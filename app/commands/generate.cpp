// Text from a model: one prompt, many, or standard input; and the values inside one forward pass.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <iostream>
#include <iterator>

#include "app/answers.h"
#include "app/command.h"
#include "app/sampling_settings.h"
#include "app/verifier_settings.h"
#include "data/chat.h"
#include "nn/tap.h"
#include "tensor/gpu/waits.h"
#include "tensor/io/safetensors.h"
#include "train/signals.h"

namespace facet::app {
namespace {

struct Settings : Common, SamplingSettings, VerifierSettings {
  std::string model, adapter, prompt, prompts, system, dump, out;
  bool raw = false, chat = false, logprobs = false, assert_no_sync = false;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("model", &model, "folder of the model").positional().required();
    o.add("adapter", &adapter, "folder of an adapter (LoRA or DoRA, as PEFT or --adapter lora writes it) to put over the model");
    o.add("prompt", &prompt, "text to go on from; - reads standard input").letter('p');
    o.add("prompts", &prompts, "a .jsonl file of {\"prompt\"}, answered in one batch");
    o.add("chat", &chat, "the prompt is a user's turn (the default for folders with a chat template)");
    o.add("raw", &raw, "the prompt is plain text, whatever the folder says");
    o.add("system", &system, "put before the first message of a chat");
    o.add("logprobs", &logprobs, "print each token with its log-probability");
    o.add("dump", &dump, "write the intermediate values of the prompt's forward pass that match, e.g. 'layers.*.out', to --out");
    o.add("out", &out, "safetensors file for --dump");
    o.add("assert-no-sync", &assert_no_sync, "for finding faults: a wait for the GPU that is not for tokens drawn ends the run and is named").transient();
    declare_sampling(o);
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
  save_safetensors(s.out, values);
  console.note("wrote {} tensors to {}", values.size(), s.out);
}

int run(Settings& s, Options&, Console& console) {
  Rewards rewards = s.rewards();
  use_threads(s.threads, console);
  ModelFolder folder = open_model(s.model, s.overrides, s.dtype, TokenizerNeed::required, s.adapter, s.where());
  const Tokenizer& tokenizer = folder.tokenizer;
  const GenerateOptions options = s.options(tokenizer, static_cast<uint64_t>(s.seed));
  const gpu::NoSync strict(s.assert_no_sync);

  if (!s.prompts.empty()) {
    const auto questions = read_questions(s.prompts, tokenizer);
    rewards.check(questions);
    const auto answers = answer_all(*folder.model, tokenizer, questions, options, 1, rewards);
    for (size_t i = 0; i < questions.size(); ++i) {
      nlohmann::ordered_json line{{"prompt", questions[i].prompt}, {"completion", answers[i][0].text}, {"stop", name_of(answers[i][0].stop)}};
      if (!answers[i][0].error.empty()) line["error"] = answers[i][0].error;
      else if (rewards.size() > 0) line["reward"] = answers[i][0].reward, line["verdict"] = answers[i][0].verdict;
      console.line("{}", line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    }
    return 0;
  }

  Question asked;
  asked.prompt = s.prompt == "-" ? std::string(std::istreambuf_iterator<char>(std::cin), {}) : s.prompt;
  if (s.chat || (!s.raw && folder.chat)) {
    std::vector<Message> messages;
    if (!s.system.empty()) messages.emplace_back("system", s.system);
    messages.emplace_back("user", asked.prompt);
    asked.ids = encode_chat(tokenizer, messages, {.generation_prompt = true, .merge_roles = false, .safe = false}).ids;
  } else {
    asked.ids = encode_prompt(tokenizer, asked.prompt);
  }
  asked.where = "--prompt";
  rewards.check({&asked, 1});
  if (!s.dump.empty()) {
    dump_taps(s, folder, asked.ids, console);
    return 0;
  }

  const StopSignals signals;  // Ctrl-C ends the answer; what there is of it is printed
  StreamDecoder decoder(tokenizer);
  std::string answer;
  const auto emit = [&](const std::string& text) {
    answer += text;
    if (!console.json() && !s.logprobs) console.text(text);
  };
  nlohmann::json tokens = nlohmann::json::array();
  const auto result = generate(*folder.model, {asked.ids}, options, [&](int64_t, const Draw& d) {
    const bool stop = std::find(options.stop.begin(), options.stop.end(), d.id) != options.stop.end();
    if (s.logprobs && !console.json()) console.line("{:>8} {:>9.4f}  {}", d.id, d.log_prob, tokenizer.piece(d.id));
    if (console.json()) tokens.push_back({{"id", d.id}, {"logprob", d.log_prob}});
    if (!stop) emit(decoder.push(d.id));
    return StopSignals::requested() == 0;
  })[0];
  emit(decoder.finish());
  const int signal = StopSignals::requested();
  std::string verdict;
  if (rewards.size() > 0) {
    const Judged judged{&asked, answer};
    const Reward r = rewards.judge({&judged, 1})[0];
    verdict = r.error.empty() ? r.verdict : r.error;
  }
  if (console.json()) {
    nlohmann::ordered_json line{{"completion", answer}, {"stop", name_of(result.stop)}, {"tokens", tokens}};
    if (!verdict.empty()) line["verdict"] = verdict;
    console.line("{}", line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    console.line();
    if (!verdict.empty()) console.line("verdict: {}", verdict);
  }
  return signal ? 128 + signal : 0;
}

}  // namespace

Command generate_command() {
  return command<Settings>("generate", "Continue a prompt", "  facet generate runs/book/final -p 'The old house'\n"
                           "  facet generate m -p 'Hello' --dump 'layers.*.out' --out taps.safetensors", run);
}

}  // namespace facet::app
