// Looking at data before training on them: what the rows become, token by token.
#include <nlohmann/json.hpp>

#include <string_view>
#include <unordered_set>

#include "app/command.h"
#include "app/data_settings.h"
#include "app/verifier_settings.h"
#include "data/loader.h"
#include "data/make_tokenizer.h"
#include "tensor/io/text.h"

namespace facet::app {
namespace {

struct Settings : Common {
  DataSettings data;
  std::string model;
  int64_t count = 3, first = 1;
  void declare(Options& o) {
    data.declare(o).positional().required();
    o.section("");
    o.add("model", &model, "whose tokenizer: a model folder or a tokenizer.model; without it, one token per character")
        .metavar("DIR|FILE")
        .alias({"tokenizer", "model-name-or-path"});
  }
};

struct StatsSettings : Settings {
  int64_t batch = 8;
  void declare(Options& o) {
    Settings::declare(o);
    o.add("batch", &batch, "rows of the batches whose padding is measured").range(1, 1 << 20);
  }
};

struct PreviewSettings : Settings {
  void declare(Options& o) {
    Settings::declare(o);
    o.add("count", &count, "how many examples").letter('n').range(1, 1e6);
    o.add("first", &first, "number of the first one").range(1, 1e12);
  }
};

struct CheckSettings : Settings, VerifierSettings {
  void declare(Options& o) {
    Settings::declare(o);
    declare_verifiers(o);
  }
};

Tokenizer tokenizer_of(const Settings& s, Console& console) {
  if (!s.model.empty()) return Tokenizer::load(s.model);
  console.note("no --model: counting one token per character");
  DataOptions all = s.data.options(static_cast<uint64_t>(s.seed));
  all.max_bad_rows = INT64_MAX;  // the rows are judged later
  return Tokenizer::from_bytes(make_tokenizer("char", read_texts(s.data.data, all)), "characters of the data");
}

Splits read(const Settings& s, const Tokenizer& tokenizer) { return s.data.read(tokenizer, static_cast<uint64_t>(s.seed)); }

template <class F>
void each_part(const Splits& s, F f) {
  const std::pair<const char*, const Dataset*> parts[] = {{"train", &s.train}, {"valid", &s.valid}, {"test", &s.test}};
  for (const auto& [name, part] : parts)
    if (part->size() > 0) f(name, *part);
}

// Shares of a batch's positions that are padding, over one epoch.
struct Waste {
  double plain, bucket, pack;
};
constexpr int64_t usual_bucket = 32;

Waste waste_of(const StatsSettings& s, const Dataset& d) {
  LoaderOptions o{.batch = s.batch, .seed = static_cast<uint64_t>(s.seed)};
  Waste w{};
  w.plain = Loader(d, o).padding();
  o.bucket = usual_bucket;
  w.bucket = Loader(d, o).padding();
  o.bucket = 1, o.pack = true, o.row_len = d.group() * s.data.options(o.seed).max_len;
  w.pack = Loader(d, o).padding();
  return w;
}

double percent(int64_t part, int64_t of) { return of > 0 ? 100 * static_cast<double>(part) / static_cast<double>(of) : 0; }

int run_stats(StatsSettings& s, Options&, Console& console) {
  const Tokenizer tokenizer = tokenizer_of(s, console);
  const Splits splits = read(s, tokenizer);
  nlohmann::ordered_json out;
  const auto n = [](int64_t v) { return grouped(static_cast<uint64_t>(v)); };
  if (!console.json())
    console.line("{:<6} {:<10} {:>9} {:>12} {:>12} {:>8} {:>7} {:>7} {:>7} {:>8}", "", "task", "examples", "tokens", "learned", "shortest",
                 "median", "95 %", "longest", "entropy");
  each_part(splits, [&](const char* name, const Dataset& d) {
    const DataStats t = stats(d);
    if (console.json()) {
      out[name] = {{"task", name_of(d.task())}, {"examples", t.examples}, {"tokens", t.tokens}, {"learned", t.supervised}, {"shortest", t.shortest},
                   {"median", t.median}, {"p95", t.p95}, {"longest", t.longest}, {"entropy", t.entropy}, {"rows", d.report().rows}};
      if (d.task() == Task::preference) out[name]["learned_of_rejected"] = t.rejected;
      return;
    }
    console.line("{:<6} {:<10} {:>9} {:>12} {:>12} {:>8} {:>7} {:>7} {:>7} {:>8}", name, name_of(d.task()), n(t.examples), n(t.tokens), n(t.supervised),
                 n(t.shortest), n(t.median), n(t.p95), n(t.longest),
                 t.supervised > 0 ? fmt::format("{:.3f}", t.entropy) : "-");
    if (d.task() == Task::preference)
      console.line("{:<6} pairs of two sequences; learned tokens: {:.1f} of chosen, {:.1f} of rejected on average", "",
                   static_cast<double>(t.supervised - t.rejected) / static_cast<double>(t.examples),
                   static_cast<double>(t.rejected) / static_cast<double>(t.examples));
  });
  // What of the rows is lost, and what of the work.
  each_part(splits, [&](const char* name, const Dataset& d) {
    const DataReport& r = d.report();
    const double left_out = percent(r.too_long + r.no_target, r.rows), cut = percent(r.truncated, r.rows);
    if (console.json()) {
      out[name].update({{"longest_row", r.longest}, {"left_out_percent", left_out}, {"truncated_percent", cut}});
    } else if (d.task() != Task::document) {
      console.line("{:<6} longest row {} positions (--max-len {}); {:.2f}% of the rows too long and left out, {:.2f}% truncated", name, n(r.longest),
                   s.data.options(0).max_len, left_out, cut);
    }
    if (d.task() == Task::prompt) return;
    const Waste w = waste_of(s, d);
    if (console.json())
      out[name]["padding_percent"] = {{"batch", s.batch}, {"plain", 100 * w.plain}, {"bucket", 100 * w.bucket}, {"pack", 100 * w.pack}};
    else
      console.line("{:<6} padding wastes {:.1f}% of batches of {}; with --bucket {}: {:.1f}%, with --pack: {:.1f}%", name, 100 * w.plain, s.batch, usual_bucket,
                   100 * w.bucket, 100 * w.pack);
  });
  if (console.json()) {
    console.line("{}", out.dump(2));
    return 0;
  }
  each_part(splits, [&](const char* name, const Dataset& d) { console.note("{}: {}", name, d.report().summary()); });
  console.detail("entropy: nats per learned token, the loss of a model that knows nothing but how often each token occurs");
  return 0;
}

int run_preview(PreviewSettings& s, Options&, Console& console) {
  const Tokenizer tokenizer = tokenizer_of(s, console);
  const Dataset data = read(s, tokenizer).train;
  const int64_t group = data.group(), examples = data.size() / group;
  if (s.first > examples) fail(Kind::usage, "--first {}: there are {} examples", s.first, grouped(static_cast<uint64_t>(examples)));
  const bool asked = data.task() == Task::prompt;
  const auto questions = asked ? questions_of(data, s.data.keys()) : std::vector<Question>();
  console.note("{}; {}", name_of(data.task()), asked ? "the model goes on where the text ends" : "learned parts stand in [[ ]]");
  for (int64_t i = s.first - 1; i < std::min(examples, s.first - 1 + s.count); ++i) {
    for (int64_t half = 0; half < group; ++half) console.line("{}\n", preview(data, tokenizer, i * group + half));
    if (asked && !questions[static_cast<size_t>(i)].expected.empty()) console.line("expected: {}\n", questions[static_cast<size_t>(i)].expected);
  }
  return 0;
}

int run_check(CheckSettings& s, Options& options, Console& console) {
  const Rewards rewards = s.rewards();
  if (rewards.size() > 0) s.data.format = "prompt";
  if (!options.given("max-bad-rows")) s.data.max_bad_rows = INT64_MAX;  // report them all, then fail
  const Tokenizer tokenizer = tokenizer_of(s, console);
  const Splits splits = read(s, tokenizer);
  int64_t bad = 0, left_out = 0, leaked = 0;
  std::unordered_set<std::string_view> seen;
  const auto key = [](const Dataset& d, int64_t i) {  // the ids of an example, both halves of a pair
    const Dataset::View first = d[i * d.group()], last = d[(i + 1) * d.group() - 1];
    const int32_t* end = last.ids.data() + last.ids.size();
    return std::string_view(reinterpret_cast<const char*>(first.ids.data()), static_cast<size_t>(end - first.ids.data()) * sizeof(int32_t));
  };
  each_part(splits, [&](const char* name, const Dataset& d) {
    const DataReport& r = d.report();
    bad += r.bad;
    left_out += r.too_long + r.no_target;
    int64_t repeated = 0, shared = 0;
    std::unordered_set<std::string_view> own;
    for (int64_t i = 0; i < d.size() / d.group(); ++i) {
      if (!own.insert(key(d, i)).second) ++repeated;
      else if (&d != &splits.train && seen.count(key(d, i))) ++shared;
    }
    if (&d == &splits.train) seen = std::move(own);
    leaked += shared;
    console.line("{}: {} ({}), {}", name, d.path(), name_of(d.task()), r.summary());
    if (repeated) console.line("{}: {} examples occur more than once", name, grouped(static_cast<uint64_t>(repeated)));
    if (shared) console.line("{}: {} examples are in the training part, too", name, grouped(static_cast<uint64_t>(shared)));
  });
  if (rewards.size() > 0)
    each_part(splits, [&](const char*, const Dataset& d) { rewards.check(questions_of(d, s.data.keys())); });
  if (bad) fail(Kind::data, "{}: {} broken row{}", s.data.data, bad, bad == 1 ? "" : "s");
  console.line("{}", left_out || leaked ? "usable, see above" : "all good");
  return 0;
}

}  // namespace

Command data_stats_command() {
  return command<StatsSettings>("data stats", "Count examples and tokens of a dataset, and what truncation and padding waste",
                                "  facet data stats data/radicals --model runs/radicals/sft/final", run_stats);
}

Command data_preview_command() {
  return command<PreviewSettings>("data preview", "Show what rows become: text, first ids, and the learned parts",
                                  "  facet data preview data/radicals -n 5 --model runs/radicals/sft/final", run_preview);
}

Command data_check_command() {
  return command<CheckSettings>("data check", "Read a dataset as training would and report broken, long, repeated and leaked rows",
                           "Exit code 4 when a row is broken.\n\n  facet data check data/chat.jsonl --model gemma-3-270m-it --max-len 2048\n"
                           "  facet data check problems.jsonl --prompt-key question --verifier numeric", run_check);
}

}  // namespace facet::app
