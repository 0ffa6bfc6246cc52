#include "app/grpo_run.h"

#include <algorithm>
#include <utility>

#include "app/answers.h"
#include "data/question.h"
#include "tensor/io/crc32c.h"
#include "tensor/io/durable.h"
#include "tensor/io/json.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

constexpr double least_temp = 0.01;

PolicyLoss loss_named(const std::string& name) {
  return name == "grpo" ? PolicyLoss::grpo : name == "bnpo" ? PolicyLoss::bnpo : name == "dr_grpo" ? PolicyLoss::dr_grpo : name == "cispo" ? PolicyLoss::cispo : PolicyLoss::dapo;
}

RewardScale scale_named(const std::string& name) {
  return name == "group" ? RewardScale::group : name == "batch" ? RewardScale::batch : RewardScale::none;
}

// --verifier, or what the rows themselves name.
Rewards rewards_of(const GrpoSettings& s, const std::vector<Question>& questions, Console& console) {
  if (!s.verifier.empty()) return s.rewards();
  const Json row = parse_json(questions.front().row, questions.front().where, Kind::data);
  const auto named = row.find("verifier");
  if (named == row.end() || !named->is_string())
    fail(Kind::usage, "--verifier is missing, and {} names none: how are answers judged? radicals, exact, numeric, regex:PATTERN, length:N..M or exec:COMMAND",
         questions.front().where);
  GrpoSettings own = s;
  own.verifier = {named->get<std::string>()};
  console.note("verifier: {}, as {} says", own.verifier[0], questions.front().where);
  return own.rewards();
}

// What verifiers see of them beside the prompts: another expected answer is another task.
uint32_t hash_of_rows(const std::vector<Question>& questions) {
  uint32_t hash = 0;
  for (const Question& q : questions)
    for (const std::string* text : {&q.row, &q.expected}) hash = crc32c(text->c_str(), text->size() + 1, hash);
  return hash;
}

// What the same questions are answered over time.
std::vector<SampleAnswer> judged_answers(LanguageModel& model, const Tokenizer& tokenizer, const std::vector<Question>& questions, Rewards& rewards, const GrpoOptions& o) {
  GenerateOptions g;
  g.sampling.temperature = 0;
  g.max_new = o.rollout.max_new;
  g.stop = o.rollout.stop;
  const auto answers = answer_all(model, tokenizer, questions, g, 1, rewards);
  std::vector<SampleAnswer> list;
  for (size_t i = 0; i < questions.size(); ++i)
    list.push_back({questions[i].prompt, answers[i][0].text, answers[i][0].error.empty() ? answers[i][0].verdict : answers[i][0].error});
  return list;
}

double cache_bytes(Gemma& model, int64_t rows, int64_t positions) {
  return static_cast<double>(model.new_cache(1, positions, positions).bytes()) * static_cast<double>(rows);
}

}  // namespace

void GrpoSettings::declare_grpo(Options& o) {
  declare_start(o);
  o.section("train");
  o.add("epochs", &epochs, "passes over the questions; 1 if neither this nor --steps is given").alias({"num-train-epochs"}).range(1e-6, 1e6);
  o.add("accum", &accum, "micro-batches a step is computed in; the gradient is the same")
      .alias({"grad-accumulation-steps", "gradient-accumulation-steps", "grad-accumulation"}).range(1, 1 << 20);
  declare_train(o);
  declare_verifiers(o);
  o.add("max-failures", &max_failures, "answers a verifier may fail on before the run stops; their rows teach nothing").range(0, 1e12);
  o.section("grpo");
  o.add("group", &group, "answers to a question, compared with each other").alias({"num-generations"}).range(1, 1 << 16);
  o.add("prompts-per-step", &prompts, "questions of a rollout").alias({"prompts-per-rollout", "prompts"}).range(1, 1 << 20);
  o.add("max-new", &max_new, "tokens of an answer").alias({"max-completion-length", "max-new-tokens"}).range(1, 1 << 20);
  o.add("temp", &temp, "temperature of the answers; what learns divides its logits by it too").alias({"temperature"}).range(0, 100);
  o.add("loss", &loss, "how tokens are averaged: dapo, all alike; grpo, within their answer first; dr_grpo, over --max-new; cispo, a clipped weight on each")
      .choices({"dapo", "grpo", "bnpo", "dr_grpo", "cispo"}).alias({"loss-type"});
  o.add("scale", &scale, "what advantages are divided by: the deviation of the group's or the batch's rewards").choices({"group", "batch", "none"}).alias({"scale-rewards"});
  o.add("clip-low", &clip_low, "the ratio to the sampling policy may fall by this share").alias({"epsilon", "epsilon-low"}).range(0, 1);
  o.add("clip-high", &clip_high, "and rise by this one; default: as --clip-low, for cispo the largest weight, 5").alias({"epsilon-high"}).range(0, 1e6);
  o.add("clip-delta", &clip_delta, "bound of the unclipped ratio; 0: none").alias({"delta"}).range(0, 1e6);
  o.add("ratio", &ratio, "one ratio a token, or one a sequence (GSPO)").choices({"token", "sequence"}).alias({"importance-sampling-level"});
  o.add("kl", &kl, "weight of the KL to the reference: the model this run starts from").alias({"beta", "kl-coef"}).range(0, 1e6);
  o.add("mask-truncated", &mask_truncated, "answers cut off at --max-new teach nothing").alias({"mask-truncated-completions"});
  o.add("updates-per-rollout", &updates, "steps that learn from one rollout, from all of it each").alias({"num-iterations"}).range(1, 1 << 16);
  o.add("pack", &row_len, "positions of a row that holds several answers (or groups); 0: one a row").range(0, 1 << 24);
  o.add("separate", &separate, "compute a question with each answer, not once for its group");
  o.add("rows", &rows, "answers in work at a time; changes speed and memory alone").alias({"generation-batch-size"}).range(1, 1 << 20);
  o.add("eval-limit", &eval_limit, "held-out questions answered at each validation").range(1, 1e9);
  declare_run(o);
  o.rule([this] { return steps && epochs ? std::string("--steps and --epochs: choose one") : std::string(); });
  o.rule([this] { return format != "auto" && format != "prompt" ? fmt::format("--format {}: grpo asks questions, rows of --format prompt", format) : std::string(); });
  o.rule([this] { return adapter != "none" && lora.dropout > 0 ? std::string("--lora-dropout: what samples has to be what learns; leave it 0") : std::string(); });
  o.rule([this] { return group < 2 ? std::string("--group 1: a lone answer has nothing to be compared with; at least 2") : std::string(); });
  o.rule([this] {
    return temp < least_temp ? fmt::format("--temp {}: all answers to a question would be the same, with nothing to compare; at least {}", temp, least_temp) : std::string();
  });
  o.rule([this] {
    const double high = clip_high.value_or(clip_low);
    return clip_delta > 0 && clip_delta <= 1 + high ? fmt::format("--clip-delta {}: must be above the clipped ratio, 1 + {} (--clip-high)", clip_delta, high) : std::string();
  });
  o.rule([this] { return loss == "cispo" && clip_delta > 0 ? std::string("--clip-delta has no effect with --loss cispo") : std::string(); });
}

GrpoOptions GrpoSettings::grpo_options(const Tokenizer& tokenizer, uint64_t seed) const {
  GrpoOptions o;
  o.policy.loss = loss_named(loss);
  o.policy.clip_low = clip_low;
  o.policy.clip_high = clip_high.value_or(loss == "cispo" ? 5 : clip_low);
  if (clip_delta > 0) o.policy.delta = clip_delta;
  o.policy.kl = kl;
  o.policy.sequence_ratio = ratio == "sequence";
  o.scale = scale_named(scale);
  o.rollout.sampling.temperature = temp;
  o.rollout.group = group;
  o.rollout.max_new = max_new;
  o.rollout.rows = rows;
  o.rollout.stop = tokenizer.stop_ids();
  o.prompts = prompts;
  o.updates = updates;
  o.layout = {.share_prompts = !separate, .row_len = row_len, .accum = accum, .pad_id = std::max(0, tokenizer.specials().pad)};
  o.mask_truncated = mask_truncated;
  o.seed = seed;
  o.most_failures = max_failures;
  return o;
}

GrpoResult run_grpo(const GrpoSettings& s, uint64_t seed, ModelFolder& folder, const Options& options, Console& console) {
  Gemma& model = *folder.model;
  const Tokenizer& tokenizer = folder.tokenizer;
  GrpoSettings asking = s;
  asking.format = "prompt";
  const Splits splits = asking.read(tokenizer, seed, model.context());
  const RowKeys keys = s.DataSettings::options(seed, model.context()).keys;
  const std::vector<Question> train = questions_of(splits.train, keys);
  std::vector<Question> valid = questions_of(splits.valid, keys);
  if (train.empty()) fail(Kind::data, "{}: no questions in it", s.data);
  if (static_cast<int64_t>(valid.size()) > s.eval_limit) valid.resize(static_cast<size_t>(s.eval_limit));
  Rewards rewards = rewards_of(s, train, console);
  prepare_model(s, seed, folder, console);
  console.note("data: {}", splits.train.report().summary());
  console.note("{} questions, {} held out", grouped(static_cast<int64_t>(train.size())), grouped(static_cast<int64_t>(valid.size())));

  const GrpoOptions o = s.grpo_options(tokenizer, seed);
  TrainSettings counted = s;
  if (!s.steps && !s.epochs) counted.epochs = 1;
  const int64_t steps = count_steps(counted, (static_cast<int64_t>(train.size()) + s.prompts - 1) / s.prompts * s.updates);

  size_t longest = 0;
  for (const std::vector<Question>* list : {&train, static_cast<const std::vector<Question>*>(&valid)})
    for (const Question& q : *list) longest = std::max(longest, q.ids.size());
  const int64_t positions = std::min(model.context(), static_cast<int64_t>(longest) + s.max_new), completions = s.prompts * s.group;
  MemoryPlan plan = plan_memory(model, (s.separate ? completions * positions : s.prompts * static_cast<int64_t>(longest) + completions * s.max_new) / s.accum, s.optimizer);
  plan.other = cache_bytes(model, std::min(s.rows, completions), positions);
  plan.other_name = "cache";
  plan.at_most = true;
  if (const int64_t room = model.context() - static_cast<int64_t>(longest); room < s.max_new)
    console.note("warning: after the longest prompt, of {} tokens, there is room for {} of --max-new {}: the model was made for {} positions", longest,
                 std::max<int64_t>(0, room), s.max_new, model.context());
  // The reference is what this run starts from: the model under the adapter, else a copy.
  ModelFolder reference;
  if (s.kl > 0 && !folder.adapters) {
    reference = open_model(folder.path, s.model_overrides, name_of(model.head().value().dtype()), TokenizerNeed::required, "", model.device());
    set_trains(*reference.model, "*", false);
    plan.weights += plan_memory(*reference.model, 0).weights;
  }
  check_memory(plan, model.device(), s.dry_run, console);

  Grpo objective(model, tokenizer, train, valid, rewards, o, [&](const auto& use) {
    if (reference.model) return use(*reference.model);
    const AdapterOff off(*folder.adapters);
    use(model);
  });
  if (s.dry_run) {
    console.line("{} steps, a rollout of {} x {} answers for {}", grouped(steps), s.prompts, s.group, s.updates == 1 ? "each" : fmt::format("every {}", s.updates));
    console.line("{}: {}", train[0].where, tokenizer.decode(train[0].ids));
    if (!train[0].expected.empty()) console.line("expected: {}", train[0].expected);
    return {};
  }

  std::vector<Question> shown(valid.empty() ? train : valid);
  shown.resize(std::min<size_t>(3, shown.size()));
  std::string verifiers;
  for (size_t i = 0; i < rewards.size(); ++i) verifiers += fmt::format("{}{} x {}", i ? ", " : "", rewards.name(i), rewards.weight(i));
  GrpoResult result;
  Training training{objective};
  training.steps = steps;
  training.memory = plan;
  training.lr = s.lr > 0 ? s.lr : s.optimizer.rate_factor() * (count_parameters(model) < 10'000'000 ? 1e-4 : folder.adapters ? 1e-5 : 1e-6);
  training.identity = {{"trainer", "grpo"},
                       {"data", fmt::format("{} questions {:016x}, rows {:08x}", train.size(), splits.train.fingerprint(), hash_of_rows(train))},
                       {"verifier", verifiers},
                       {"group", std::to_string(s.group)},
                       {"prompts-per-step", std::to_string(s.prompts)},
                       {"max-new", std::to_string(s.max_new)},
                       {"temp", fmt::format("{}", s.temp)},
                       {"loss", s.loss},
                       {"scale", s.scale},
                       {"ratio", s.ratio},
                       {"clip-low", fmt::format("{}", s.clip_low)},
                       {"clip-high", fmt::format("{}", o.policy.clip_high)},
                       {"clip-delta", fmt::format("{}", s.clip_delta)},
                       {"kl", fmt::format("{}", s.kl)},
                       {"mask-truncated", s.mask_truncated ? "yes" : "no"},
                       {"updates-per-rollout", std::to_string(s.updates)},
                       {"accum", std::to_string(s.accum)},
                       {"question", s.separate ? "with each answer" : "once for its group"},
                       {"pack", std::to_string(s.row_len)}};
  training.sample = [&] {
    return s.samples.empty() ? judged_answers(model, tokenizer, shown, rewards, o) : sample_answers(model, tokenizer, s.samples, seed);
  };
  training.chat = s.chat_template;
  bool completions_lost = false;
  training.begin = [&](RunFolder& run) {
    make_folders(run.file("completions"));
    objective.say = [&run](const std::string& line) { run.say(line); };
    objective.on_completions = [&](int64_t step, std::span<const Completion> list) {
      try {
        run.write(fmt::format("completions/step-{:06}.jsonl", step), completions_jsonl(list, rewards));
      } catch (const Error& e) {  // whether a full disk ends the run is for the last checkpoint to decide
        if (e.kind() != Kind::environment) throw;
        if (!std::exchange(completions_lost, true)) run.say(fmt::format("warning: {}; completions are missing from here on", e.what()));
      }
    };
  };
  static_cast<TrainResult&>(result) = run_training(s, seed, folder, training, options, console);
  result.sampling_seconds = objective.sampling_seconds();
  return result;
}

}  // namespace facet::app
