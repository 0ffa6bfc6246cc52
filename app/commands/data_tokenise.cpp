// Preparing tokens, so that runs over large data start at once.
#include <chrono>
#include <filesystem>

#include "app/command.h"
#include "app/data_settings.h"
#include "data/prepared.h"
#include "models/gemma/hf_config.h"
#include "tensor/io/durable.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

struct Settings : Common, DataSettings {
  std::string model;
  void declare(Options& o) {
    DataSettings::declare(o).positional().required();
    o.section("");
    o.add("model", &model, "whose tokenizer: a model folder or a tokenizer.model").metavar("DIR|FILE").alias({"tokenizer", "model-name-or-path"}).required();
  }
};

int run(Settings& s, Options&, Console& console) {
  const Tokenizer tokenizer = Tokenizer::load(s.model);
  // What a run would ask for: its model's context bounds the length.
  const bool folder = std::filesystem::exists(s.model + "/config.json");
  DataOptions o = folder ? s.options(0, read_hf_config(s.model).context) : s.options(0);
  o.use_prepared = false;
  std::vector<std::string> files = data_files(s.data);
  if (!s.valid.empty()) files.push_back(s.valid);
  for (const std::string& file : files) {
    const auto begin = std::chrono::steady_clock::now();
    const std::string key = prepared_key(file, tokenizer, o);  // of the file before it is read: what changes it meanwhile is noticed later
    std::string why_not;
    if (std::filesystem::exists(prepared_path(file)) && read_prepared(file, key, tokenizer.vocab_size(), why_not)) {
      console.note("{}: is up to date", prepared_path(file));
      continue;
    }
    const Dataset data = read_dataset(file, tokenizer, o);
    write_prepared(data, key);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    const auto tokens = static_cast<uint64_t>(stats(data).tokens);
    console.note("{}: {} tokens of {} sequences, {}, {:.1f} s\n{}", prepared_path(file), grouped(tokens), grouped(static_cast<uint64_t>(data.size())),
                 human_bytes(std::filesystem::file_size(prepared_path(file))), seconds.count(), data.report().summary());
  }
  return 0;
}

}  // namespace

Command data_tokenise_command() {
  Command c = command<Settings>("data tokenise", "Keep the tokens of a dataset in files beside it, for runs to start from",
                                "Writes FILE.tokens.bin. Whatever reads FILE with the same tokenizer and options then reads tokens; when the file, the tokenizer\n"
                                "or an option changes, or the tokens are damaged, they are not used, which is said.\n\n"
                                "  facet data tokenise data/book --model runs/book/final --max-len 256",
                                run);
  c.alias = "data tokenize";
  return c;
}

}  // namespace facet::app
