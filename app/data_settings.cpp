#include "app/data_settings.h"

#include <algorithm>

namespace facet::app {

void KeySettings::declare_keys(Options& o) {
  o.add("text-key", &text_key, "key of text rows").metavar("KEY").alias({"text-feature", "dataset-text-field"});
  o.add("prompt-key", &prompt_key, "key of prompts").metavar("KEY").alias({"prompt-feature"});
  o.add("completion-key", &completion_key, "key of completions").metavar("KEY").alias({"completion-feature"});
  o.add("messages-key", &messages_key, "key of conversations").metavar("KEY").alias({"chat-feature"});
  o.add("chosen-key", &chosen_key, "key of preferred completions").metavar("KEY");
  o.add("rejected-key", &rejected_key, "key of the others").metavar("KEY");
  o.add("answer-key", &answer_key, "key of expected answers, for verifiers; by default answer, else completion").metavar("KEY");
}

RowKeys KeySettings::keys() const {
  RowKeys k;
  k.text = text_key;
  k.prompt = prompt_key;
  k.completion = completion_key;
  k.messages = messages_key;
  k.chosen = chosen_key;
  k.rejected = rejected_key;
  k.answer = answer_key;
  return k;
}

Option& DataSettings::declare(Options& o) {
  o.section("data");
  Option& result = o.add("data", &data, "folder with train.jsonl, valid.jsonl, test.jsonl, or one .jsonl or .txt file")
      .metavar("DIR|FILE")
      .alias({"data-train", "train-file", "dataset-name", "dataset", "json-path"});
  o.add("valid", &valid, "validation file, where --data is a file").metavar("FILE").alias({"valid-file", "eval-file"});
  o.add("val-frac", &val_frac, "share of the rows kept for validation, where there is no such file").range(0, 0.99).alias({"val-split-fraction"});
  o.add("format", &format, "what the rows are; auto: told by their keys")
      .choices({"auto", "text", "completion", "chat", "preference", "prompt", "document"});
  o.add("max-len", &max_len, "positions per sequence; 0: what the model was made for, at most 512").range(0, 1 << 24).alias({"max-seq-length", "max-length", "max-seq-len", "seq-len"});
  o.add("too-long", &too_long, "what becomes of longer rows").choices({"drop", "truncate", "split"});
  o.add("truncate", &truncate, "cut the end of longer rows, which nothing does unasked: short for --too-long truncate");
  o.rule([this, &o] {
    return truncate && o.given("too-long") && too_long != "truncate" ? fmt::format("--truncate and --too-long {}: choose one", too_long) : std::string();
  });
  o.add("mask", &mask, "what does not count in the loss: the prompt, or none of it")
      .choices({"prompt", "none"})
      .bare("prompt")
      .alias({"mask-prompt", "completion-only-loss", "assistant-only-loss"});
  o.add("max-bad-rows", &max_bad_rows, "broken rows to leave out before giving up").range(0, 1e12);
  o.add("chat-template", &chat_template, "plain prompts and completions become user and model turns");
  o.add("merge-roles", &merge_roles, "join neighbouring messages of one role");
  o.add("safe", &safe, "turn tags inside contents are ordinary text");
  declare_keys(o);
  return result;
}

DataOptions DataSettings::options(uint64_t seed, int64_t context) const {
  if (max_len > context) fail(Kind::usage, "--max-len {}: the model was made for {} positions", max_len, context);
  DataOptions d;
  d.max_len = max_len > 0 ? max_len : std::min(default_max_len, context);
  d.too_long = truncate || too_long == "truncate" ? TooLong::truncate : too_long == "drop" ? TooLong::drop : TooLong::split;
  d.max_bad_rows = max_bad_rows;
  d.learn_prompt = mask == "none";
  d.chat_template = chat_template;
  d.merge_roles = merge_roles;
  d.safe = safe;
  if (format != "auto") d.format = task_named(format);
  d.keys = keys();
  d.val_frac = val_frac;
  d.seed = seed;
  return d;
}

Splits DataSettings::read(const Tokenizer& tokenizer, uint64_t seed, int64_t context) const {
  DataOptions d = options(seed, context);
  if (valid.empty()) return read_splits(data, tokenizer, d);
  d.val_frac = 0;
  Splits s = read_splits(data, tokenizer, d);
  s.valid = read_dataset(valid, tokenizer, d);
  return s;
}

}  // namespace facet::app
