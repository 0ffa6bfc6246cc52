// Data the project makes for itself: nothing has to be fetched to try things.
#include <filesystem>

#include "app/command.h"
#include "data/dialogues.h"
#include "data/prose.h"
#include "data/radicals.h"
#include "tensor/error.h"
#include "tensor/io/durable.h"

namespace facet::app {
namespace {

struct Settings : Common {
  std::string kind, out, demos = "lazy", split = "multiset";
  std::optional<int64_t> n;
  int64_t valid = 300, test = 300;
  Values primes{"2", "3", "5", "7", "11", "13"};
  int64_t min_factors = 2, max_factors = 8;
  void declare(Options& o) {
    o.add("kind", &kind, "radicals: simplify square roots; dialogues: short conversations; prose: one text")
        .choices({"radicals", "dialogues", "prose"})
        .positional()
        .required();
    o.add("out", &out, "folder to write into; by default data/KIND").metavar("DIR").positional();
    o.add("n", &n, "training rows: 20000 radicals, 200 dialogues; bytes of prose: 300000").letter('n').range(1, 1e8).metavar("N");
    o.section("radicals");
    o.add("valid", &valid, "validation rows").range(0, 1e6);
    o.add("test", &test, "test rows").range(0, 1e6);
    o.add("primes", &primes, "factors to choose from").metavar("P,P");
    o.add("min-factors", &min_factors, "fewest factors under the root").range(1, 12);
    o.add("max-factors", &max_factors, "most factors under the root").range(1, 12);
    o.add("demos", &demos, "lazy: most demonstrations leave a pair inside; clean: all are simplified").choices({"lazy", "clean"});
    o.add("split", &split, "what is tested: unseen multisets of factors, or the greatest number of factors").choices({"multiset", "length"});
    o.rule([this, &o]() -> std::string {
      if (min_factors > max_factors) return "--min-factors is above --max-factors";
      if (kind != "radicals")
        for (const char* name : {"valid", "test", "primes", "min-factors", "max-factors", "demos", "split"})
          if (o.given(name)) return fmt::format("--{} is for radicals, not for {}", name, kind);
      return "";
    });
  }
};

std::vector<int> primes_of(const Settings& s) {
  std::vector<int> out;
  for (const std::string& text : s.primes) {
    const bool digits = !text.empty() && text.size() < 5 && text.find_first_not_of("0123456789") == std::string::npos;
    const int p = digits ? std::stoi(text) : 0;
    bool prime = p >= 2;
    for (int d = 2; d * d <= p; ++d) prime = prime && p % d != 0;
    if (!prime) fail(Kind::usage, "--primes: \"{}\" is no prime below 10000", text);
    out.push_back(p);
  }
  if (out.empty()) fail(Kind::usage, "--primes: none given");
  return out;
}

int run(Settings& s, Options&, Console& console) {
  const std::string folder = s.out.empty() ? "data/" + s.kind : s.out;
  const auto seed = static_cast<uint64_t>(s.seed);
  if (s.kind == "radicals") {
    RadicalsOptions r;
    r.train = s.n.value_or(r.train);
    r.valid = s.valid;
    r.test = s.test;
    r.seed = seed;
    r.primes = primes_of(s);
    r.min_factors = static_cast<int>(s.min_factors);
    r.max_factors = static_cast<int>(s.max_factors);
    r.lazy = s.demos == "lazy" ? r.lazy : 0;
    r.by_length = s.split == "length";
    make_folders(folder);
    write_radicals(folder, r);
    console.note("{}: {} rows in train.jsonl, {} in valid.jsonl, {} in test.jsonl", folder, r.train, r.valid, r.test);
  } else if (s.kind == "dialogues") {
    make_folders(folder);
    write_dialogues(folder, seed, s.n.value_or(200));
    console.note("{}: dialogues.jsonl and dialogues_test.jsonl", folder);
  } else {
    const std::string text = make_prose(s.n.value_or(300'000), seed);
    make_folders(folder);
    write_file_atomically(folder + "/train.txt", text);
    console.note("{}: train.txt, {}", folder, human_bytes(text.size()));
  }
  return 0;
}

}  // namespace

Command data_make_command() {
  return command<Settings>("data make", "Make a dataset: radicals, dialogues or prose",
                           "The same options give the same bytes on every machine.\n\n"
                           "  facet data make radicals --n 20000\n"
                           "  facet data make prose data/prose -n 1000000 --seed 7",
                           run);
}

}  // namespace facet::app
