// A new model: random weights of a preset's shape and a tokenizer learned from the user's text. Some of its weights may come from
// another model.
#include <algorithm>

#include "app/command.h"
#include "app/data_settings.h"
#include "app/model_folder.h"
#include "data/dataset.h"
#include "data/make_tokenizer.h"
#include "models/gemma/weights.h"
#include "nn/module.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

struct Settings : Common, KeySettings {
  std::string preset_name = "tiny", tokenizer = "char", data, out;
  std::string from;
  Values restore{"*"};
  bool strict = false;
  std::map<std::string, std::string> overrides;
  void declare(Options& o) {
    o.add("out", &out, "folder to write").positional().required();
    o.add("preset", &preset_name, "size of the model").choices(preset_names());
    o.add("tokenizer", &tokenizer, "char (the characters of --data), char:ALPHABET, bpe:N, or a folder or file to take over");
    o.add("data", &data, "texts the tokenizer learns from: .txt, .jsonl or a folder");
    o.section("restore");
    o.add("restore-from", &from, "model folder or file whose weights replace random ones, where name and shape agree").metavar("PATH");
    o.add("restore", &restore, "which weights: patterns as of a shell, e.g. 'layers.[0-3].*'").metavar("PATTERN");
    o.add("strict", &strict, "exit 3, writing nothing, unless the whole file was used and every pattern's weights were found");
    o.rule([this] { return from.empty() && (strict || restore != Values{"*"}) ? "--restore and --strict need --restore-from" : ""; });
    o.section("");
    declare_keys(o);
    o.pass_through("model", overrides);
  }
};

Tokenizer make(const Settings& s) {
  const bool learned = s.tokenizer == "char" || s.tokenizer.rfind("char:", 0) == 0 || s.tokenizer.rfind("bpe:", 0) == 0;
  if (!learned) return Tokenizer::load(s.tokenizer);
  if (s.data.empty() && s.tokenizer.rfind("char:", 0) != 0)
    fail(Kind::usage, "--tokenizer {}: learns from texts; name them with --data", s.tokenizer);
  const auto texts = s.data.empty() ? std::vector<std::string>{} : read_texts(s.data, {.keys = s.keys()});
  return Tokenizer::from_bytes(make_tokenizer(s.tokenizer, texts), "the new tokenizer");
}

void list(const char* what, const std::vector<std::string>& names, Console& console) {
  const size_t shown = std::min<size_t>(names.size(), 3);
  console.note("{} {}{}{}{}", names.size(), what, names.empty() ? "" : ": ", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
               names.size() > shown ? ", ... (-v lists all)" : "");
  for (const std::string& name : names) console.detail("  {}", name);
}

void restore(const Settings& s, Gemma& model, Console& console) {
  const TensorFiles file = open_weights(s.from);
  const Restored r = restore_weights(file, model.config, named_values(model), s.restore);
  list("loaded", r.loaded, console);
  list("skipped (in the file, not used)", r.skipped, console);
  list("missing (asked for, not found)", r.missing, console);
  if (r.loaded.empty()) fail(Kind::file, "{}: no weight matches --restore {} with the shape this model has", s.from, fmt::join(s.restore, " "));
  if (s.strict && !(r.skipped.empty() && r.missing.empty()))
    fail(Kind::file, "{}: {} skipped, {} missing, and --strict allows neither; first: \"{}\". -v lists them", s.from, r.skipped.size(), r.missing.size(),
         r.missing.empty() ? r.skipped[0] : r.missing[0]);
}

int run(Settings& s, Options&, Console& console) {
  use_threads(s.threads, console);
  const Tokenizer tokenizer = make(s);
  GemmaConfig config = preset(s.preset_name);
  config.vocab = tokenizer.vocab_size();
  config.pad = tokenizer.specials().pad;
  config.eos = tokenizer.specials().eos;
  config.bos = tokenizer.specials().bos;
  config.stop = tokenizer.stop_ids();
  for (const auto& [key, value] : s.overrides) set_field(config, key, value);
  if (config.vocab < tokenizer.vocab_size())
    fail(Kind::usage, "model.vocab_size {}: the tokenizer has {} pieces", config.vocab, tokenizer.vocab_size());
  Gemma model(config, s.dtype == "bf16" ? DType::bf16 : DType::f32);
  model.init(key(static_cast<uint64_t>(s.seed)));
  if (!s.from.empty()) restore(s, model, console);
  save_model(s.out, model, tokenizer, false);
  console.note("{}: {}, {} parameters, {} pieces", s.out, s.preset_name, grouped(count_parameters(model)), grouped(tokenizer.vocab_size()));
  return 0;
}

}  // namespace

Command init_command() {
  return command<Settings>("init", "Make a new model with random weights and a tokenizer of its own",
                           "Writes a folder that transformers loads too.\n  facet init --preset tiny --tokenizer bpe:512 --data book.txt --out m\n"
                           "  facet init --tokenizer m --out deeper --set model.num_hidden_layers=8 --restore-from m --restore 'layers.[0-3].*' -v", run);
}

}  // namespace facet::app
