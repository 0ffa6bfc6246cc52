#include "app/sft_run.h"

#include <algorithm>

#include "autograd/ops/linear_loss.h"
#include "tensor/io/text.h"

namespace facet::app {

void SftSettings::declare_sft(Options& o) {
  declare_start(o);
  declare_batches(o);
  declare_train(o);
  o.section("loss");
  o.add("label-smoothing", &loss.label_smoothing, "share of the target that is spread over the whole vocabulary").alias({"label-smoothing-factor"}).range(0, 1);
  o.add("z-loss", &loss.z_loss, "weight of the squared log-partition, which keeps logits from drifting; 1e-4 is usual").range(0, 1);
  o.add("ce", &ce, "logits of the loss: block by block, or of all rows at once as textbooks have it (the same loss and gradients; memory for tokens x vocabulary)").choices({"chunked", "full"});
  declare_run(o);
}

SftResult run_sft(const SftSettings& s, uint64_t seed, ModelFolder& folder, const Options& options, Console& console) {
  Gemma& model = *folder.model;
  const Tokenizer& tokenizer = folder.tokenizer;
  const Splits splits = s.read(tokenizer, seed, model.context());
  const Dataset& data = splits.train;
  if (data.task() == Task::preference || data.task() == Task::prompt)
    fail(Kind::data, "{}: sft learns from texts, completions or conversations; these rows are of another kind (facet {} learns from them)",
         data.path(), data.task() == Task::preference ? "dpo" : "grpo");
  prepare_model(s, seed, folder, console);

  LoaderOptions l;
  l.batch = s.batch;
  l.accum = s.accum;
  l.seed = seed;
  l.bucket = s.bucket;
  l.pack = s.pack;
  l.row_len = s.pack ? s.options(seed, model.context()).max_len : 0;
  l.pad_id = std::max(0, tokenizer.specials().pad);
  const Loader loader(data, l);
  std::vector<Batch> valid;
  if (splits.valid.size() > 0) valid = batches_in_order(splits.valid, std::max<int64_t>(1, s.batch / s.accum), l.pad_id);

  int64_t steps = count_steps(s, loader.steps_per_epoch());
  if (!s.steps && !s.epochs && data.task() == Task::document) steps = std::max<int64_t>(steps, 400);
  const DataStats figures = stats(data);
  console.note("data: {}", data.report().summary());
  console.note("{} examples, {} tokens ({} learned, unigram entropy {:.4f} nats), {} for validation", grouped(figures.examples),
               grouped(figures.tokens), grouped(figures.supervised), figures.entropy, grouped(splits.valid.size()));

  int64_t tokens = 0;  // of the largest micro-batch among the first steps
  PlainRows plain;
  for (int64_t i = 0; i < std::min<int64_t>(steps, 8); ++i)
    for (const Batch& b : loader.at(i)) {
      const int64_t rows = b.ids.dim(0), length = b.ids.dim(1);
      tokens = std::max(tokens, rows * length);
      if (rows * length * length > plain.rows * plain.length * plain.length && Tokens{b.ids, b.positions, b.segments}.is_plain()) plain = {rows, length};
    }
  MemoryPlan plan = plan_memory(model, tokens, s.optimizer, plain);
  SftLoss loss = s.loss;
  loss.whole_logits = s.ce == "full";
  if (loss.whole_logits) {
    const int64_t size = size_of(model.compute()), block = linear_loss_chunk(tokens, model.vocab(), model.device(), size);
    plan.other = static_cast<double>((tokens - block) * model.vocab() * size);
    plan.other_name = "logits";
  }
  check_memory(plan, model.device(), s.dry_run, console);
  SftResult result;
  result.unigram_entropy = figures.entropy;
  if (s.dry_run) {
    console.line("{} steps of {} examples in {} micro-batch{}, {:.2f} epochs", grouped(steps), s.batch, s.accum, s.accum > 1 ? "es" : "", loader.epoch(steps));
    console.line("{}", preview(data, tokenizer, 0));
    return result;
  }

  Sft objective(model, loader, std::move(valid), loss);
  const auto prompts = sample_prompts(s, data, tokenizer, model);
  Training training{objective};
  training.steps = steps;
  training.lr = learning_rate(s, model);
  training.memory = plan;
  training.identity = {{"trainer", "sft"},
                       {"data", fmt::format("{} examples {:016x}", data.size(), data.fingerprint())},
                       {"pack", l.pack ? fmt::format("rows of {}", l.row_len) : "no"},
                       {"batch", std::to_string(s.batch)},
                       {"accum", std::to_string(s.accum)}};
  if (s.bucket > 1) training.identity["bucket"] = std::to_string(s.bucket);
  if (s.loss.label_smoothing > 0) training.identity["label-smoothing"] = fmt::format("{}", s.loss.label_smoothing);
  if (loss.whole_logits) training.identity["ce"] = s.ce;  // sums of another order
  if (s.loss.z_loss > 0) training.identity["z-loss"] = fmt::format("{}", s.loss.z_loss);
  training.sample = [&] { return sample_answers(model, tokenizer, prompts, seed); };
  training.chat = s.chat_template || data.task() == Task::chat;
  static_cast<TrainResult&>(result) = run_training(s, seed, folder, training, options, console);
  return result;
}

}  // namespace facet::app
